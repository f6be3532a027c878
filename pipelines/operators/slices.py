"""What the window operators share: a fold whose state rows are slices, and the rows that come out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.aggregates import Fold, Ints
from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import NO_NAMES, Env, Flow, join_rows
from pipelines.plan import WindowSpec
from pipelines.state import State
from pipelines.windows import limit, limits

NO_TIMES = np.empty(0, np.int64)
BLOCK, BLOCK_LEVELS = 4, 7  # slices merged into one, and of such into one …: more than a window can have
CELLS_AT_ONCE_MAX = 1 << 20  # (window, slice, slot) cells merged in one go


class Output:
    """Makes the rows of a window step from what its fold found."""

    def __init__(self, spec: WindowSpec) -> None:
        self._computed = dict(spec.computed)
        self._dtypes = {f.qualified: f.dtype for f in spec.fields}

    def rows(self, slots: Array, start: Times, time: Times, known: dict[str, Array]) -> Batch:
        """One row for each slot, with its window and the results `known` by name."""
        with np.errstate(all="ignore"):
            for name, expr in self._computed.items():
                known[name] = np.broadcast_to(expr.on(known), time.shape)
        columns = {n: known[n] for n in self._dtypes} | {WINDOW_START: start}
        return Batch(NO_NAMES, slots.astype(np.int32), time, columns)

    def none(self) -> Batch:
        """No rows."""
        columns = {n: np.empty(0, d) for n, d in self._dtypes.items()} | {WINDOW_START: NO_TIMES}
        return Batch(NO_NAMES, np.empty(0, np.int32), NO_TIMES, columns)

    def joined(self, batches: list[Batch]) -> Batch:
        """One after the other."""
        return join_rows(batches) if batches else self.none()


class Slices:
    """A fold whose state rows are slices of time, by number."""

    def __init__(self, spec: WindowSpec, env: Env, *, carry: bool = False) -> None:
        self.fold = Fold(dict(spec.aggs), dict(spec.dtypes), env.bytes_max, carry=carry)
        self.rows: dict[int, int] = {}  # number of an open slice -> its row in the state
        self._blocks: dict[tuple[int, int], int] = {}  # (level, number) -> state row of BLOCK**level slices merged

    def add(self, batch: Batch, index: Times) -> Ints:
        """Add readings to their slices; gives the state row of each."""
        low = int(index.min())
        span = int(index.max()) - low + 1
        if span == 1:
            self._changed(index[:1])
            rows = np.full(len(index), self._row(low), np.int64)
        elif span <= 4 * len(index):
            present = np.zeros(span, np.int64)
            present[index - low] = 1
            for i in np.flatnonzero(present):
                present[i] = self._row(low + int(i))
            self._changed(np.flatnonzero(present) + low)
            rows = present[index - low]
        else:
            distinct, inverse = np.unique(index, return_inverse=True)
            self._changed(distinct)
            rows = np.array([self._row(int(s)) for s in distinct], np.int64)[inverse]
        self.fold.update(rows, batch.codes, values_of(self.fold, batch), batch.time)
        return rows

    def _row(self, index: int) -> int:
        row = self.rows.get(index)
        if row is None:
            row = self.rows[index] = self.fold.cells.take_row()
        return row

    def open(self) -> Times:
        """Numbers of the open slices, ascending."""
        return np.array(sorted(self.rows), np.int64)

    def results(self, starts: Times, size: int, slots: slice) -> tuple[Array, dict[str, Array]]:
        """Counts and results of windows of `size` slices from `starts` on, each of shape (windows, slots).

        Slices that several windows share are merged once, in blocks of `BLOCK` slices, of `BLOCK` such blocks and so
        on. Blocks lie where the numbers of their slices say, so the order of merging, and every bit, is the same
        whether a block was there or not.
        """
        merged = [self._merged(f, f + size) for f in starts.tolist()]
        width = max(map(len, merged))
        rows = np.array([some + [0] * (width - len(some)) for some in merged], np.int64)
        if size < BLOCK or not (self.fold.sketches or self.fold.samples):
            return self.fold.results(rows, slots)
        slices = [[self.rows.get(s, 0) for s in range(f, f + size)] for f in starts.tolist()]
        return self.fold.results(rows, slots, np.array(slices, np.int64))

    def _merged(self, start: int, end: int) -> list[int]:
        """State rows of the largest blocks that make up a window, ascending in time."""
        rows = []
        while start < end:
            level = 0
            while start % BLOCK ** (level + 1) == 0 and start + BLOCK ** (level + 1) <= end:
                level += 1
            rows.append(self._block(level, start // BLOCK**level))
            start += BLOCK**level
        return rows

    def _block(self, level: int, number: int) -> int:
        if level == 0:
            return self.rows.get(number, 0)
        row = self._blocks.get((level, number))
        if row is None:
            parts = [self._block(level - 1, number * BLOCK + i) for i in range(BLOCK)]
            if not any(parts):
                return 0
            row = self._blocks[level, number] = self.fold.cells.take_row()
            self.fold.combine(row, [p for p in parts if p])
        return row

    def _changed(self, slices: Times) -> None:
        """Forget the blocks that hold slices, which have got rows."""
        numbers, gone, level = slices, [], 0
        while self._blocks and level < BLOCK_LEVELS:
            level, numbers = level + 1, np.unique(numbers // BLOCK)
            gone += [self._blocks.pop((level, n)) for n in numbers.tolist() if (level, n) in self._blocks]
        if gone:
            self.fold.release(gone)

    def release(self, done: Times) -> None:
        """Forget slices."""
        if len(done):
            self._changed(done)
            self.fold.release([self.rows.pop(int(s)) for s in done])

    def save(self, keys: int) -> State:
        """As plain values."""
        slices = sorted(self.rows)
        return {"slices": slices, "fold": self.fold.save([self.rows[s] for s in slices], keys)}

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        self.rows = {s: self.fold.cells.take_row() for s in state["slices"]}
        self.fold.load(list(self.rows.values()), state["fold"])


class Spans:
    """Earliest and latest event time in each cell of a fold."""

    def __init__(self, fold: Fold) -> None:
        self._cells = fold.cells
        self.low, self.high = np.empty((0, 0), np.int64), np.empty((0, 0), np.int64)
        self._fit()

    def _fit(self) -> None:
        shape, (rows, slots) = (self._cells.rows, self._cells.slots), self.low.shape
        if shape != self.low.shape:
            low, high = np.full(shape, TIME_MAX, np.int64), np.full(shape, TIME_MIN, np.int64)
            low[:rows, :slots], high[:rows, :slots] = self.low, self.high
            self.low, self.high = low, high

    def add(self, rows: Ints, slots: Array, times: Times) -> None:
        """Add readings."""
        self._fit()
        at = rows * self._cells.slots + slots
        np.minimum.at(self.low.reshape(-1), at, times)
        np.maximum.at(self.high.reshape(-1), at, times)

    def clear(self, rows: Ints | list[int] | int, slots: Array | slice = slice(None)) -> None:
        """Forget cells."""
        self.low[rows, slots], self.high[rows, slots] = TIME_MAX, TIME_MIN

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.low.nbytes + self.high.nbytes

    def save(self, rows: list[int], slots: int) -> State:
        """As plain values."""
        self._fit()
        return {"low": self.low[rows, :slots], "high": self.high[rows, :slots]}

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`."""
        self._fit()
        slots = state["low"].shape[1]
        self.low[rows, :slots], self.high[rows, :slots] = state["low"], state["high"]


