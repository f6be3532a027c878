"""Readings that other programs write to a topic of the site's broker, one JSON object in a message. A description only.

`process` reads the topic itself and decodes thousands of messages at once, so nothing is copied and results are exactly once
from there on. `collect` has nothing to do with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from connectors.base import TimeUnit
from pipelines.errors import ConfigError, PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.units import duration_ns

S = TypeVar("S", bound=Schema)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class KafkaSource(Generic[S]):
    """See `source`."""

    decoder: ClassVar[str] = "connectors.kafka.codec:Codec"

    schema: type[S]
    stream: str
    topic: str
    key: str
    time: str | None
    time_unit: TimeUnit
    disorder: int  # ns
    future_max: int  # ns

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"kafka": self.topic}


def source(
    schema: type[S],
    *,
    topic: str,
    stream: str | None = None,
    key: str | None = None,
    time: str | None = "time",
    time_unit: TimeUnit = "iso",
    disorder: str = "0s",
    future_max: str = "1m",
) -> KafkaSource[S]:
    """Readings of `schema` from a topic that other programs write.

    `topic`: its whole name. It must have as many partitions as the site, and all messages of a device must be in one,
    as they are if the device is their record key: windows are computed by partition.
    `key`: the field of the payload that holds the key; by default the one called as the schema's Key.
    `time`: the field with the time; where it is absent the time of the record counts. `time_unit`: 'iso' is ISO 8601 text with a
    zone; 's', 'ms', 'us', 'ns' are numbers since 1970. Times before 1980, or later than the record by more than `future_max`,
    are refused: such readings are dead letters.
    `disorder`: how far (event time) readings may be out of order and still be on time everywhere; the watermark of a partition
    lags behind its newest reading by so much. It moves with readings only: the last window of a partition that falls silent
    waits for the next reading in it.
    `stream`: name of the step; by default the schema's name, kebab-case.
    Types are strict: a float column takes any JSON number, an int column takes 3 but not 3.0, a bool column true and false.
    """
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise PlanError(f"kafka topic {topic!r}: write its whole name: letters, digits, '.', '_' and '-', at most 249")
    if time_unit not in ("iso", "s", "ms", "us", "ns"):
        raise PlanError(f"kafka time_unit={time_unit!r}: it is iso, s, ms, us or ns")
    found = {}
    for option, text in (("disorder", disorder), ("future_max", future_max)):
        try:
            found[option] = duration_ns(text)
        except ConfigError as e:
            raise PlanError(f"kafka {option}: {e}") from e
    name = stream or named_after(schema.__name__)
    return KafkaSource(schema, name, topic, key or schema.measured().key, time, time_unit, **found)
