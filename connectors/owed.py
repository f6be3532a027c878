"""Acknowledgements that wait, because something of what was read is held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

ROWS_MAX = 4_096  # that wait; beyond, the oldest are acknowledged nevertheless
READS_MAX = 1_000
PROBE_S = 1.0

Ack = Callable[[], Awaitable[None]]


class Owed:
    """Reads that Kafka has, in order, until they are acknowledged.

    The other side may allow but a few unacknowledged messages (an MQTT broker 20 or 32) and say nothing more until it has
    our acknowledgements. So if nothing has come for a second, the oldest read is acknowledged to see. If something comes at
    once, from now on half as many may wait; if not, twice as many again, up to `ROWS_MAX`.
    """

    def __init__(self) -> None:
        self._reads: deque[tuple[int, int, Ack]] = deque()  # number, rows, acknowledgement
        self.rows = 0  # that wait
        self.rows_max = ROWS_MAX
        self._heard_s = 0.0
        self._probed: int | None = None  # rows that waited when we acknowledged to see; 0 if nothing came of it

    def forget(self) -> None:
        """What waits will be delivered again."""
        self._reads.clear()
        self.rows = 0

    async def add(self, read: int, rows: int, ack: Ack, *, oldest_held: int, now_s: float) -> None:
        """Kafka has the read of that number; acknowledge what need not wait: all before the read `oldest_held`."""
        if rows and self._probed:
            self.rows_max = max(1, self._probed // 2)
        if rows:
            self._heard_s, self._probed = now_s, None
        self._reads.append((read, rows, ack))
        self.rows += rows
        await self.settle(oldest_held)
        if not rows:
            await self._quiet(now_s)

    async def settle(self, oldest_held: int) -> None:
        """Acknowledge what need not wait."""
        while self._reads and (
            self._reads[0][0] < oldest_held or self.rows > self.rows_max or len(self._reads) > READS_MAX
        ):
            await self._acknowledge()

    async def _quiet(self, now_s: float) -> None:
        if self.rows and self._probed is None and now_s - self._heard_s >= PROBE_S:
            self._probed = self.rows
            await self._acknowledge()
        elif self._probed:
            self.rows_max, self._probed = min(2 * self.rows_max, ROWS_MAX), 0

    async def _acknowledge(self) -> None:
        _, rows, ack = self._reads.popleft()
        self.rows -= rows
        await ack()
