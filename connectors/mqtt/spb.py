"""Readings of Sparkplug B edge nodes and their devices. A description only: `collect` reads it (`connectors.mqtt.reader`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from connectors.conditions import Condition, check
from connectors.mqtt.connection import Connection, Version
from connectors.mqtt.pattern import PLACEHOLDER, TopicPattern
from connectors.options import durations, named
from connectors.secrets import Secret
from pipelines.errors import PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after

S = TypeVar("S", bound=Schema)
BIRTH_BYTES_MAX = 4 * 2**20  # of a payload: a birth holds all metrics; more is refused
KEY = "{group}/{node}/{device}"


@dataclass(frozen=True, kw_only=True)
class SparkplugSource(Connection, Generic[S]):
    """See `sparkplug`."""

    reader: ClassVar[str] = "connectors.mqtt.reader:MqttReader"
    needs_births: ClassVar[bool] = True

    schema: type[S]
    stream: str
    group: str
    key: str
    fields: tuple[tuple[str, str], ...]
    speed: float = 1.0
    future_max: str = "1m"
    silence: str = "2s"
    devices: frozenset[str] = frozenset()
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    @cached_property
    def pattern(self) -> TopicPattern:
        """What is subscribed to."""
        return TopicPattern(f"spBv1.0/{self.group}/#")

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Column by name of its metric."""
        paths = dict(self.fields)
        return {paths.get(f.name, f.name): f.name for f in self.schema.sent().fields}

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"sparkplug": f"{self.broker}/{self.group}"}


def sparkplug(
    schema: type[S],
    *,
    broker: str,
    group: str = "+",
    stream: str | None = None,
    key: str = KEY,
    fields: Mapping[Any, str] | None = None,
    future_max: str = "1m",
    silence: str = "2s",
    devices: Collection[str] = (),
    username: str | None = None,
    password: Secret | None = None,
    ca: Secret | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
    version: Version = "auto",
    certificate: Secret | None = None,
    private_key: Secret | None = None,
) -> SparkplugSource[S]:
    """Readings of `schema` from the Sparkplug B edge nodes of `group` ('+': of all groups) and their devices.

    `fields`: metrics that are not called as their columns: `{Press.temp: "Motor/Temperature"}`. A message is a reading for each
    time that its metrics have; columns that it lacks keep their last values since birth, but in back-filled (historical)
    readings, where they are absent.
    `key`: made of {group}, {node} and {device}; the metrics of a node itself have no device, and their key ends before it.
    Quality, if the schema has such a column: BAD after a death, for null metrics and those whose property says so; UNCERTAIN
    from a lost message to the next birth. `collect` never asks a node for a rebirth; `control` does, if devices.toml allows it.
    Other options are as in `source`.
    """
    durations("mqtt", future_max=future_max, silence=silence, stale=stale)
    if not re.fullmatch(r"\+|[^/+#{}$]+", group):
        raise PlanError(f"sparkplug group={group!r}: the name of one group is needed, or '+' for all")
    if not PLACEHOLDER.search(key) or set(PLACEHOLDER.findall(key)) - {"group", "node", "device"}:
        raise PlanError(
            f"sparkplug key={key!r}: make it of {{group}}, {{node}} and {{device}}, such as '{{node}}/{{device}}'"
        )
    made = SparkplugSource(
        schema=schema, stream=stream or named_after(schema.__name__), broker=broker, group=group, key=key,
        fields=named("mqtt", schema, fields), future_max=future_max, silence=silence, devices=frozenset(devices),
        username=username, password=password, ca=ca, certificate=certificate, private_key=private_key, version=version,
        share=None, conditions=check("sparkplug", schema, conditions), stale=stale,
    )  # fmt: skip
    made.check()
    return made
