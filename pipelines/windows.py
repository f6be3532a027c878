"""Windows of event time: which rows belong together, and when a window closes. Pure arithmetic on nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Times
from pipelines.errors import ConfigError, PlanError
from pipelines.units import duration_ns, show_duration

LENGTH_NS_MAX = 10 * 366 * 86_400 * 10**9  # ten years
WINDOWS_PER_ROW_MAX = 10_000  # a hopping window with more overlap than this is a mistake


@dataclass(frozen=True, slots=True)
class Window:
    """Windows `[k·every, k·every + size)` in ns since the epoch; each stays open `late` longer for late rows."""

    size: int
    every: int
    late: int

    def __str__(self) -> str:
        kind = "tumbling" if self.size == self.every else f"every {show_duration(self.every)}"
        return f"{kind} {show_duration(self.size)}, late {show_duration(self.late)}"

    @property
    def slice(self) -> int:
        """Width of the slices that windows share: every window is a whole number of them."""
        return gcd(self.size, self.every)

    @property
    def slices(self) -> int:
        """Slices in a window."""
        return self.size // self.slice

    def limit(self, watermark: int) -> int:
        """Windows that end at or before this are closed once the watermark is there."""
        return watermark if watermark in (TIME_MIN, TIME_MAX) else max(watermark - self.late, TIME_MIN)

    def limits(self, watermarks: Times) -> Times:
        """`limit` of an array."""
        moved = np.maximum(watermarks, TIME_MIN + self.late) - self.late
        return np.where(watermarks == TIME_MAX, TIME_MAX, moved)

    def first_end(self, time: Times) -> Times:
        """End of the earliest window that holds each time."""
        return ((time - self.size) // self.every + 1) * self.every + self.size

    def last_end(self, time: Times) -> Times:
        """End of the latest window that holds each time."""
        return time // self.every * self.every + self.size

    def out_watermark(self, watermark: int) -> int:
        """Watermark of the results: the time (end − 1) of the earliest window that is still open."""
        limit = self.limit(watermark)
        return limit if limit in (TIME_MIN, TIME_MAX) else self.next_end(limit) - 1

    def next_end(self, closed: int) -> int:
        """End of the first window that ends after `closed`."""
        return TIME_MIN if closed == TIME_MIN else ((closed - self.size) // self.every + 1) * self.every + self.size

    def closing(self, slices: Times, closed: int, limit: int) -> Times:
        """Ends, ascending, of the windows with `closed < end <= limit` that hold one of the slices (start times, ns)."""
        if not len(slices):
            return slices
        low = max(self.next_end(closed), int(self.first_end(slices[:1])[0]))
        high = min(limit, int(self.last_end(slices[-1:])[0]))
        if (high - low) // self.every < len(slices) * (
            -(-self.size // self.every)
        ):  # slices are dense: look at each window
            ends = np.arange(low, high + 1, self.every, dtype=np.int64)
            return ends[np.searchsorted(slices, ends - self.size) < np.searchsorted(slices, ends)]
        starts = slices // self.every * self.every
        back = np.arange(-(-self.size // self.every)) * self.every
        candidates = (starts[:, None] - back).ravel()
        repeated = np.repeat(slices, len(back))
        ends = candidates[candidates + self.size > repeated] + self.size
        return np.unique(ends[(ends > closed) & (ends <= limit)])


def _window(size: str, every: str, late: str) -> Window:
    try:
        window = Window(duration_ns(size), duration_ns(every), duration_ns(late))
    except ConfigError as e:
        raise PlanError(str(e)) from e
    if max(window.size, window.late) > LENGTH_NS_MAX:
        raise PlanError(f"a window of {size}, late {late}: neither may be longer than ten years")
    if not 0 < window.every <= window.size:
        raise PlanError(
            f"a window of {size} every {every}: `every` must be longer than zero and no longer than the window"
        )
    if window.slices > WINDOWS_PER_ROW_MAX:
        raise PlanError(
            f"a window of {size} every {every} has {window.slices} slices, more than {WINDOWS_PER_ROW_MAX}: hop less often"
        )
    return window


def tumbling(size: str, *, late: str) -> Window:
    """Windows side by side: '1m' gives 12:00:00–12:01:00, 12:01:00–12:02:00 … `late` is how long to wait for late rows."""
    return _window(size, size, late)


def hopping(size: str, *, every: str, late: str) -> Window:
    """Overlapping windows of `size`, one beginning at every multiple of `every`."""
    return _window(size, every, late)
