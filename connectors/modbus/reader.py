"""Reads a Modbus source: a task for each connection polls into a bounded buffer, so that Kafka may be away for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.base import Context, Read, quality_column
from connectors.buffer import Buffer
from connectors.columns import Layout
from connectors.modbus import ModbusSource
from connectors.modbus.blocks import items
from connectors.modbus.device import Device, Plan, Sample, Timing
from connectors.modbus.line import Line
from connectors.modbus.values import Column, Values
from connectors.pollers import Pollers
from pipelines import metrics
from pipelines.batch import Batch
from pipelines.schema import quality_of
from pipelines.units import duration_s


class ModbusReader:
    """See `connectors.base.Reader`.

    What was read and not acknowledged is given again after `connect`, as long as the process lives. Devices do not keep readings:
    between device and process delivery is at most once.
    """

    def __init__(self, source: ModbusSource[Any], context: Context) -> None:
        self._labels = {"site": context.site, "stream": source.stream}
        self._quality = quality_column(source.schema)
        self._names = pa.array([name for name, _ in source.devices], pa.string())
        buffer: Buffer[Sample] = Buffer(context.site, source.stream, context.clock)
        self._pollers = Pollers(buffer, "the Modbus devices", "Modbus connections is up")
        given = [(name, register) for p in source.polls for name, register in p.registers]
        placed = items([register for _, register in given])
        self._values = Values(_columns(source, dict(zip((n for n, _ in given), placed, strict=True))))
        self._lines = self._made(source, _plan(source, placed, self._count), context)

    def _made(self, source: ModbusSource[Any], plan: Plan, context: Context) -> list[Line]:
        timeouts = dict(source.timeouts)
        behind: dict[Any, list[Device]] = {}
        for number, (name, address) in enumerate(source.devices):
            timeout_s = duration_s(timeouts.get(name, source.timeout))
            behind.setdefault(address.endpoint, []).append(Device(number, name, address, timeout_s, plan))
        missed = metrics.collect_missed.labels(**self._labels)
        return [
            Line(
                endpoint, devices, plan, context.clock, give=self._take, changed=self._pollers.changed.set, missed=missed.inc
            )
            for endpoint, devices in behind.items()
        ]  # fmt: skip

    async def connect(self) -> None:
        """See `Reader.connect`. One connection is enough; the others go on trying."""
        await self._pollers.connect(self._lines, [line.run() for line in self._lines])

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        samples, ack = await self._pollers.get(rows_max, linger_s)
        return Read(self._batch(samples), (), ack)

    async def close(self) -> None:
        """See `Reader.close`. What was read stays."""
        await self._pollers.close()

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        words, there = self._values.shape
        rows = len(samples)
        columns, quality = self._values.decode(
            np.array([s.words for s in samples], np.uint16).reshape(rows, words),
            np.array([s.there for s in samples], bool).reshape(rows, there),
        )
        codes = np.array([s.device for s in samples], np.int32)
        times = np.array([s.time for s in samples], np.int64)
        return Batch(self._names, codes, times, {**columns, self._quality: quality})

    def _take(self, sample: Sample) -> None:
        self._pollers.buffer.put(sample, nbytes=sample.words.nbytes + sample.there.nbytes + 200)

    def _count(self, reason: str) -> None:
        metrics.source_errors.labels(**self._labels, reason=reason).inc()


def _plan(source: ModbusSource[Any], placed: Sequence[Any], count: Any) -> Plan:
    polls, left = [], list(placed)
    for p in source.polls:
        polls.append(tuple(left[: len(p.registers)]))
        del left[: len(p.registers)]
    timings = tuple(Timing(*map(duration_s, (p.every, p.offset, p.jitter))) for p in source.polls)
    names = tuple(name for p in source.polls for name, _ in p.registers)
    return Plan(source.stream, tuple(polls), timings, names, source.fastest, source.gap_max, count)


def _columns(source: ModbusSource[Any], placed: dict[str, Any]) -> list[Column]:
    """Without a Quality column a row that lacks a value cannot say so: then only `absent` helps."""
    absent = Layout.of(source.schema).absent
    unknown = np.nan if quality_of(source.schema) is not None else None
    return [
        Column(f, placed[f.qualified], absent.get(f.name, unknown if f.dtype.startswith("float") else None))
        for f in source.schema.sent().fields
    ]
