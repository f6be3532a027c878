"""Reads a simulated source."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.base import Context, EndOfInput, Read, quality_column
from connectors.simulator import SignalSource
from connectors.simulator.faults import Devices, Fault, Ticks
from connectors.simulator.signal import LEVEL, as_dtype, wave
from pipelines.batch import Batch
from pipelines.errors import NotConnected
from pipelines.expr import Array
from pipelines.quality import BAD, GOOD
from pipelines.schema import Field
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
        for fault in self._faults("gap", "backfill"):
            device, tick = self._away(fault, device, tick)
        time = self._start_ns + tick * self._every_ns
        for fault in self._faults("skew"):
            wrong, _ = fault.hits(device, np.zeros_like(tick), self._every_ns, self._source.seed)
            time = time + np.where(wrong, int(fault.size * 1e9), 0)
        values = {f.qualified: self._values(f, device, tick) for f in self._row.fields}
        for fault in self._faults("dropout"):
            bad, _ = fault.hits(device, tick, self._every_ns, self._source.seed)
            values[quality_column(self._source.schema)] = np.where(bad, np.int8(BAD), np.int8(GOOD))
        return Batch(self._names, device, time, values)

    def _faults(self, *kinds: str) -> list[Fault]:
        return [f for f in self._source.faults if f.kind in kinds]

    def _away(self, fault: Fault, device: Devices, tick: Ticks) -> tuple[Devices, Ticks]:
        """The readings that come: without those of devices that are away, and with what they had kept once they are back."""
        every_ns, seed, length = self._every_ns, self._source.seed, fault.ticks(self._every_ns)
        away, _ = fault.hits(device, tick, every_ns, seed)
        come = ~away
        if fault.kind == "gap":
            return device[come], tick[come]
        before, _ = fault.hits(device, tick - length, every_ns, seed)
        back = np.flatnonzero((tick % length == 0) & (tick > 0) & before)
        when = np.concatenate([tick[come], np.repeat(tick[back], length)])
        kept = np.repeat(tick[back] - length, length) + np.tile(np.arange(length), len(back))
        tick, device = (
            np.concatenate([tick[come], kept]),
            np.concatenate([device[come], np.repeat(device[back], length)]),
        )
        order = np.lexsort((tick, device, when))
        return device[order], tick[order]

    def _values(self, field: Field, device: Devices, tick: Ticks) -> Array:
        faults = [f for f in self._source.faults if f.column == field.qualified]
        at = tick
        for fault in (f for f in faults if f.kind == "stuck"):
            hit, start = fault.hits(device, tick, self._every_ns, self._source.seed)
            at = np.where(hit, start, tick)
        values, level = self._signal(field.name, device, at)
        for fault in (f for f in faults if f.kind != "stuck"):
            hit, start = fault.hits(device, tick, self._every_ns, self._source.seed)
            if fault.kind == "drift":
                off = fault.size * (tick - start) / fault.ticks(self._every_ns)
            else:
                off = np.where((tick + device) % 2, fault.size, -fault.size)
            values = values + np.where(hit, off, 0.0)
        return as_dtype(values, field.dtype, level)

    def _signal(self, name: str, device: Devices, tick: Ticks) -> tuple[Array, float]:
        signal = dict(self._source.signals).get(name)
        if signal is None:
            return wave(name, device, tick, self._source.seed), LEVEL
        return signal.values(name, device, tick, self._every_ns, self._source.seed), signal.level
