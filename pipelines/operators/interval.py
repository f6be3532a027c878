"""Interval join: every pair of rows of one key whose times lie close enough to each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch
from pipelines.errors import LimitExceeded
from pipelines.operators.fetch import Fetch
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late, empty, join_rows, load_rows, rows_bytes, save_rows
from pipelines.operators.search import Ints, first_at_least, ranges
from pipelines.operators.slices import split_old
from pipelines.plan import WithinSpec
from pipelines.state import State
from pipelines.windows import limit


class IntervalJoin(Late):
    """Holds both sides until no partner can come any more, then emits by the left row's time and arrival, then its partner's.

    A row is late by the watermark of its own side only, and a left row goes when both watermarks have passed it and its
    partners. So the result depends on the rows of each side, not on which side was read first nor on how frames are grouped;
    unless one side stands still for longer than `wait`, when the other goes on without it.
    """

    by_frame = False

    def __init__(self, spec: WithinSpec, left: Mapping[str, str], right: Mapping[str, str], env: Env) -> None:
        """`left` and `right`: dtypes of the columns by qualified name, of the right those that the result gets."""
        self.spec, self._keys, self._bytes_max = spec, env.keys, env.bytes_max
        right = {n: d for n, d in right.items() if n != WINDOW_START}
        self._fetch = Fetch(right, spec.fill)
        self._left, self._right = empty(left), empty(right)
        self._sorted = True  # the right side, by key and time
        self._marks = [TIME_MIN, TIME_MIN]  # newest watermark of each side
        self._ended = [False, False]  # all inputs of the side have ended
        self._released = TIME_MIN  # left rows older than this are out, with all their partners

    @property
    def wait(self) -> int | None:
        """See `WithinSpec.wait`."""
        return self.spec.wait

    def process(self, *inputs: Flow) -> Flow:
        """Take new rows of both sides; release the left rows, with their partners, that can find no more."""
        self._take(*inputs)
        self._advance(*inputs)
        bound = min(self._reached(0), _plus(self._reached(1), -self.spec.after))
        if bound == TIME_MAX:  # should an input come back, it goes on from here
            bound = int(self._left.time.max(initial=TIME_MIN)) + 1
        out = self._release(bound)
        self._released = max(self._released, bound)
        self._forget()
        ends = all(self._ended) and any(flow.watermark == TIME_MAX for flow in inputs)
        return Flow(out, TIME_MAX if ends else self._released)

    def _take(self, left: Flow, right: Flow) -> None:
        left, self.late = split_old(left, self.spec.late, self._released)
        right, self.late_right = split_old(right, self.spec.late, _plus(self._released, self.spec.after))
        self.late_rows += len(self.late.batch) + len(self.late_right.batch)
        if len(left.batch):
            self._left = join_rows([self._left, left.batch])
        if len(right.batch):
            columns = {n: right.batch.columns[n] for n in self._right.columns}
            self._right = join_rows([self._right, Batch(NO_NAMES, right.batch.codes, right.batch.time, columns)])
            self._sorted = False

    def _advance(self, *inputs: Flow) -> None:
        goes_on = [len(f.batch) > 0 or f.watermark > mark for f, mark in zip(inputs, self._marks, strict=True)]
        if all(self._ended) and any(goes_on):
            self._ended = [False, False]
        for side, flow in enumerate(inputs):
            if flow.watermark == TIME_MAX:
                self._ended[side] = True
            else:
                self._ended[side] = self._ended[side] and not goes_on[side]
                self._marks[side] = max(self._marks[side], flow.watermark)

    def _reached(self, side: int) -> int:
        """No row in time that is older can come, or none is waited for."""
        if self._ended[side]:
            return TIME_MAX
        mark = self._marks[side]
        if self.wait is not None:
            mark = max(mark, _plus(self._marks[1 - side], -self.wait))
        return mark if mark == TIME_MIN else limit(mark, self.spec.late)

    def _release(self, bound: int) -> Batch:
        ready = self._left.time < bound
        rows, count = self._left, int(ready.sum())
        if count < len(ready):
            rows = rows.take(ready)
        if count:
            self._left = self._left.take(~ready)
            rows = rows.take(np.argsort(rows.time, kind="stable"))
        return self._pairs(rows)

    def _pairs(self, rows: Batch) -> Batch:
        """Each row with its partners; in a left join also those without."""
        first, last = self._partners(rows)
        count = last - first
        shown = np.maximum(count, 1) if self.spec.how == "left" else count
        self._check(int(shown.sum()))
        if (shown == 1).all():
            at = np.where(count == 1, first, -1)
        else:
            row = np.repeat(np.arange(len(rows)), shown)
            at = np.arange(len(row)) - (np.cumsum(shown) - shown - first)[row]
            at[(count == 0)[row]] = -1
            rows = rows.take(row)
        return Batch(NO_NAMES, rows.codes, rows.time, {**rows.columns, **self._fetch(self._right.columns, at)})

    def _partners(self, rows: Batch) -> tuple[Ints, Ints]:
        """The range of the right side, sorted by key and time, that holds each row's partners."""
        if not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if not self._sorted:  # stable, and fast since most of it is sorted
            self._right, self._sorted = self._right.take(np.lexsort((self._right.time, self._right.codes))), True
        low, high = ranges(self._right.codes, self._keys(), rows.codes)
        first = first_at_least(self._right.time, low, high, rows.time - self.spec.before)
        return first, first_at_least(self._right.time, first, high, rows.time + self.spec.after + 1)

    def _check(self, pairs: int) -> None:
        columns = [*self._left.columns.values(), *self._right.columns.values()]
        wanted = pairs * (12 + sum(c.itemsize for c in columns))
        if wanted > self._bytes_max:
            raise LimitExceeded(
                f"a join found {pairs:,} pairs at once, which need {wanted:,} bytes (narrow its `before` and `after`)"
            )

    def _forget(self) -> None:
        """Drop right rows that are too old for any left row to come."""
        keep = self._right.time >= _plus(self._released, -self.spec.before)
        if not keep.all():
            self._right = self._right.take(keep)

    @property
    def nbytes(self) -> int:
        """Memory of both sides."""
        return rows_bytes(self._left) + rows_bytes(self._right)

    def save(self) -> State:
        """See `Operator.save`."""
        sides = {"left": save_rows(self._left), "right": save_rows(self._right)}
        return {**sides, "marks": self._marks, "ended": self._ended, "released": self._released}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._left, self._right, self._sorted = load_rows(state["left"]), load_rows(state["right"]), False
        self._marks, self._ended, self._released = state["marks"], state["ended"], state["released"]


def _plus(time: int, ns: int) -> int:
    """A sum in which what is beyond all times stays there."""
    return time if time in (TIME_MIN, TIME_MAX) else time + ns
