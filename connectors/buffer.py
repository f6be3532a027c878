"""What came in and was not read yet, for readers whose devices push: bounded, the oldest is dropped, counted and told.

Where the other side can be told to wait (MQTT's receive maximum, HTTP's 503) do that, and lose nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Generic, TypeVar

from pipelines import metrics
from pipelines.clock import Clock

T = TypeVar("T")
ROWS_MAX = 100_000
BYTES_MAX = 64 * 2**20
TOLD_EVERY_S = 60.0
log = logging.getLogger("collect")


class Buffer(Generic[T]):
    """Items of one stream in order of arrival, up to `rows_max` rows and `bytes_max` bytes. For one event loop.

    At a limit the oldest items give way to the newest. They count in `sitestream_collect_dropped_rows_total` (reason 'rows' or
    'bytes', after the limit), and are told in the log at most once a minute.
    """

    def __init__(
        self, site: str, stream: str, clock: Clock, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._stream, self._clock, self._rows_max, self._bytes_max = stream, clock, rows_max, bytes_max
        self._labels = {"site": site, "stream": stream}
        self._items: deque[tuple[T, int, int]] = deque()  # with rows and bytes
        self._arrived = asyncio.Event()
        self._wanted = 1
        self._untold, self._told_s = 0, float("-inf")
        self.rows = self.nbytes = self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, *, rows: int = 1, nbytes: int = 0) -> None:
        """Take an item in; never waits. `nbytes` is what it needs in memory, roughly."""
        self._items.append((item, rows, nbytes))
        self.rows += rows
        self.nbytes += nbytes
        while self._items and (self.rows > self._rows_max or self.nbytes > self._bytes_max):
            reason = "rows" if self.rows > self._rows_max else "bytes"
            self._drop(reason)
        if self.rows >= self._wanted:
            self._arrived.set()

    async def get(self, rows_max: int, linger_s: float) -> list[T]:
        """Items of up to `rows_max` rows, at least one: waits up to `linger_s` for the first, and as long again for more.

        An item of more rows comes alone. An empty list means that nothing came.
        """
        for enough in (1, min(rows_max, self._rows_max)):
            if self.rows < enough:
                self._wanted = enough
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(linger_s):
                        await self._arrived.wait()
            if not self._items:
                return []
        taken: list[T] = []
        left = rows_max
        while self._items and (not taken or self._items[0][1] <= left):
            item, rows = self._pop()
            taken.append(item)
            left -= rows
        return taken

    def wake(self) -> None:
        """End a `get` that waits, because the link broke."""
        self._arrived.set()

    def clear(self) -> None:
        """Forget all, because the other side will send it again."""
        self._items.clear()
        self.rows = self.nbytes = 0

    def _pop(self) -> tuple[T, int]:
        item, rows, nbytes = self._items.popleft()
        self.rows -= rows
        self.nbytes -= nbytes
        return item, rows

    def _drop(self, reason: str) -> None:
        _, rows = self._pop()
        self.dropped += rows
        self._untold += rows
        metrics.collect_dropped.labels(**self._labels, reason=reason).inc(rows)
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= TOLD_EVERY_S:
            log.warning(
                "%s: %d readings were dropped, the oldest first: more come than Kafka takes (limit: %s)",
                self._stream, self._untold, reason,
            )  # fmt: skip
            self._untold, self._told_s = 0, now_s
