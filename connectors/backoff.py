"""Waiting longer after each failure, with jitter so that those who failed together do not return together."""

from __future__ import annotations

import asyncio
import contextlib
import random

BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 30.0


class Backoff:
    """Delays that double from `BACKOFF_S_MIN` to `BACKOFF_S_MAX`, each cut at random to between half and all of it."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._next_s = BACKOFF_S_MIN

    def reset(self) -> None:
        """It worked: begin again with the shortest delay."""
        self._next_s = BACKOFF_S_MIN

    def delay_s(self) -> float:
        """How long to wait after one more failure."""
        delay, self._next_s = self._next_s, min(self._next_s * 2, BACKOFF_S_MAX)
        return delay * self._random.uniform(0.5, 1)

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait that long, or until `stop` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.delay_s()):
                await stop.wait()
