"""Reads a replay source: hands rows out when their time has come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from connectors.base import Context, EndOfInput, Read
from connectors.replay import ReplaySource
from connectors.replay.files import Block, blocks
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.errors import NotConnected
from pipelines.expr import Array


class Pace:
    """Which rows are due: the first reading at once, each other one when `speed` times the time between them has passed."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._start: tuple[int, float] | None = None  # (event time ns, clock s) of the first reading

    def due(self, time: Array, now_s: float) -> int:
        """How many rows from the front are due; a row that is out of order is due with the one before it."""
        if self._speed == 0 or not len(time):
            return len(time)
        if self._start is None:
            self._start = int(time[0]), now_s
        reached = self._start[0] + int((now_s - self._start[1]) * self._speed * 1e9)
        return int(np.searchsorted(np.maximum.accumulate(time), reached, side="right"))

    def wait_s(self, time: Array, now_s: float) -> float:
        """Seconds until the first row is due."""
        if self._start is None or not len(time):
            return 0.0
        return max(0.0, (int(time[0]) - self._start[0]) / 1e9 / self._speed - (now_s - self._start[1]))


class ReplayReader:
    """See `connectors.base.Reader`. What was not acknowledged is read again after `connect`."""

    def __init__(self, source: ReplaySource[Any], context: Context) -> None:
        self._source, self._clock = source, context.clock
        self._pace = Pace(source.speed)
        self._blocks: Iterator[Block] | None = None
        self._here: Batch | None = None  # rows of the present block that were not handed out
        self._rejects: deque[DeadLetter] = deque()
        self._read = self._acknowledged = 0  # rows handed out and rows acknowledged, dead letters counted as rows

    async def connect(self) -> None:
        """See `Reader.connect`; `ConfigError` if there is no file, or one lacks a column."""
        self._blocks, self._here = blocks(self._source.path, self._source.form), None
        self._rejects.clear()
        self._read = 0
        await self._load()
        while self._read < self._acknowledged:
            self._take(self._acknowledged - self._read, due=self._acknowledged)
            await self._load()

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if self._blocks is None:
            raise NotConnected("the replay is not open")
        await self._load()
        if self._here is None:
            raise EndOfInput
        now_s = self._clock.monotonic_s()
        if not self._rejects and not self._pace.due(self._here.time, now_s):
            await self._clock.sleep(min(linger_s, self._pace.wait_s(self._here.time, now_s)))
        due = self._pace.due(self._here.time, self._clock.monotonic_s())
        batch, rejects = self._take(rows_max, due=due)
        return Read(batch, rejects, partial(self._ack, self._read))

    async def _ack(self, read: int) -> None:
        self._acknowledged = max(self._acknowledged, read)

    async def close(self) -> None:
        """See `Reader.close`."""
        self._blocks = self._here = None

    async def _load(self) -> None:
        """Have rows or dead letters here, if there are any more."""
        while self._blocks is not None and (self._here is None or not (len(self._here) or self._rejects)):
            block = await asyncio.to_thread(next, self._blocks, None)
            if block is None:
                self._here = None
                return
            self._here = block.batch
            self._rejects.extend(block.rejects)

    def _take(self, count: int, *, due: int) -> tuple[Batch, tuple[DeadLetter, ...]]:
        assert self._here is not None
        rejects = tuple(self._rejects.popleft() for _ in range(min(count, len(self._rejects))))
        rows = min(count - len(rejects), due, len(self._here))
        batch, self._here = self._here.take(np.arange(rows)), self._here.take(np.arange(rows, len(self._here)))
        self._read += rows + len(rejects)
        return batch, rejects
