"""Windows by a clock of each key: the newest event time of a key decides which of its rows are late and when its windows close.

A row is judged by the rows of its key before it, whatever frames they came in. The partition's watermark only tells
how long a key has been silent: when it has gone on by `idle` since the key was last heard, the key's windows close.
"""

from __future__ import annotations

import numpy as np

from pipelines.aggregates import COUNT, Ints
from pipelines.batch import TIME_MAX, TIME_MIN, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import Env, Flow
from pipelines.operators.window import WindowOperator
from pipelines.plan import WindowSpec
from pipelines.state import State
from pipelines.windows import Window

BACKLOG_CELLS_MAX = 1 << 17  # (slice, slot) cells opened at once by rows of many windows

SLOTS_BETWEEN_MAX = 64  # of keys that have nothing to tell, looked at with those around them


class KeyClockOperator(WindowOperator):
    """A window operator with a clock of each key."""

    def __init__(self, window: Window, spec: WindowSpec, env: Env) -> None:
        super().__init__(window, spec, env)
        self.by_frame = True  # whether a key is silent is asked after each frame
        self._floor = self._closed  # before all windows
        self._clock = np.empty(0, np.int64)  # newest event time of each key
        self._heard = np.empty(0, np.int64)  # watermark after the frame in which it was last heard
        self._over = np.empty(0, np.int64)  # its windows that end here or earlier have been emitted
        self._last = np.empty(0, np.int64)  # end of its newest window
        self._upto = np.empty(0, np.int64)  # while windows are emitted: where `_over` will be
        self._watermark = self._out = TIME_MIN
        self._sweep_at = 8  # open slices, at which to look for those that no key needs any more

    def process(self, *inputs: Flow) -> Flow:
        """Add rows, close windows of the keys that have gone on or are silent."""
        (flow,) = inputs
        self._reserve()
        self._grow()
        late = np.zeros(len(flow.batch), bool)
        if flow.watermark != TIME_MAX:
            self._advance(flow.watermark)
        emitted = self._take(flow.batch, self.window.grid.index(flow.batch.time), late)
        self.late = flow.take(late)
        self.late_rows += int(late.sum())
        emitted += self._close_silent(flow.watermark) + self._early(flow.watermark)
        out, before = self._output.joined(emitted), self._out
        if flow.watermark != TIME_MAX:
            self._out = max(self._out, self.out_watermark(flow.watermark))
        return Flow(out, TIME_MAX if flow.watermark == TIME_MAX else self._out, np.full(len(out), before))

    def _grow(self) -> None:
        new = self._keys() - len(self._clock)
        self._clock, self._heard = (np.pad(a, (0, new), constant_values=TIME_MIN) for a in (self._clock, self._heard))
        self._over, self._last = (np.pad(a, (0, new), constant_values=self._floor) for a in (self._over, self._last))

    def _advance(self, watermark: int) -> None:
        if self._watermark == TIME_MIN:  # keys heard before there was a watermark
            self._heard[self._heard == TIME_MIN] = watermark
        self._watermark = max(self._watermark, watermark)

    def _take(self, batch: Batch, index: Times, late: Array) -> list[Batch]:
        """Add rows and close windows, in halves if rows came after some of their windows were to be closed, or if all
        slices at once would be too many. Marks the late ones."""
        if not len(batch):
            return []
        order = np.argsort(batch.codes, kind="stable")
        codes, time = batch.codes[order], batch.time[order]
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
        slots = codes[begins]
        newest = np.maximum(np.maximum.reduceat(time, begins), self._clock[slots])
        upto = np.maximum(self._over[slots], self.window.limits(newest))
        crossing = False
        if (self.window.first_end(np.minimum.reduceat(index[order], begins)) <= upto).any():
            over = np.empty(len(order), np.int64)  # windows that end here or earlier were closed when a row came
            clocks = np.maximum(_newest_before(time, begins), self._clock[codes])
            over[order] = np.maximum(self._over[codes], self.window.limits(clocks))
            late[:] = self.window.last_end(index) <= over
            waiting = np.maximum(self.window.first_end(index), self.window.next_end(self._over[batch.codes]))
            crossing = bool(((waiting <= over) & ~late).any())
        if len(batch) > 1 and (crossing or self._is_wide(index, BACKLOG_CELLS_MAX)):
            parts = (slice(0, len(batch) // 2), slice(len(batch) // 2, None))
            return [b for p in parts for b in self._take(batch.take(p), index[p], late[p])]
        if not late.all():
            self.slices.add(batch.take(~late), index[~late])
        self._clock[slots] = newest
        self._heard[slots] = self._watermark
        self._last[slots] = np.maximum(self._last[slots], self.window.last_end(self.window.grid.index(newest)))
        return self._close(slots, upto)

    def _close_silent(self, watermark: int) -> list[Batch]:
        """Close the windows of keys not heard for long; at the end of all inputs those of all keys."""
        open_ = self._last > self._over
        if watermark == TIME_MIN or not open_.any():
            return []
        if watermark != TIME_MAX:
            open_ &= self._heard <= watermark - self.window.idle
        silent = np.flatnonzero(open_)
        return self._close(silent, self._last[silent])

    def _close(self, slots: Array, upto: Ints) -> list[Batch]:
        """Emit the windows of some keys that end at `upto` of each or earlier."""
        out: list[Batch] = []
        before, last = self._over[slots], np.minimum(upto, self._last[slots])
        due = self.window.next_end(before) <= last
        if due.any():
            self._upto = self._over.copy()
            self._upto[slots] = upto
            ends = self.window.closing(self.slices.open(), int(before[due].min()), int(last[due].max()))
            out = self._emit(ends, _ranges(np.sort(slots[due])))
        self._over[slots] = upto
        if len(self.slices.rows) >= self._sweep_at:
            self._sweep()
        return out

    def _wanted(self, ends: Times, slots: slice, counts: Ints, final: bool) -> Array:
        open_ = (counts > 0) & (ends[:, None] > self._over[slots])
        return open_ & (ends[:, None] <= self._upto[slots]) if final else open_

    def _open_ends(self) -> Times:
        return self.window.closing(self.slices.open(), self._floor, self.window.limit(TIME_MAX))

    def _sweep(self) -> None:
        """Forget slices that no key needs any more."""
        cells, keys = self.slices.fold.cells, self._keys()
        open_ = self.slices.open()
        needed = [
            bool(((cells[COUNT][self.slices.rows[i], :keys] > 0) & (self.window.last_end(i) > self._over)).any())
            for i in open_.tolist()
        ]
        self.slices.release(open_[~np.array(needed)])
        ends = np.array(sorted(self._shown.rows), np.int64)
        self._shown.release(ends[ends <= int(self._over[self._last > self._over].min(initial=TIME_MAX))])
        self._sweep_at = 2 * len(self.slices.rows) + 8

    def out_watermark(self, watermark: int) -> int:
        """Watermark of the results, which holds for keys that are heard now; one that comes back later may be behind it."""
        following = self.window.next_end(self._over[self._last > self._over])
        if watermark == TIME_MIN or not len(following):
            return self.window.out_watermark(watermark)
        return min(self.window.out_watermark(watermark), int(self.window.last_ns(following.min())))

    @property
    def nbytes(self) -> int:
        """Memory."""
        return super().nbytes + sum(a.nbytes for a in (self._clock, self._heard, self._over, self._last))

    def save(self) -> State:
        """See `Operator.save`."""
        clocks = {"clock": self._clock, "heard": self._heard, "over": self._over, "last": self._last}
        return super().save() | clocks | {"watermark": self._watermark, "out": self._out}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        super().load(state)
        self._clock, self._heard, self._over, self._last = (state[n] for n in ("clock", "heard", "over", "last"))
        self._watermark, self._out = state["watermark"], state["out"]


def _ranges(slots: Array) -> list[slice]:
    """Ranges that hold some slots (ascending) and few others."""
    cuts = np.flatnonzero(np.diff(slots) > SLOTS_BETWEEN_MAX) + 1
    return [slice(int(part[0]), int(part[-1]) + 1) for part in np.split(slots, cuts)]


def _newest_before(time: Times, begins: Ints) -> Times:
    """The newest of the times before each in its group, `TIME_MIN` for the first; groups begin at `begins`."""
    distinct, rank = np.unique(time, return_inverse=True)
    group = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(time))) * len(distinct)
    newest = distinct[np.maximum.accumulate(group + rank) - group]
    before = np.roll(newest, 1)
    before[begins] = TIME_MIN
    return before
