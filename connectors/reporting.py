"""Which readings are reported: dead-bands, changes and swinging doors, over all devices of a batch at once. Pure.

State is arrays over key slots. Rows of one device are looked at one after the other, the n-th of all devices together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from connectors.conditions import Condition
from pipelines.batch import TIME_MAX, Batch, Codes, rounds
from pipelines.expr import Array
from pipelines.schema import Row

READ = "~read"  # column of rows that are held back: the number of the read that brought them
_SLOTS_MIN = 64


class Reporter:
    """Passes on the rows that conditions ask for. Codes of its batches are key slots.

    A row passes if it is the first of its device, if its quality differs from that of the last row that passed, or if one of the
    conditioned columns asks for it. A row older than the newest of its device passes and changes nothing: what a device sends
    late, or again, is not judged.

    A swinging door follows Bristol, US patent 4,669,097 (1987): it holds the newest row back while some straight line from the
    last reported point passes within `deviation` of all since. Here the line must end in the row that is held, so that the
    line that is reported, and not just any line, keeps to the deviation.
    """

    def __init__(self, row: Row, conditions: Sequence[Condition], quality: str | None) -> None:
        self._asked = [c for c in conditions if c.kind not in ("door", "scale")]
        self._doors = [_Door(c) for c in conditions if c.kind == "door"]
        self._hold_ns = min((c.hold_ns for c in conditions if c.kind == "door"), default=0)
        self._every_ns = min((c.every_ns for c in conditions if c.every_ns), default=0)
        self._quality = quality
        dtypes = {f.qualified: f.dtype for f in row.fields}
        watched = {c.column for c in conditions if c.kind != "scale"} | ({quality} if quality else set())
        self._last: dict[str, Array] = {n: np.zeros(0, dtypes[n]) for n in watched}  # of the last row that passed
        self._last_time = self._newest = np.zeros(0, np.int64)
        self._known = np.zeros(0, bool)
        self._at = np.zeros(0, np.int64)  # where the row that is held stands, -1 if there is none
        self._held: Batch | None = None
        self._empty = {**{n: np.empty(0, d) for n, d in dtypes.items()}, READ: np.empty(0, np.int64)}

    @property
    def held(self) -> int:
        """How many rows are held back."""
        return 0 if self._held is None else len(self._held)

    @property
    def oldest_held(self) -> int:
        """Least event time of the rows that are held; `TIME_MAX` if there are none."""
        return TIME_MAX if self._held is None or not self.held else int(self._held.time.min())

    @property
    def oldest_read(self) -> int:
        """Least number of a read of which a row is held; `TIME_MAX` if there is none."""
        return TIME_MAX if self._held is None or not self.held else int(self._held.columns[READ].min())

    def take(self, batch: Batch, read: int, watermark: int) -> Batch:
        """What is to be reported after these rows of the read of that number, in order for each device.

        Rows held for longer than `hold` before the watermark are among it.
        """
        self._reserve(len(batch.names))
        rows, first = self._with_held(batch, read)
        keep = np.zeros(len(rows), bool)
        for at in rounds(batch.codes):
            self._round(rows, at + first, keep)
        if self._doors:
            held, slots = self._all_held()
            overdue = rows.time[held] < watermark - self._hold_ns
            keep[held[overdue]] = True
            self._pass_held(rows, held[overdue], slots[overdue])
        return _without_read(rows.take(keep))

    def release(self, slots: Codes | None = None) -> Batch | None:
        """The rows held of these slots, whose next row passes in any case; or of all slots."""
        if slots is not None:
            self._reserve(int(slots.max(initial=-1)) + 1)
            self._known[slots] = False
        held, of = self._all_held()
        if slots is not None:
            which = np.isin(of, slots)
            held, of = held[which], of[which]
        if self._held is None or not len(held):
            return None
        rows = self._held
        self._pass_held(rows, held, of)
        return _without_read(rows.take(held))

    def _with_held(self, batch: Batch, read: int) -> tuple[Batch, int]:
        """The rows held, then those of the batch; and how many are held."""
        columns = {n: batch.columns[n] for n in self._empty if n != READ}
        if not self._doors:
            return replace(batch, columns=columns), 0
        columns[READ] = np.full(len(batch), read, np.int64)
        held = self._held
        if held is None or not len(held):
            return replace(batch, columns=columns), 0
        both = {n: np.concatenate([held.columns[n], c]) for n, c in columns.items()}
        codes, time = np.concatenate([held.codes, batch.codes]), np.concatenate([held.time, batch.time])
        return Batch(batch.names, codes, time, both), len(held)

    def _all_held(self) -> tuple[Array, Array]:
        """Where the rows that are held stand, and their slots."""
        slots = np.flatnonzero(self._at >= 0)
        return self._at[slots], slots.astype(np.int32)

    def _pass_held(self, rows: Batch, held: Array, slots: Array) -> None:
        """Some of the rows held pass; what remains is all that is kept of `rows`."""
        self._report(rows, held, slots)
        self._at[slots] = -1
        rest, of = self._all_held()
        self._held = rows.take(rest)
        self._at[of] = np.arange(len(of))

    def _round(self, rows: Batch, at: Array, keep: Array) -> None:
        """Judge rows of different devices."""
        slots, time = rows.codes[at], rows.time[at]
        known = self._known[slots]
        late = known & (time < self._newest[slots])
        if late.any():
            keep[at[late]] = True
            at, slots, time, known = at[~late], slots[~late], time[~late], known[~late]
        breaks = self._breaks(rows, at, slots)
        if self._doors:
            self._close(rows, at, slots, breaks, keep)
        passes = ~known | breaks
        for door in self._doors:
            passes |= door.jumps(*self._beside(rows, at, slots, door))
        for condition in self._asked:
            passes |= _differs(rows.columns[condition.column][at], self._last[condition.column][slots], condition)
        if self._every_ns:
            passes |= time - self._last_time[slots] >= self._every_ns
        self._known[slots], self._newest[slots] = True, time
        keep[at[passes]] = True
        self._report(rows, at[passes], slots[passes])
        if self._doors:
            self._at[slots] = np.where(passes, -1, at)
            for door in self._doors:
                door.narrow(*self._beside(rows, at[~passes], slots[~passes], door), slots[~passes])

    def _close(self, rows: Batch, at: Array, slots: Codes, breaks: Array, keep: Array) -> None:
        """Pass the rows that are held where a line breaks or these rows close a door."""
        closes = breaks
        for door in self._doors:
            closes = closes | door.closes(*self._beside(rows, at, slots, door), slots)
        held = self._at[slots]
        closes = closes & (held >= 0)
        keep[held[closes]] = True
        self._report(rows, held[closes], slots[closes])

    def _breaks(self, rows: Batch, at: Array, slots: Codes) -> Array:
        """Whether quality changes, or the value of a door's column comes or goes, so that no line leads on."""
        breaks = np.zeros(len(at), bool)
        if self._quality is not None:
            breaks |= rows.columns[self._quality][at] != self._last[self._quality][slots]
        for door in self._doors:
            breaks |= np.isnan(rows.columns[door.column][at]) != np.isnan(self._last[door.column][slots])
        return breaks

    def _beside(self, rows: Batch, at: Array, slots: Codes, door: _Door) -> tuple[Array, Array]:
        """(ns since the last reported point, difference of the values) as float64."""
        time = (rows.time[at] - self._last_time[slots]).astype(np.float64)
        return time, np.subtract(rows.columns[door.column][at], self._last[door.column][slots], dtype=np.float64)

    def _report(self, rows: Batch, at: Array, slots: Codes) -> None:
        """These rows pass: what comes is compared with them."""
        self._last_time[slots] = rows.time[at]
        for name, last in self._last.items():
            last[slots] = rows.columns[name][at]
        for door in self._doors:
            door.open(slots)

    def _reserve(self, slots: int) -> None:
        if slots <= len(self._known):
            return
        size = max(_SLOTS_MIN, 1 << (slots - 1).bit_length()) - len(self._known)
        self._known = np.concatenate([self._known, np.zeros(size, bool)])
        self._at = np.concatenate([self._at, np.full(size, -1)])
        self._last_time = np.concatenate([self._last_time, np.zeros(size, np.int64)])
        self._newest = np.concatenate([self._newest, np.zeros(size, np.int64)])
        self._last = {n: np.concatenate([a, np.zeros(size, a.dtype)]) for n, a in self._last.items()}
        for door in self._doors:
            door.reserve(size)


