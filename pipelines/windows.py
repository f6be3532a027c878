"""Windows of event time: which rows belong together, and when a window closes. Pure arithmetic on nanoseconds.

Time is cut into slices that are numbered; a window is a whole number of slices. All further arithmetic is on these
numbers, so that slices of equal width and days of 23, 24 or 25 hours are the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Protocol, get_args

import numpy as np

from pipelines import zones
from pipelines.batch import TIME_MAX, TIME_MIN, TIME_NS_MAX, Times
from pipelines.errors import ConfigError, PlanError
from pipelines.units import duration_ns, show_duration

LENGTH_NS_MAX = 10 * 366 * 86_400 * 10**9  # ten years
WINDOWS_PER_ROW_MAX = 10_000  # a hopping window with more overlap than this is a mistake
_FLOOR, _CEILING = -TIME_NS_MAX - 2 * LENGTH_NS_MAX, TIME_NS_MAX + 2 * LENGTH_NS_MAX  # no window reaches these
_DAY_NS = 86_400 * 10**9


def limit(watermark: int, late: int) -> int:
    """Rows older than this are behind the watermark by more than `late`; `TIME_MIN` and `TIME_MAX` stay beyond all times."""
    return min(max(watermark, _FLOOR + late), _CEILING + late) - late


def limits(watermarks: Times, late: int) -> Times:
    """`limit` of an array."""
    return np.clip(watermarks, _FLOOR + late, _CEILING + late) - late


class Grid(Protocol):
    """Slices of time, numbered."""

    def index(self, time: Times) -> Times:
        """Number of the slice that holds each time."""
        ...

    def edge(self, index: Times) -> Times:
        """First nanosecond of each slice."""
        ...


@dataclass(frozen=True, slots=True)
class Even:
    """Slices of one width."""

    width: int
    offset: int = 0

    def index(self, time: Times) -> Times:
        """See `Grid.index`."""
        index: Times = (time - self.offset if self.offset else time) // self.width
        return index

    def edge(self, index: Times) -> Times:
        """See `Grid.edge`."""
        return index * self.width + self.offset


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days, weeks, months, quarters or years of a time zone, each beginning `offset` (by the clock on the wall) later."""

    unit: zones.Unit
    tz: str
    offset: int = 0

    def index(self, time: Times) -> Times:
        """See `Grid.index`."""
        first, edges = zones.edges(self.unit, self.tz, self.offset)
        if not time.size:
            return time
        low, high = edges.searchsorted((time.min(), time.max()), "right")  # usually close together
        index: Times = first - 1 + low + edges[low:high].searchsorted(time, "right")
        return index

    def edge(self, index: Times) -> Times:
        """See `Grid.edge`."""
        first, edges = zones.edges(self.unit, self.tz, self.offset)
        begins: Times = edges[np.clip(index - first, 0, len(edges) - 1)]
        return begins


