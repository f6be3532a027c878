"""Synthetic signals: a wave with noise for each device and column. Pure; the same seed gives the same values."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from pipelines.expr import Array
from pipelines.schema import TEXT

LEVEL, SWING, NOISE, PERIOD_TICKS = 10.0, 4.0, 0.5, 60


def wave(column: str, device: npt.NDArray[np.int32], tick: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Values of a column for (device, tick) pairs, shape `(rows,)`; each depends on nothing but its device, tick and the seed."""
    salt = zlib.crc32(f"{seed}/{column}".encode())
    phase = _noise(device.astype(np.uint64), salt) * 2 * np.pi
    jitter = _noise(device.astype(np.uint64) << np.uint64(40) | tick.astype(np.uint64), salt + 1) - 0.5
    values: npt.NDArray[np.float64] = (
        LEVEL + SWING * np.sin(2 * np.pi * tick / PERIOD_TICKS + phase) + 2 * NOISE * jitter
    )
    return values


def as_dtype(values: npt.NDArray[np.float64], dtype: str) -> Array:
    """The wave as a column of another type: true or 'high' above its level, or rounded."""
    if dtype == "bool":
        return values > LEVEL
    if dtype == TEXT:
        return np.where(values > LEVEL, np.array("high", TEXT), np.array("low", TEXT))
    return (np.round(values) if dtype == "int64" else values).astype(dtype)


def _noise(number: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), by the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (number + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).astype(np.float64) / 2.0**64
