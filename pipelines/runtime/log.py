"""Reading known stretches of partitions, outside any consumer group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from pipelines.errors import Unavailable
from pipelines.runtime.kafka import Client, Place, Record

POLL_MS = 200
STALL_S_MAX = 20.0  # without progress in a partition that is known to hold more


class LogReader:
    """Reads partitions side by side from given offsets on; takes over the consumer's assignment."""

    def __init__(self, consumer: Client, starts: Mapping[Place, int]) -> None:
        self._consumer = consumer
        self._ahead: dict[Place, deque[Record]] = {place: deque() for place in starts}
        consumer.assign(list(starts))
        for place, offset in starts.items():
            consumer.seek(place, offset)

    async def upto(self, targets: Mapping[Place, int]) -> dict[Place, list[Record]]:
        """The next records of each partition below its target offset; `Unavailable` if they do not come."""
        for place, target in targets.items():
            await self._fetch_until(place, target)
        return {place: self._pop(place, target) for place, target in targets.items()}

    async def _fetch_until(self, place: Place, target: int) -> None:
        now = asyncio.get_running_loop().time
        progress = now()
        while (position := await self._consumer.position(place)) < target:
            for other, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
                self._ahead[other].extend(records)
            if await self._consumer.position(place) > position:
                progress = now()
            elif now() - progress > STALL_S_MAX:
                raise Unavailable(
                    f"{place.topic}[{place.partition}] gives nothing from offset {position} on, though it goes to {target}: "
                    "is its broker there?"
                )

    def _pop(self, place: Place, target: int) -> list[Record]:
        queue, popped = self._ahead[place], []
        while queue and queue[0].offset < target:
            popped.append(queue.popleft())
        return popped
