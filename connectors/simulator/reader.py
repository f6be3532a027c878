"""Reads a simulated source."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.base import Context, EndOfInput, Read
from connectors.simulator import SignalSource
from connectors.simulator.signal import as_dtype, wave
from pipelines.batch import Batch
from pipelines.errors import NotConnected
from pipelines.units import duration_ns


class SignalReader:
    """See `connectors.base.Reader`. Ticks that were not acknowledged are given again after `connect`."""

    def __init__(self, source: SignalSource[Any], context: Context) -> None:
        self._source, self._clock = source, context.clock
        self._row = source.schema.sent()
        self._every_ns = duration_ns(source.every)
        self._names = pa.array([f"device-{i + 1}" for i in range(source.devices)])
        self._start_ns = self._clock.now_ns()
        self._given = self._acknowledged = 0  # ticks
        self._open = False

    async def connect(self) -> None:
        """See `Reader.connect`."""
        self._given, self._open = self._acknowledged, True

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`. At least one tick of all devices is given, whatever `rows_max`."""
        if not self._open:
            raise NotConnected("the simulator is not connected")
        if self._source.ticks is not None and self._given >= self._source.ticks:
            raise EndOfInput
        if self._due() <= self._given:
            await self._clock.sleep(min(linger_s, self._wait_s()))
        until = min(self._due(), self._given + max(1, rows_max // self._source.devices), self._source.ticks or 2**62)
        first, self._given = self._given, max(self._given, until)
        return Read(self._batch(first, self._given), (), partial(self._ack, self._given))

    async def _ack(self, given: int) -> None:
        self._acknowledged = max(self._acknowledged, given)

    async def close(self) -> None:
        """See `Reader.close`."""
        self._open = False

    def _due(self) -> int:
        """Ticks whose time has come."""
        return int((self._clock.now_ns() - self._start_ns) * self._source.speed) // self._every_ns + 1

    def _wait_s(self) -> float:
        next_ns = self._start_ns + int(self._given * self._every_ns / self._source.speed)
        return max(0.001, (next_ns - self._clock.now_ns()) / 1e9)

    def _batch(self, first: int, until: int) -> Batch:
        tick = np.repeat(np.arange(first, until, dtype=np.int64), self._source.devices)
        device = np.tile(np.arange(self._source.devices, dtype=np.int32), until - first)
        values = {
            f.qualified: as_dtype(wave(f.name, device, tick, self._source.seed), f.dtype) for f in self._row.fields
        }
        return Batch(self._names, device, self._start_ns + tick * self._every_ns, values)