@dataclass(frozen=True, slots=True)
class Runs:
    """Numbers `first[i]`, `first[i] + 1` … of several lengths, one run after the other: `of` is the run of each number."""

    of: Ints
    number: Ints
    begin: Ints  # index of the first number of each run

    @classmethod
    def make(cls, first: Ints, lengths: Ints) -> Runs:
        """Lengths may be zero."""
        begin = np.cumsum(lengths) - lengths
        of = np.repeat(np.arange(len(first)), lengths)
        return cls(of, np.arange(len(of)) - (begin - first)[of], begin)


def values_of(fold: Fold, batch: Batch) -> dict[str, Array]:
    """The columns that a fold aggregates."""
    with np.errstate(all="ignore"):
        return {name: np.asarray(of.on(batch.columns)) for name, of in fold.columns.items()}


def split_old(flow: Flow, late: int, ended: int) -> tuple[Flow, Flow]:
    """Rows in time, and those older than the watermark less `late`, or than the time up to which the end closed all."""
    if not len(flow.batch):
        return flow, flow
    oldest = int(flow.batch.time.min())
    if oldest >= ended and (flow.seen is None or oldest >= limit(int(flow.seen.max()), late)):
        return flow, flow.take(slice(0, 0))
    old = flow.batch.time < (ended if flow.seen is None else np.maximum(limits(flow.seen, late), ended))
    return flow.take(~old), flow.take(old)
