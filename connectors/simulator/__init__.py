"""Devices that are not there: a source of synthetic signals, and a fleet that publishes over MQTT (`connectors.simulator.fleet`).

python -m connectors.simulator --help
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from connectors.conditions import Condition, check
from connectors.options import durations
from connectors.simulator.faults import Fault
from connectors.simulator.faults import check as check_faults
from connectors.simulator.signal import Signal
from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.units import duration_ns

S = TypeVar("S", bound=Schema)


@dataclass(frozen=True)
class SignalSource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.simulator.reader:SignalReader"

    schema: type[S]
    stream: str
    devices: int
    every: str
    speed: float
    seed: int
    ticks: int | None
    signals: tuple[tuple[str, Signal], ...] = ()  # by bare name of the column
    faults: tuple[Fault, ...] = ()
    silence: str = "2s"
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"simulated": f"{self.devices} devices every {self.every}", "speed": f"{self.speed:g}"}


def source(
    schema: type[S],
    *,
    devices: int = 3,
    every: str = "1s",
    speed: float = 1.0,
    seed: int = 0,
    ticks: int | None = None,
    stream: str | None = None,
    signals: Mapping[Expr[Any], Signal] | None = None,
    faults: Sequence[Fault] = (),
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> SignalSource[S]:
    """Signals in every column of `schema`, from `devices` devices called 'device-1' …, each `every` so often.

    Time begins now and runs at `speed`; it ends after `ticks` readings of each device, if given. The same `seed` gives the same
    values and the same faults.
    `signals`: how columns move, `{Press.force: signal.cycle(level=40, swing=35, period="20s")}`; others are waves with noise, of
    60 readings. `faults`: what goes wrong, `[faults.spike(Press.force, size=500), faults.gap(lasts="5m", backfill=True)]`.
    `conditions`: what is reported of the readings. `stale`: a device that says nothing for so long is marked as stale.
    """
    try:
        wrong = devices < 1 or speed <= 0 or duration_ns(every) < 1
    except ConfigError as e:
        raise PlanError(f"simulator every: {e}") from e
    if wrong:
        raise PlanError(f"simulator devices={devices}, every={every!r}, speed={speed}: each must be more than 0")
    name = stream or named_after(schema.__name__)
    durations("simulator", stale=stale)
    asked = check("simulator", schema, conditions)
    columns = {f.qualified: f.name for f in schema.sent().fields}
    if unknown := {e.qualified for e in signals or ()} - columns.keys():
        raise PlanError(
            f"simulator signals={{{', '.join(sorted(unknown))}: …}}: devices of {schema.__name__} send {', '.join(columns)}"
        )
    moves = tuple((columns[e.qualified], signal) for e, signal in (signals or {}).items())
    wrongs = check_faults(schema, faults)
    return SignalSource(schema, name, devices, every, speed, seed, ticks, moves, wrongs, conditions=asked, stale=stale)