@dataclass(frozen=True, slots=True)
class Window:
    """Windows of `size` slices, one beginning at every `hop`-th; each stays open `late` ns longer for late rows."""

    grid: Even | Calendar
    size: int
    hop: int
    late: int
    early: int = 0  # ns of event time between early results; 0: none
    idle: int = 0  # with a clock for each key: ns after which a silent key's windows close; 0: the partition's clock

    def __str__(self) -> str:
        parts = [f"late {show_duration(self.late)}"]
        if self.grid.offset:
            parts.insert(0, f"offset {show_duration(self.grid.offset)}")
        if self.early:
            parts.append(f"early {show_duration(self.early)}")
        if self.idle:
            parts.append(f"clock of each key, idle {show_duration(self.idle)}")
        return ", ".join([self._length(), *parts])

    def _length(self) -> str:
        if isinstance(self.grid, Calendar):
            return f"calendar {'' if self.size == 1 else f'{self.size} '}{self.grid.unit}, {self.grid.tz}"
        size, every = show_duration(self.size * self.grid.width), show_duration(self.hop * self.grid.width)
        return f"tumbling {size}" if self.size == self.hop else f"every {every} {size}"

    def key_clock(self, *, idle: str) -> Window:
        """The same windows by a clock of each key: its own newest reading decides what is late and when its windows close.

        For devices whose clocks differ, or that send a backlog after an outage. The windows of a key that falls
        silent close when the partition's watermark has gone on by `idle`.
        """
        length = _ns("key_clock", idle=idle)["idle"]
        if not 0 < length <= LENGTH_NS_MAX:
            raise PlanError(f"key_clock(idle={idle!r}): must be longer than zero and no longer than ten years")
        return replace(self, idle=length)

    def limit(self, watermark: int) -> int:
        """Number up to which slices are over: windows that end at or before it are closed once the watermark is there."""
        return int(self.grid.index(np.array(limit(watermark, self.late))))

    def limits(self, watermarks: Times) -> Times:
        """`limit` of an array."""
        return self.grid.index(limits(watermarks, self.late))

    def start_ns(self, ends: Times) -> Times:
        """First nanosecond of windows given by their ends."""
        return self.grid.edge(ends - self.size)

    def last_ns(self, ends: Times) -> Times:
        """Last nanosecond of windows given by their ends: the time of their results."""
        return self.grid.edge(ends) - 1

    def first_end(self, index: Times) -> Times:
        """End (the number of the slice after it) of the earliest window that holds each slice."""
        return ((index - self.size) // self.hop + 1) * self.hop + self.size

    def last_end(self, index: Times) -> Times:
        """End of the latest window that holds each slice."""
        return index // self.hop * self.hop + self.size

    def next_end(self, closed: Times) -> Times:
        """End of the first window that ends after `closed`."""
        return ((closed - self.size) // self.hop + 1) * self.hop + self.size

    def out_watermark(self, watermark: int) -> int:
        """Watermark of the results: the time of the earliest window that is still open."""
        if watermark in (TIME_MIN, TIME_MAX):
            return watermark
        return int(self.last_ns(self.next_end(np.array(self.limit(watermark)))))

    def closing(self, slices: Times, closed: int, limit: int) -> Times:
        """Ends, ascending, of the windows with `closed < end <= limit` that hold one of the slices (ascending numbers)."""
        if not len(slices):
            return slices
        low = max(int(self.next_end(np.array(closed))), int(self.first_end(slices[0])))
        high = min(limit, int(self.last_end(slices[-1])))
        reach = -(-self.size // self.hop)  # windows that hold one slice, at most
        if (high - low) // self.hop < len(slices) * reach:  # slices are dense: look at each window
            ends = np.arange(low, high + 1, self.hop, dtype=np.int64)
            return ends[np.searchsorted(slices, ends - self.size) < np.searchsorted(slices, ends)]
        starts = slices // self.hop * self.hop
        candidates = (starts[:, None] - np.arange(reach) * self.hop).ravel()
        ends = candidates[candidates + self.size > np.repeat(slices, reach)] + self.size
        return np.unique(ends[(ends > closed) & (ends <= limit)])


@dataclass(frozen=True, slots=True)
class Session:
    """Readings of a key that follow each other within `gap` ns."""

    gap: int
    late: int

    def __str__(self) -> str:
        return f"session, gap {show_duration(self.gap)}, late {show_duration(self.late)}"


@dataclass(frozen=True, slots=True)
class Count:
    """Every `every` readings of a key, in order of arrival, the newest `size`."""

    size: int
    every: int

    def __str__(self) -> str:
        return f"count {self.size}" if self.size == self.every else f"count {self.size}, every {self.every}"


@dataclass(frozen=True, slots=True)
class Sliding:
    """For every reading, those of its key in `(time − size, time]` ns; it waits until the watermark has passed it by `late`."""

    size: int
    late: int

    def __str__(self) -> str:
        return f"sliding {show_duration(self.size)}, late {show_duration(self.late)}"


Over = Window | Session | Count | Sliding


def _ns(what: str, **durations: str) -> dict[str, int]:
    found = {}
    for name, text in durations.items():
        try:
            found[name] = duration_ns(text)
        except ConfigError as e:
            raise PlanError(f"{what}, {name}: {e}") from e
    return found


def _even(size: str, every: str, late: str, offset: str, early: str | None) -> Window:
    ns = _ns(f"a window of {size}", size=size, every=every, late=late, offset=offset, early=early or "0s")
    if max(ns["size"], ns["late"]) > LENGTH_NS_MAX:
        raise PlanError(f"a window of {size}, late {late}: neither may be longer than ten years")
    if not 0 < ns["every"] <= ns["size"]:
        raise PlanError(
            f"a window of {size} every {every}: `every` must be longer than zero and no longer than the window"
        )
    width = gcd(ns["size"], ns["every"])
    if ns["size"] // width > WINDOWS_PER_ROW_MAX:
        raise PlanError(
            f"a window of {size} every {every} has {ns['size'] // width} slices, more than {WINDOWS_PER_ROW_MAX}: hop less often"
        )
    if ns["offset"] >= ns["every"]:
        raise PlanError(f"a window of {size}, offset {offset}: the offset must be shorter than {every}")
    grid = Even(width, ns["offset"])
    return _early(Window(grid, ns["size"] // width, ns["every"] // width, ns["late"]), early, ns["early"], ns["size"])


def _early(window: Window, early: str | None, every: int, length: int) -> Window:
    if early is not None and not 0 < every < length:
        raise PlanError(f"early={early!r}: must be longer than zero and shorter than the window")
    return replace(window, early=every)


def tumbling(size: str, *, late: str, offset: str = "0s", early: str | None = None) -> Window:
    """Windows side by side: '1m' gives 12:00:00–12:01:00, 12:01:00–12:02:00 … (UTC), with `offset` each that much later.

    `late` is how long to wait for late rows; `early` gives what is known so far whenever the watermark passes a multiple of it.
    """
    return _even(size, size, late, offset, early)


def hopping(size: str, *, every: str, late: str, offset: str = "0s", early: str | None = None) -> Window:
    """Overlapping windows of `size`, one beginning at every multiple of `every`; `late`, `offset`, `early` as in `tumbling`."""
    return _even(size, every, late, offset, early)


def calendar(
    unit: zones.Unit, *, tz: str, late: str, size: int = 1, offset: str = "0s", early: str | None = None
) -> Window:
    """Whole days, weeks (from Monday), months, quarters or years of a time zone ('Europe/Berlin'), daylight saving included.

    `size` of them make a window, and one begins with each: `calendar("day", size=30, …)` is the last 30 days, every
    day. With `offset` a unit begins so much later by the clock on the wall: '6h' for a day from 06:00 to 06:00.
    Others as in `tumbling`.
    """
    what = f"calendar({unit!r}, tz={tz!r})"
    if unit not in get_args(zones.Unit):
        raise PlanError(f"{what}: a unit is one of {', '.join(get_args(zones.Unit))}")
    if not zones.known(tz):
        raise PlanError(f"{what}: there is no such time zone; write one as in 'Europe/Berlin' or 'UTC'")
    ns = _ns(what, late=late, offset=offset, early=early or "0s")
    length = zones.DAYS[unit] * _DAY_NS
    if not (0 < size <= WINDOWS_PER_ROW_MAX and max(size * length, ns["late"]) <= LENGTH_NS_MAX):
        raise PlanError(f"{what}, size={size}, late={late!r}: at least one {unit}, and neither may be over ten years")
    if ns["offset"] >= length:
        raise PlanError(f"{what}, offset={offset!r}: must be shorter than a {unit}")
    return _early(Window(Calendar(unit, tz, ns["offset"]), size, 1, ns["late"]), early, ns["early"], size * length)


def session(gap: str, *, late: str) -> Session:
    """Readings of a key that follow each other within `gap`, until it is silent for longer.

    A reading older than the watermark less `late` is late. A result's `window_start` is its first reading's time,
    `time` its last's.
    """
    ns = _ns("a session", gap=gap, late=late)
    if not (0 < ns["gap"] <= LENGTH_NS_MAX and ns["late"] <= LENGTH_NS_MAX):
        raise PlanError(
            f"session({gap!r}, late={late!r}): a gap is longer than zero, and neither may be over ten years"
        )
    return Session(ns["gap"], ns["late"])


def count(size: int, *, every: int | None = None) -> Count:
    """The newest `size` readings of a key whenever `every` (by default `size`) more have arrived, whatever their times.

    No reading is late. A result's `window_start` and `time` are the oldest and newest times in it.
    """
    every = size if every is None else every
    if not 0 < every <= size:
        raise PlanError(f"count({size}, every={every}): `every` must be more than zero and no more than the window")
    if size // gcd(size, every) > WINDOWS_PER_ROW_MAX:
        raise PlanError(f"count({size}, every={every}): more than {WINDOWS_PER_ROW_MAX} slices; count less often")
    return Count(size, every)


def sliding(size: str, *, late: str) -> Sliding:
    """For each reading one row: what its key did in the `size` up to it, itself included.

    Of readings at one time each counts those that arrived before it. A reading older than the watermark less `late`
    is late; the others wait until the watermark has passed them by `late`.
    """
    ns = _ns(f"a window of {size}", size=size, late=late)
    if not (0 < ns["size"] <= LENGTH_NS_MAX and ns["late"] <= LENGTH_NS_MAX):
        raise PlanError(f"sliding({size!r}, late={late!r}): longer than zero, and neither may be over ten years")
    return Sliding(ns["size"], ns["late"])