class _Door:
    """The slopes of lines from the last reported point of each device that pass near enough by all rows since."""

    def __init__(self, condition: Condition) -> None:
        self.column, self._deviation = condition.column, condition.limit
        self._low = self._high = np.zeros(0)

    def reserve(self, more: int) -> None:
        """Room for so many more slots."""
        self._low = np.concatenate([self._low, np.full(more, -np.inf)])
        self._high = np.concatenate([self._high, np.full(more, np.inf)])

    def open(self, slots: Codes) -> None:
        """Nothing came since the last reported point."""
        self._low[slots], self._high[slots] = -np.inf, np.inf

    def closes(self, time: Array, off: Array, slots: Codes) -> Array:
        """Whether a line to these rows would leave out one that came before."""
        with np.errstate(all="ignore"):
            slope = off / time
            return np.asarray((time > 0) & ((slope < self._low[slots]) | (slope > self._high[slots])))

    def jumps(self, time: Array, off: Array) -> Array:
        """Whether the value at the very time of the reported point is another one."""
        return np.asarray((time == 0) & (np.abs(off) > self._deviation))

    def narrow(self, time: Array, off: Array, slots: Codes) -> None:
        """These rows are to be near the line, too."""
        with np.errstate(all="ignore"):
            low, high = (off - self._deviation) / time, (off + self._deviation) / time
        some = (time > 0) & ~np.isnan(off)
        self._low[slots[some]] = np.maximum(self._low[slots[some]], low[some])
        self._high[slots[some]] = np.minimum(self._high[slots[some]], high[some])


def _differs(now: Array, last: Array, condition: Condition) -> Array:
    """Whether values lie outside of the dead-band around those reported last. NaN differs from numbers, not from NaN."""
    if condition.kind == "change":
        differs = np.asarray(now != last)
        return differs & ~(np.isnan(now) & np.isnan(last)) if now.dtype.kind == "f" else differs
    off = np.abs(np.subtract(now, last, dtype=np.float64))
    band = condition.limit * (np.abs(last.astype(np.float64)) / 100 if condition.kind == "percent" else 1.0)
    return np.asarray((off > band) | (np.isnan(now) != np.isnan(last)))


def _without_read(batch: Batch) -> Batch:
    return replace(batch, columns={n: c for n, c in batch.columns.items() if n != READ})
