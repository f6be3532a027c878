"""Readings that devices publish over MQTT 5 or 3.1.1. A description only: `collect` reads it (`connectors.mqtt.reader`).

A payload is a JSON object whose fields are the schema's columns (others are ignored), or just a number if the schema has one
column. Nothing is lost: QoS 1, a persistent session, and a message is acknowledged after Kafka has it. For that the MQTT broker
must keep what it is owed: Mosquitto needs `persistence true` and `max_queued_messages 0` (by default it drops all above 1000).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from connectors.base import TimeUnit
from connectors.conditions import Condition, check
from connectors.options import durations
from connectors.secrets import Secret
from pipelines.errors import PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after

S = TypeVar("S", bound=Schema)
PORTS = {"mqtt": 1883, "mqtts": 8883}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class TopicPattern:
    """A subscription filter, and which level of a topic (if any) is the key."""

    filter: str
    key_level: int | None

    @cached_property
    def _levels(self) -> tuple[str, ...]:
        return tuple(self.filter.split("/"))

    def matches(self, topic: str) -> bool:
        """Whether a topic is one of those subscribed to."""
        want, have = self._levels, topic.split("/")
        if want[-1] == "#":
            want, have = want[:-1], have[: len(want) - 1]
        return len(want) == len(have) and all(w in ("+", h) for w, h in zip(want, have, strict=True))

    def key(self, topic: str) -> str | None:
        """The key that stands in a topic; None if keys stand in payloads."""
        return None if self.key_level is None else topic.split("/")[self.key_level]

    @classmethod
    def of(cls, text: str, key: str, *, in_payload: bool) -> TopicPattern:
        """From 'press/{device}/vib'; `PlanError` if it is not clear which level is the key."""
        levels = text.split("/")
        for level in levels:
            if ("+" in level or "#" in level or "{" in level) and level not in ("+", "#", f"{{{key}}}"):
                names = _PLACEHOLDER.findall(level)
                cure = (
                    f"the key is called {{{key}}}, a level to be ignored is written +"
                    if names
                    else "a wildcard is a whole level"
                )
                raise PlanError(f"mqtt topic {text!r}: level {level!r} cannot be used: {cure}")
        if "#" in levels[:-1] or not all(levels[:1]) or text.startswith("$"):
            raise PlanError(f"mqtt topic {text!r}: # may only be the last level, and a topic may not begin with / or $")
        named = [i for i, level in enumerate(levels) if level == f"{{{key}}}"]
        plain = [i for i, level in enumerate(levels) if level == "+"]
        if len(named) > 1 or (not named and not in_payload and len(plain) > 1):
            raise PlanError(
                f"mqtt topic {text!r}: write {{{key}}} once, for the level that names the device, and + for the others"
            )
        where = None if in_payload else next(iter(named or plain), None)
        return cls("/".join("+" if i in named else level for i, level in enumerate(levels)), where)


@dataclass(frozen=True)
class MqttSource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.mqtt.reader:MqttReader"

    schema: type[S]
    stream: str
    broker: str
    topic: str
    key: str | None
    time: str | None
    time_unit: TimeUnit
    speed: float
    future_max: str
    silence: str
    devices: frozenset[str]
    username: str | None
    password: Secret | None
    ca: Secret | None
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    @cached_property
    def address(self) -> SplitResult:
        """The broker's URL in parts."""
        return urlsplit(self.broker)

    @cached_property
    def pattern(self) -> TopicPattern:
        """What is subscribed to."""
        return TopicPattern.of(self.topic, self.schema.measured().key, in_payload=self.key is not None)

    @cached_property
    def key_field(self) -> str | None:
        """The payload's field that holds the key; None if it stands in the topic."""
        return None if self.pattern.key_level is not None else self.key or self.schema.measured().key

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"mqtt": f"{self.broker}/{self.topic}"} | ({} if self.speed == 1 else {"speed": f"{self.speed:g}"})


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
) -> MqttSource[S]:
    """Readings of `schema` from an MQTT broker.

    `broker`: 'mqtt://host[:1883]' or, with TLS, 'mqtts://host[:8883]'; `ca` is a secret with the CA's certificates (PEM), else
    the system's are trusted. `username`, and `password=secret("name")`.
    `topic`: its level `{device}`, or its only `+`, is the key (`device` being the schema's Key); other `+` are ignored. With no
    wildcard, or if `key` names a field, the key is that field of the payload (by default the one called as the schema's Key).
    `time`: the payload's field with the time; where it is absent the time of arrival counts. `time_unit`: 'iso' is ISO 8601 text
    with a zone; 's', 'ms', 'us', 'ns' are numbers since 1970. Times before 1980, or later than now by more than `future_max`, are
    refused.
    `speed`: how fast the devices' clocks run; for recordings. `silence`: the longest that a healthy fleet says nothing; after it
    the watermark goes on with the clock, so that windows close. Give at least the interval at which devices publish if each
    message carries old readings. `devices`: if given, any other key is refused.
    `conditions`: what is reported of the readings (`connectors.conditions`). `stale`: a device that says nothing for so long
    while the link is up is marked as stale.
    `stream`: last part of the Kafka topic's name; by default the schema's name, kebab-case.
    Types are strict: a float column takes any JSON number, an int column takes 3 but not 3.0, a bool column true and false.
    """
    url = urlsplit(broker)
    if url.scheme not in PORTS or not url.hostname or url.path.strip("/") or url.username or url.password:
        raise PlanError(
            f"mqtt broker {_no_password(broker)!r}: "
            "write 'mqtt://host:1883' or 'mqtts://host:8883', and username= and password= apart"
        )
    if password is not None and (username is None or not isinstance(password, Secret)):
        raise PlanError('mqtt password: write username="…", password=secret("name of a file in secrets_dir")')
    if speed < 0 or time_unit not in ("iso", "s", "ms", "us", "ns"):
        raise PlanError(
            f"mqtt speed={speed}, time_unit={time_unit!r}: speed is at least 0; time_unit is iso, s, ms, us or ns"
        )
    durations("mqtt", future_max=future_max, silence=silence, stale=stale)
    name = stream or named_after(schema.__name__)
    made = MqttSource(
        schema, name, broker, topic, key, time, time_unit, speed, future_max, silence, frozenset(devices), username, password, ca,
        conditions=check("mqtt", schema, conditions), stale=stale,
    )  # fmt: skip
    _ = made.pattern  # a wrong topic is found where it is written
    return made


def _no_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//…@", url)
