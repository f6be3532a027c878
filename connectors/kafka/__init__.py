"""Readings that other programs write to a topic of the site's broker, one in a message: JSON, Avro, Protobuf. Descriptions only.

`process` reads the topic itself and decodes thousands of messages at once, so nothing is copied and results are exactly once
from there on. `collect` has nothing to do with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from connectors.base import TimeUnit
from connectors.kafka.payload import Avro, Protobuf, Registry
from connectors.options import named
from connectors.shape import Shape
from pipelines.errors import ConfigError, PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.units import duration_ns

__all__ = ["Avro", "KafkaSource", "Payload", "Protobuf", "Registry", "source"]
S = TypeVar("S", bound=Schema)
Payload = Literal["json"] | Avro | Protobuf
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class KafkaSource(Generic[S]):
    """See `source`."""

    schema: type[S]
    stream: str
    topic: str
    key: str
    time: str | None
    time_unit: TimeUnit
    disorder: int  # ns
    future_max: int  # ns
    payload: Payload
    fields: tuple[tuple[str, str], ...]  # (bare name of a column, its path)

    @property
    def decoder(self) -> str:
        """'module:function' of what makes its decoder; an image has the extra that the module is called after."""
        if isinstance(self.payload, str):
            return "connectors.kafka.codec:decoder"
        return f"connectors.kafka.{type(self.payload).__name__.lower()}:decoder"

    @property
    def paths(self) -> dict[str, str]:
        """Where each column, the key and the time stand in a message, by name of the column or field."""
        fields = [*(f.name for f in self.schema.sent().fields), self.key, *([] if self.time is None else [self.time])]
        given = dict(self.fields)
        return {name: given.get(name, name) for name in fields}

    @property
    def framed(self) -> bool:
        """Whether messages begin with byte 0 and the id of their schema."""
        return not isinstance(self.payload, str) and self.payload.has_frame

    @property
    def registry(self) -> Registry | None:
        """The registry that `process` asks for schemas."""
        return None if isinstance(self.payload, str) else self.payload.registry

    @property
    def file(self) -> str | None:
        """The file beside the pipeline file that has the schema of messages."""
        return None if isinstance(self.payload, str) else self.payload.file

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"kafka": self.topic} | ({} if isinstance(self.payload, str) else self.payload.describe())


def source(
    schema: type[S],
    *,
    topic: str,
    payload: Payload = "json",
    fields: Mapping[Any, str] | None = None,
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
    `payload`: "json", `kafka.Avro(…)` or `kafka.Protobuf(…)`. `fields`: the paths of columns that do not stand under their own
    names, such as `{Meter.kwh: "reading.kwh"}`.
    `key`: the field, or path, of the payload that holds the key; by default the one called as the schema's Key.
    `time`: the field with the time; where it is absent the time of the record counts. `time_unit`: 'iso' is ISO 8601 text with a
    zone; 's', 'ms', 'us', 'ns' are numbers since 1970. A timestamp of Avro or Protobuf says its unit itself.
    Times before 1980, or later than the record by more than `future_max`, are refused: such readings are dead letters.
    `disorder`: how far (event time) readings may be out of order and still be on time everywhere; the watermark of a partition
    lags behind its newest reading by so much. It moves with readings only: the last window of a partition that falls silent
    waits for the next reading in it.
    `stream`: name of the step; by default the schema's name, kebab-case.
    Types are strict: a float column takes any number, an int column takes 3 but not 3.0, a bool column true and false, a text
    column texts and the names of enums. Of decimals a float column has the nearest number.
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
    if payload != "json" and not isinstance(payload, Avro | Protobuf):
        raise PlanError(f'kafka payload={payload!r}: write "json", kafka.Avro(…) or kafka.Protobuf(…)')
    name = stream or named_after(schema.__name__)
    made = KafkaSource(
        schema, name, topic, key or schema.measured().key, time, time_unit, **found,
        payload=payload, fields=named("kafka", schema, fields),
    )  # fmt: skip
    Shape(made.paths).check()
    return made
