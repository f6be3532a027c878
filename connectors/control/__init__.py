"""Commands to devices as a sink: `alarms.to(control.command(topic="press/{device}/cmd", …))`. Pure description.

Each row becomes one command; `connectors.control.service` carries it to the device over MQTT and keeps account of it.
A device hears JSON `{"id", "verb", "args", "expires_at_ns"}` on its command topic and answers with JSON
`{"id", "state", "detail"}` on the topic beside it whose last level is `ack`; `state` is ACCEPTED, EXECUTING, SUCCEEDED, FAILED,
REJECTED or EXPIRED. It must refuse what has expired and do what bears one id once: MQTT may deliver a message again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from connectors.options import login, secrets
from connectors.secrets import Secret
from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr
from pipelines.plan import Plan
from pipelines.schema import Row
from pipelines.units import duration_ns
from pipelines.urls import BROKER_CURE, broker_of, masked

ACK_LEVEL = "ack"
DESIRED_LEVEL, REPORTED_LEVEL = "desired", "reported"  # beside the command topic, for settings
_OWN_LEVELS = (ACK_LEVEL, DESIRED_LEVEL, REPORTED_LEVEL)
_VERB = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
Constant = str | int | float | bool


@dataclass(frozen=True)
class DeviceTopic:
    """An MQTT topic of which one whole level is the device: `press/{device}/cmd`."""

    text: str
    placeholder: str

    @classmethod
    def of(cls, text: str) -> DeviceTopic:
        """From the text; `PlanError` if it does not name the device once, in a level of its own before the last."""
        levels = text.split("/")
        named = [level for level in levels if _PLACEHOLDER.fullmatch(level)]
        clean = not any(c in level for level in levels if level not in named for c in "{}+#") and all(levels)
        if len(named) != 1 or levels[-1] in (named[0], *_OWN_LEVELS) or not clean or text.startswith("$"):
            raise PlanError(
                f"command topic {text!r}: write the device once, as a level of its own before the last, and no wildcards: "
                f"'press/{{device}}/cmd' (answers are read from the topic beside it, 'press/{{device}}/{ACK_LEVEL}')"
            )
        return cls(text, named[0])

    def at(self, device: str) -> str:
        """The command topic of a device."""
        return self.text.replace(self.placeholder, device)

    def ack_at(self, device: str) -> str:
        """The topic on which a device answers."""
        return self.beside(ACK_LEVEL, device)

    @property
    def ack_filter(self) -> str:
        """The MQTT subscription that hears the answers of all devices."""
        return self.beside(ACK_LEVEL, "+")

    def beside(self, level: str, device: str) -> str:
        """The topic of a device that has another last level."""
        return f"{self.text.rpartition('/')[0]}/{level}".replace(self.placeholder, device)


@dataclass(frozen=True, eq=False)
class CommandSink:
    """See `command`."""

    topic: DeviceTopic
    verb: str
    expires: str
    idempotent: bool
    attempts_max: int
    args: tuple[tuple[str, Constant | Expr[Constant]], ...]
    broker: str | None
    username: str | None
    password: Secret | None
    ca: Secret | None

    @property
    def kind(self) -> str:
        """See `Sink.kind`."""
        return "control"

    @property
    def expires_ns(self) -> int:
        """How long after a row's time its command may still be carried out."""
        return duration_ns(self.expires)

    def check(self, row: Row) -> None:
        """See `Sink.check`: the topic names the row's key, and every argument that is not a constant is one of its columns."""
        if self.topic.placeholder != f"{{{row.key}}}":
            raise PlanError(
                f"command topic {self.topic.text!r}: the key of {row.name} is {row.key!r}: write {{{row.key}}} for the device"
            )
        columns = {f.qualified for f in row.fields}
        for name, value in self.args:
            if isinstance(value, Expr) and value.qualified not in columns:
                raise PlanError(
                    f"command {self.verb!r}: {name}={value} is not a column of {row.name} "
                    f"(it has {', '.join(sorted(columns))}): "
                    f"add it to a schema and .select(…) that before .to(…)"
                )

    def describe(self) -> dict[str, str]:
        """See `Sink.describe`."""
        args = ", ".join(f"{name}={value}" for name, value in self.args)
        return {
            "topic": self.topic.text, "verb": self.verb, "args": args, "expires": self.expires,
            "idempotent": str(self.idempotent).lower(), **({"broker": self.broker} if self.broker else {}),
        }  # fmt: skip


