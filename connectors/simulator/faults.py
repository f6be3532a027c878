"""What goes wrong with simulated devices. Pure: the same seed gives the same faults, whatever was read before.

Time is cut into stretches of `lasts`; each stretch of each device is hit with `chance`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from connectors.options import duration
from connectors.simulator.signal import noise
from pipelines.errors import PlanError
from pipelines.expr import Array, Expr
from pipelines.schema import Schema

Devices = npt.NDArray[np.int32]
Ticks = npt.NDArray[np.int64]
Kind = Literal["spike", "stuck", "drift", "dropout", "gap", "backfill", "skew"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong. Made by the functions of this module."""

    kind: Kind
    chance: float
    column: str = ""  # qualified name
    size: float = 0.0  # in the column's unit; of a clock, in seconds
    lasts_ns: int = 0  # 0: one reading

    def hits(self, device: Devices, tick: Ticks, every_ns: int, seed: int) -> tuple[Array, Ticks]:
        """Whether each (device, tick) is hit, and the first tick of its stretch; both of shape `(rows,)`."""
        length = self.ticks(every_ns)
        start = tick - tick % length
        salt = zlib.crc32(f"{seed}/{self.kind}/{self.column}".encode())
        number = device.astype(np.uint64) << np.uint64(40) | start.astype(np.uint64)
        return noise(number, salt) < self.chance, start

    def ticks(self, every_ns: int) -> int:
        """Readings of a stretch."""
        return max(1, round(self.lasts_ns / every_ns))


def spike(column: Expr[Any], *, size: float, chance: float = 0.001) -> Fault:
    """Single readings that are off by `size`, up or down."""
    return Fault("spike", _chance("spike", chance), column.qualified, _finite("spike", size))


def stuck(column: Expr[Any], *, chance: float = 0.01, lasts: str = "1m") -> Fault:
    """A value that stays the same for a while."""
    return Fault("stuck", _chance("stuck", chance), column.qualified, lasts_ns=duration("stuck", "lasts", lasts))


def drift(column: Expr[Any], *, size: float, chance: float = 0.01, lasts: str = "10m") -> Fault:
    """A value that creeps away by up to `size` and then is right again, as after a calibration."""
    lasts_ns = duration("drift", "lasts", lasts)
    return Fault("drift", _chance("drift", chance), column.qualified, _finite("drift", size), lasts_ns)


def dropout(*, chance: float = 0.01, lasts: str = "10s") -> Fault:
    """A sensor that gives nothing: readings of bad quality."""
    return Fault("dropout", _chance("dropout", chance), lasts_ns=duration("dropout", "lasts", lasts))


def gap(*, chance: float = 0.01, lasts: str = "1m", backfill: bool = False) -> Fault:
    """A device that is away. With `backfill` it has kept its readings and sends them all when it is back, oldest first."""
    kind: Kind = "backfill" if backfill else "gap"
    return Fault(kind, _chance(kind, chance), lasts_ns=duration(kind, "lasts", lasts))


def skew(*, seconds: float, share: float = 0.1) -> Fault:
    """This share of the devices has a clock that is so much ahead, or behind if it is below 0."""
    return Fault("skew", _chance("skew", share), size=_finite("skew", seconds))


def check(schema: type[Schema], faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """`PlanError` if a fault is of a column that cannot have it."""
    numbers = {f.qualified for f in schema.sent().fields if f.dtype.startswith(("float", "int"))}
    for n, fault in enumerate(faults):
        if not isinstance(fault, Fault):
            raise PlanError(
                f"simulator faults: {fault!r} is none; write faults.spike({schema.__name__}.…, size=…) or such"
            )
        if fault.column and fault.column not in numbers:
            raise PlanError(f"simulator faults: {fault.kind} of {fault.column}: {schema.__name__} has no such number")
        if any((f.kind, f.column) == (fault.kind, fault.column) for f in faults[:n]):
            raise PlanError(f"simulator faults: two of {fault.kind} {fault.column}".rstrip() + ": one is enough")
    return tuple(faults)


def _chance(kind: str, chance: float) -> float:
    if not 0 <= chance <= 1:
        raise PlanError(f"{kind}: {chance} is no probability: it is between 0 and 1")
    return chance


def _finite(kind: str, size: float) -> float:
    if not math.isfinite(size):
        raise PlanError(f"{kind}: {size} is given, a finite number is needed")
    return size
