"""Devices that are not there: a source of synthetic signals, and a fleet that publishes over MQTT (`connectors.simulator.fleet`).

python -m connectors.simulator --help
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from connectors.conditions import Condition, check
from connectors.options import durations
from pipelines.errors import ConfigError, PlanError
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
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> SignalSource[S]:
    """Waves with noise in every column of `schema`, from `devices` devices called 'device-1' …, each `every` so often.

    Time begins now and runs at `speed`; it ends after `ticks` readings of each device, if given. The same `seed` gives the same
    values.
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
    return SignalSource(schema, name, devices, every, speed, seed, ticks, conditions=asked, stale=stale)