def command(
    *,
    topic: str,
    verb: str,
    expires: str,
    idempotent: bool = False,
    attempts_max: int = 3,
    broker: str | None = None,
    username: str | None = None,
    password: Secret | None = None,
    ca: Secret | None = None,
    **args: Constant | Expr[Constant],
) -> CommandSink:
    """One command `verb` with `args` (constants, or columns of the row) to the row's device, for each row.

    `topic`: MQTT topic, the device a level of it: 'press/{device}/cmd'.
    `expires`: a command is refused when this much time has passed since the row's time (a window's end), or since the row was
    written if that is earlier: choose it longer than the window's lateness. What was missed is not made up for later.
    `idempotent=True` says that doing it twice does no harm. Only such a command is sent again, up to `attempts_max` times, where
    nobody knows whether the device got it; any other is then UNKNOWN until the device answers.
    `broker`, `username`, `password`, `ca`: as for `mqtt.source`, whose broker is the default; a site's option `mqtt` overrides.
    """
    if not _VERB.fullmatch(verb):
        raise PlanError(
            f"command verb {verb!r} cannot be used: write lower-case letters, digits and '_', such as 'set_speed'"
        )
    for name, value in args.items():
        if not isinstance(value, (Expr, str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
            raise PlanError(
                f"command {verb!r}: {name}={value!r} cannot be sent: give a number, a text, True, False or a column"
            )
    if not 1 <= attempts_max <= ATTEMPTS_MAX:
        raise PlanError(f"command {verb!r}: attempts_max={attempts_max} must be from 1 to {ATTEMPTS_MAX}")
    if broker is not None and broker_of(broker) is None:
        raise PlanError(f"command {verb!r} broker={masked(broker)!r}: {BROKER_CURE}")
    login(f"command {verb!r}", username, password)
    secrets(f"command {verb!r}", ca=ca)
    sink = CommandSink(
        DeviceTopic.of(topic),
        verb,
        expires,
        idempotent,
        attempts_max,
        tuple(args.items()),
        broker,
        username,
        password,
        ca,
    )
    try:
        positive = sink.expires_ns > 0
    except ConfigError as e:
        raise PlanError(f"command {verb!r}: expires: {e}") from e
    if not positive:
        raise PlanError(f"command {verb!r}: expires={expires!r} must be more than 0")
    return sink


ATTEMPTS_MAX = 10


def destination(plan: Plan, option: str | None) -> tuple[str, Any]:
    """URL of the MQTT broker to which commands go, and the description that says as whom to go there: the site's option
    `mqtt`, or else the sinks' broker, or else that of the pipeline's MQTT source. `ConfigError` if that is not one broker.
    """
    sinks = [sink for _, sink in plan.sinks_of("control")]
    sources = [s for s in plan.sources.values() if str(getattr(s, "broker", "")).startswith("mqtt")]
    named: list[Any] = [s for s in sinks if s.broker] or sources
    urls = [option] if option else sorted({s.broker for s in named})
    if len(urls) != 1:
        found = f"would go to {len(urls)} MQTT brokers ({', '.join(urls)})" if urls else "have no MQTT broker"
        raise ConfigError(
            f"commands of {plan.pipeline} {found}: "
            "write the same control.command(…, broker='mqtt://host') everywhere, or set the site option mqtt"
        )
    return urls[0], next(iter(named or sinks), None)


__all__ = ["CommandSink", "DeviceTopic", "command", "destination"]
