"""What readers have in common that poll: a task for each party fills one buffer, and what is not acknowledged is given again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from connectors.buffer import Buffer
from pipelines.errors import NotConnected

FIRST_S_MAX = 6.0  # until one of the parties is up
T = TypeVar("T")


class Party(Protocol):
    """One that is polled. It must set `Pollers.changed` when what it says here changes."""

    error: Exception | None  # why it is not up

    @property
    def up(self) -> bool:
        """Whether it answers."""


class Pollers(Generic[T]):
    """Their tasks, and what was read: that is given again after `connect` as long as the process lives.

    `called`: what they are, as in 'not connected to … yet'; `none_up`: as in 'none of 3 …: why'.
    """

    def __init__(self, buffer: Buffer[T], called: str, none_up: str, rows_of: Callable[[T], int] = lambda _: 1) -> None:
        self.buffer, self.changed = buffer, asyncio.Event()
        self._called, self._none_up, self._rows_of = called, none_up, rows_of
        self._parties: Sequence[Party] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._again: deque[T] = deque()
        self._unacked: dict[int, list[T]] = {}
        self._reads = 0

    async def connect(self, parties: Sequence[Party], work: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Start the work of each. One that is up is enough; the others go on trying. `NotConnected` if none is."""
        self._again.extendleft(item for read in reversed(self._unacked.values()) for item in reversed(read))
        self._unacked.clear()
        for party in parties:
            party.error = None
        self._parties, self._tasks = parties, [asyncio.create_task(one) for one in work]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S_MAX):
                while not any(p.up for p in parties) and not all(p.error for p in parties):
                    self.changed.clear()
                    await self.changed.wait()
        self._raise_what_ended()
        self._check()

    async def get(self, rows_max: int, linger_s: float) -> tuple[list[T], Callable[[], Awaitable[None]]]:
        """Items as from `Buffer.get`, and what acknowledges them. `NotConnected` if nothing came and no party is up."""
        if not self._tasks:
            raise NotConnected(f"not connected to {self._called} yet")
        items = self._kept(rows_max) if self._again else await self.buffer.get(rows_max, linger_s)
        self._raise_what_ended()
        if not items:
            self._check()
        self._reads += 1
        if items:
            self._unacked[self._reads] = items
        return items, partial(self._ack, self._reads)

    async def close(self) -> None:
        """End the work. What was read stays."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _kept(self, rows_max: int) -> list[T]:
        taken = [self._again.popleft()]
        rows = self._rows_of(taken[0])
        while self._again and rows + self._rows_of(self._again[0]) <= rows_max:
            rows += self._rows_of(self._again[0])
            taken.append(self._again.popleft())
        return taken

    async def _ack(self, read: int) -> None:
        self._unacked.pop(read, None)

    def _raise_what_ended(self) -> None:
        """A task ends by a mistake only: a wrong setting, or a bug."""
        for task in self._tasks:
            if task.done():
                task.result()

    def _check(self) -> None:
        if not any(p.up for p in self._parties):
            why = next((p.error for p in self._parties if p.error), None)
            raise NotConnected(f"none of {len(self._parties)} {self._none_up}: {why or 'no answer yet'}") from why
