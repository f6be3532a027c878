"""Readings that devices publish over MQTT 5 or 3.1.1. A description only: `collect` reads it (`connectors.mqtt.reader`).

A payload is a JSON object whose fields are the schema's columns (others are ignored), or just a number if the schema has one
column; other payloads are named by `payload=`, and Sparkplug B has a function of its own. Nothing is lost: QoS 1, a persistent
session, and a message is acknowledged after Kafka has it. For that the MQTT broker must keep what it is owed: Mosquitto needs
`persistence true` and `max_queued_messages 0` (by default it drops all above 1000).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from connectors import formats
from connectors.base import TimeUnit
from connectors.columns import Layout
from connectors.conditions import Condition, check
from connectors.mqtt.connection import Connection, Version
from connectors.mqtt.pattern import COLUMN, PLACEHOLDER, TopicPattern
from connectors.mqtt.spb import SparkplugSource, sparkplug
from connectors.options import durations, named
from connectors.secrets import Secret
from connectors.shape import Shape
from pipelines.errors import PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after

__all__ = ["MqttSource", "SparkplugSource", "TopicPattern", "source", "sparkplug"]
S = TypeVar("S", bound=Schema)


@dataclass(frozen=True, kw_only=True)
class MqttSource(Connection, Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.mqtt.reader:MqttReader"

    schema: type[S]
    stream: str
    topic: str
    key: str | None
    time: str | None
    time_unit: TimeUnit
    speed: float
    future_max: str
    silence: str
    devices: frozenset[str]
    payload: str
    fields: tuple[tuple[str, str], ...]
    rows: str | None
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    @cached_property
    def pattern(self) -> TopicPattern:
        """What is subscribed to."""
        template = self.key if self.key and PLACEHOLDER.search(self.key) else None
        in_payload = self.key is not None and template is None
        return TopicPattern.of(self.topic, self.schema.measured().key, in_payload=in_payload, template=template)

    @cached_property
    def key_field(self) -> str | None:
        """The payload's field that holds the key; None if it stands in the topic."""
        return None if self.pattern.key_levels else self.key or self.schema.measured().key

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        told = {"mqtt": f"{self.broker}/{self.topic}"}
        told |= {} if self.payload == "json" else {"payload": self.payload}
        told |= {} if self.share is None else {"share": self.share}
        return told | ({} if self.speed == 1 else {"speed": f"{self.speed:g}"})


