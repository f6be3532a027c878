"""Who has his turn next. Looking costs what is due, not how many there are. Pure."""

from __future__ import annotations

import heapq
import math

STALE_MAX = 1000  # turns that were moved and still lie in the heap, beyond one for each name


class Agenda:
    """A time by name, on a clock that never goes back."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # has every turn of `_at`, and some that were moved since

    def at(self, name: str) -> float:
        """When somebody has his turn; never: infinity."""
        return self._at.get(name, math.inf)

    def put(self, name: str, at_s: float) -> None:
        """Somebody has his turn then, and not when he had it before. Infinity: not until he is put again."""
        self._at[name] = at_s
        if at_s < math.inf:
            heapq.heappush(self._heap, (at_s, name))
        if len(self._heap) > 2 * len(self._at) + STALE_MAX:
            self._heap = [(at, name) for name, at in self._at.items() if at < math.inf]
            heapq.heapify(self._heap)

    def due(self, now_s: float, count_max: int) -> list[str]:
        """Whose turn has come, the earliest first. They stay due until they are put anew."""
        found: dict[str, float] = {}
        while self._heap and self._heap[0][0] <= now_s and len(found) < count_max:
            at, name = heapq.heappop(self._heap)
            if self._at[name] == at:
                found[name] = at
        for name, at in found.items():
            heapq.heappush(self._heap, (at, name))
        return list(found)
