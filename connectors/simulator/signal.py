"""Synthetic signals: a wave with noise for each device and column. Pure; the same seed gives the same values."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from connectors.options import duration
from pipelines.expr import Array
from pipelines.schema import TEXT

LEVEL, SWING, NOISE, PERIOD_TICKS = 10.0, 4.0, 0.5, 60


def wave(column: str, device: npt.NDArray[np.int32], tick: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Values of a column for (device, tick) pairs, shape `(rows,)`; each depends on nothing but its device, tick and the seed."""
    salt = zlib.crc32(f"{seed}/{column}".encode())
    phase = noise(device.astype(np.uint64), salt) * 2 * np.pi
    jitter = noise(device.astype(np.uint64) << np.uint64(40) | tick.astype(np.uint64), salt + 1) - 0.5
    values: npt.NDArray[np.float64] = (
        LEVEL + SWING * np.sin(2 * np.pi * tick / PERIOD_TICKS + phase) + 2 * NOISE * jitter
    )
    return values


@dataclass(frozen=True, slots=True)
class Signal:
    """How a column moves. Made by `sine`, `wander` and `cycle`."""

    kind: Literal["sine", "wander", "cycle"]
    level: float
    swing: float
    period_ns: int
    noise: float

    def values(
        self, column: str, device: npt.NDArray[np.int32], tick: npt.NDArray[np.int64], every_ns: int, seed: int
    ) -> npt.NDArray[np.float64]:
        """Values for (device, tick) pairs, shape `(rows,)`."""
        salt = zlib.crc32(f"{seed}/{column}".encode())
        number = device.astype(np.uint64)
        turn = tick * (every_ns / self.period_ns) + noise(
            number, salt
        )  # periods since some beginning of the device's own
        jitter = noise(number << np.uint64(40) | tick.astype(np.uint64), salt + 1) - 0.5
        return self.level + self.swing * _SHAPES[self.kind](turn, number, salt + 2) + 2 * self.noise * jitter


def sine(*, level: float = LEVEL, swing: float = SWING, period: str = "1m", noise: float = NOISE) -> Signal:
    """Up and down: the load of a press, the tide. `swing`: half of the way from bottom to top; `noise`: at most, up or down."""
    return Signal("sine", level, swing, duration("sine", "period", period), noise)


def wander(*, level: float = LEVEL, swing: float = SWING, period: str = "1h", noise: float = 0.0) -> Signal:
    """Smooth and without a pattern: temperatures, levels. Most of its turns take about `period`, and it has finer ones."""
    return Signal("wander", level, swing, duration("wander", "period", period), noise)


def cycle(*, level: float = LEVEL, swing: float = SWING, period: str = "5m", noise: float = NOISE) -> Signal:
    """A machine that runs and pauses: up for a part of each `period`, and then down."""
    return Signal("cycle", level, swing, duration("cycle", "period", period), noise)


def _cycle(turn: npt.NDArray[np.float64], number: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.float64]:
    whole = np.floor(turn)
    share = 0.4 + 0.4 * noise(number << np.uint64(40) | whole.astype(np.uint64), salt)
    return np.where(turn - whole < share, 1.0, -1.0)


def _wander(turn: npt.NDArray[np.float64], number: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.float64]:
    """Value noise: random numbers, smoothly joined, in four octaves."""
    total = np.zeros(len(turn))
    for octave in range(4):
        at = turn * 2**octave
        whole = np.floor(at)
        left, right = (
            noise(number << np.uint64(40) | (whole + side).astype(np.uint64), salt + octave) for side in (0, 1)
        )
        x = at - whole
        total += (left + (right - left) * x * x * (3 - 2 * x) - 0.5) / 2**octave
    return total * 2 / 1.875  # within −1 … 1


_SHAPES: dict[str, Callable[..., npt.NDArray[np.float64]]] = {
    "sine": lambda turn, number, salt: np.sin(2 * np.pi * turn),
    "wander": _wander,
    "cycle": _cycle,
}


def as_dtype(values: npt.NDArray[np.float64], dtype: str, level: float = LEVEL) -> Array:
    """Values as a column of another type: true or 'high' above the level, or rounded."""
    if dtype == "bool":
        return values > level
    if dtype == TEXT:
        return np.where(values > level, np.array("high", TEXT), np.array("low", TEXT))
    return (np.round(values) if dtype == "int64" else values).astype(dtype)


def noise(number: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.float64]:
    """Numbers that look random, uniform in [0, 1), by the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (number + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).astype(np.float64) / 2.0**64