def source(
    schema: type[S],
    *,
    broker: str,
    topic: str,
    stream: str | None = None,
    key: str | None = None,
    time: str | None = "time",
    time_unit: TimeUnit = "iso",
    speed: float = 1.0,
    future_max: str = "1m",
    silence: str = "2s",
    devices: Collection[str] = (),
    username: str | None = None,
    password: Secret | None = None,
    ca: Secret | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
    payload: str = "json",
    fields: Mapping[Any, str] | None = None,
    rows: str | None = None,
    share: str | None = None,
    version: Version = "auto",
    certificate: Secret | None = None,
    private_key: Secret | None = None,
) -> MqttSource[S]:
    """Readings of `schema` from an MQTT broker.

    `broker`: 'mqtt://host[:1883]' or, with TLS, 'mqtts://host[:8883]'; `ca` is a secret with the CA's certificates (PEM), else
    the system's are trusted. `username`, and `password=secret("name")`; or `certificate` and `private_key`, secrets in PEM.
    `topic`: its level `{device}`, or its only `+`, is the key (`device` being the schema's Key); other `+` are ignored. Several
    names, as in `plant/{line}/{device}/temp`, make a key such as 'l1/press-1', or what a template says: `key="{line}-{device}"`.
    A level `{column}` names the column that a message holds. With no wildcard, or if `key` names a field, the key is that field
    of the payload (by default the one called as the schema's Key).
    `time`: the payload's field with the time; where it is absent the time of arrival counts. `time_unit`: 'iso' is ISO 8601 text
    with a zone; 's', 'ms', 'us', 'ns' are numbers since 1970. Times before 1980, or later than now by more than `future_max`, are
    refused.
    `speed`: how fast the devices' clocks run; for recordings. `silence`: the longest that a healthy fleet says nothing; after it
    the watermark goes on with the clock, so that windows close. Give at least the interval at which devices publish if each
    message carries old readings. `devices`: if given, any other key is refused.
    `conditions`: what is reported of the readings (`connectors.conditions`). `stale`: a device that says nothing for so long
    while the link is up is marked as stale.
    `payload`: 'json', 'cbor', 'msgpack', 'number' (text), 'csv:time,rms' with the names of the fields of a line, or the numpy
    type of binary numbers, such as '>f4'. `fields`: where columns stand that do not stand under their own names, as paths:
    `{Vibration.rms: "data.vib.rms"}`; `rows`: the list of readings in a payload: "readings[*]" (see `connectors.shape`).
    `share`: collectors with the same name split the messages. `version`: of MQTT; 'auto' is 5, or 3.1.1 if the broker refuses.
    `stream`: last part of the Kafka topic's name; by default the schema's name, kebab-case.
    Types are strict: a float column takes any JSON number, an int column takes 3 but not 3.0, a bool column true and false.
    """
    if speed < 0 or time_unit not in ("iso", "s", "ms", "us", "ns"):
        raise PlanError(
            f"mqtt speed={speed}, time_unit={time_unit!r}: speed is at least 0; time_unit is iso, s, ms, us or ns"
        )
    durations("mqtt", future_max=future_max, silence=silence, stale=stale)
    made = MqttSource(
        schema=schema, stream=stream or named_after(schema.__name__), broker=broker, topic=topic, key=key, time=time,
        time_unit=time_unit, speed=speed, future_max=future_max, silence=silence, devices=frozenset(devices), username=username,
        password=password, ca=ca, certificate=certificate, private_key=private_key, version=version, share=share, payload=payload,
        fields=named("mqtt", schema, fields), rows=rows, conditions=check("mqtt", schema, conditions), stale=stale,
    )  # fmt: skip
    made.check()
    _check_payload(made)
    return made


def _check_payload(made: MqttSource[Any]) -> None:
    """A wrong topic, payload or path is found where it is written."""
    formats.check("mqtt", made.payload)
    nested = made.payload in ("json", "cbor", "msgpack")
    if made.rows is not None and not (nested and made.rows.endswith("[*]")):
        raise PlanError(f"mqtt rows={made.rows!r}: write 'readings[*]', for a payload of json, cbor or msgpack")
    columns = made.schema.sent().fields
    if made.pattern.column_level is not None:
        without = [n for n, c in made.schema.columns().items() if getattr(c, "absent", 0) is None]
        if without and len(columns) > 1:
            raise PlanError(
                f"mqtt topic {made.topic!r}: a message holds one {{{COLUMN}}}, so each needs a value where it is absent: "
                f"write {without[0]} = Col[float](…, absent=float('nan'))"
            )
    elif made.payload == "number" and len(columns) != 1:
        raise PlanError(
            f"mqtt payload='number': {made.schema.__name__} has {len(columns)} columns, and a message one number"
        )
    if made.key_field is not None and not nested and not made.payload.startswith(formats.CSV):
        raise PlanError(f"mqtt payload={made.payload!r} holds no key: write {{{made.key_field}}} in the topic")
    if made.payload.startswith(formats.CSV):
        formats.format_of(made.payload, Layout.of(made.schema), key=made.key_field, time=made.time, time_unit=made.time_unit,
                          paths=dict(made.fields), rows=None)  # fmt: skip
    if nested and made.pattern.column_level is None:
        extra = [n for n in (made.key_field, made.time) if n is not None]
        paths = {name: name for name in (*(f.name for f in columns), *extra)} | dict(made.fields)
        Shape(paths, made.rows).check()
