"""Sliding windows: for each reading, what its key did in the time up to it.

Readings wait until none that is older can come; then they stand in their final order (event time, arrival), and the
readings that each one sees are a range of those of its key. They are folded a chunk of ranges at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.aggregates import Fold, Ints
from pipelines.batch import TIME_MAX, TIME_MIN, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late, join_rows, load_rows, rows_bytes, save_rows
from pipelines.operators.slices import Output, Runs, split_old, values_of
from pipelines.plan import WindowSpec
from pipelines.state import State
from pipelines.windows import Sliding, limit

PAIRS_AT_ONCE_MAX = 1 << 19  # (reading, reading that it sees) folded in one go, if one reading sees no more


class History:
    """Readings in their final order, those of each key side by side with room for more: key k has `[begin[k], stop[k])`."""

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        self.time = np.empty(0, np.int64)
        self.columns: dict[str, Array] = {n: np.empty(0, d) for n, d in dtypes.items()}
        self.begin = self.stop = self._limit = np.zeros(0, np.int64)

    def reserve(self, keys: int) -> None:
        """Know so many keys."""
        new = keys - len(self.begin)
        self.begin, self.stop, self._limit = (np.pad(a, (0, new)) for a in (self.begin, self.stop, self._limit))

    def append(self, slots: Array, time: Times, columns: Mapping[str, Array], oldest: int) -> Ints:
        """Add readings, sorted by key and time and newer than those that are there; gives where they stand.

        What is not newer than `oldest` may be forgotten.
        """
        firsts = np.flatnonzero(np.diff(slots, prepend=-1))
        keys, many = slots[firsts], np.diff(firsts, append=len(slots))
        if (self.stop[keys] + many > self._limit[keys]).any():
            more = np.zeros(len(self.begin), np.int64)
            more[keys] = many
            self._make_room(more, oldest)
        at = np.repeat(self.stop[keys] - firsts, many) + np.arange(len(slots))
        self.time[at] = time
        for name, column in columns.items():
            self.columns[name][at] = column
        self.stop[keys] += many
        return at

    def _make_room(self, more: Ints, oldest: int) -> None:
        self.begin = self.first_after(np.full(len(self.begin), oldest), self.begin, self.stop)
        held = self.stop - self.begin
        wanted = held + more
        limit = np.cumsum(wanted + wanted // 2)
        begin = limit - wanted - wanted // 2
        old = Runs.make(self.begin, held)
        new = old.number + (begin - self.begin)[old.of]
        for name, column in [("", self.time), *self.columns.items()]:
            moved = np.empty(int(limit[-1]), column.dtype)
            moved[new] = column[old.number]
            if name:
                self.columns[name] = moved
            else:
                self.time = moved
        self.begin, self.stop, self._limit = begin, begin + held, limit

    def first_after(self, time: Times, low: Ints, high: Ints) -> Ints:
        """Index of the first reading in each range `[low, high)` that is newer than a time; `high` if none is."""
        low, high = low.copy(), high.copy()
        while len(at := np.flatnonzero(low < high)):
            middle = (low[at] + high[at]) // 2
            newer = self.time[middle] > time[at]
            high[at[newer]] = middle[newer]
            low[at[~newer]] = middle[~newer] + 1
        return low

    @property
    def nbytes(self) -> int:
        """Memory."""
        arrays = [self.time, self.begin, self.stop, self._limit, *self.columns.values()]
        return sum(a.nbytes for a in arrays)

    def save(self) -> State:
        """As plain values."""
        held = Runs.make(self.begin, self.stop - self.begin).number
        columns = {n: c[held] for n, c in self.columns.items()}
        return {"held": self.stop - self.begin, "time": self.time[held], "columns": columns}

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        self.time, self.columns = state["time"], state["columns"]
        self.stop = np.cumsum(state["held"])
        self.begin, self._limit = self.stop - state["held"], self.stop


class SlidingOperator(Late):
    """Emits one row for each reading, when the watermark has passed it; its window is `(time − size, time]`."""

    by_frame = False

    def __init__(self, sliding: Sliding, spec: WindowSpec, env: Env) -> None:
        self.sliding, self._keys, self._output = sliding, env.keys, Output(spec)
        self._fold = Fold(dict(spec.aggs), dict(spec.dtypes), env.bytes_max)
        self._row = self._fold.cells.take_row()
        self._history = History(dict(spec.dtypes))
        columns = {n: np.empty(0, d) for n, d in spec.dtypes}
        self._waiting = Batch(NO_NAMES, np.empty(0, np.int32), np.empty(0, np.int64), columns)  # in order of arrival
        self._ended = TIME_MIN  # readings older than this were emitted because all inputs had ended

    def process(self, *inputs: Flow) -> Flow:
        """Take rows in, emit those that have their final place."""
        (flow,) = inputs
        flow, self.late = split_old(flow, self.sliding.late, self._ended)
        self.late_rows += len(self.late.batch)
        if len(flow.batch):
            b = flow.batch
            self._waiting = join_rows([self._waiting, Batch(NO_NAMES, b.codes, b.time, values_of(self._fold, b))])
        bound = limit(flow.watermark, self.sliding.late)
        ready = self._waiting.time <= bound
        out = self._release(ready) if ready.any() else self._output.none()
        if flow.watermark == TIME_MAX and len(out):
            self._ended = max(self._ended, int(out.time.max()))
        return Flow(out, bound if TIME_MIN < flow.watermark < TIME_MAX else flow.watermark)

    def _release(self, ready: Array) -> Batch:
        rows = self._waiting.take(ready)
        self._waiting = self._waiting.take(~ready)
        rows = rows.take(np.lexsort((rows.time, rows.codes)))  # stable: of equal times in order of arrival
        h = self._history
        h.reserve(self._keys())
        at = h.append(rows.codes, rows.time, rows.columns, int(rows.time.min()) - self.sliding.size)
        first = h.first_after(rows.time - self.sliding.size, h.begin[rows.codes], at)
        h.begin[rows.codes] = first  # the last assignment wins: what the newest reading of each key sees
        return join_rows([self._fold_ranges(rows.codes[some], first[some], at[some]) for some in _chunks(first, at)])

    def _fold_ranges(self, slots: Array, first: Ints, last: Ints) -> Batch:
        """Results of readings that stand at `last` and see those from `first` on."""
        seen = Runs.make(first, last - first + 1)
        h, fold, row = self._history, self._fold, self._row
        fold.cells.reserve(len(last))
        values = {n: c[seen.number] for n, c in h.columns.items()}
        fold.update(np.full(len(seen.of), row), seen.of, values, h.time[seen.number])
        _, results = fold.results(np.array([[row]]), slice(0, len(last)))
        fold.release([row])
        self._row = fold.cells.take_row()
        time = h.time[last]
        return self._output.rows(slots, time - self.sliding.size + 1, time, {n: r[0] for n, r in results.items()})

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._fold.nbytes + self._history.nbytes + rows_bytes(self._waiting)

    def save(self) -> State:
        """See `Operator.save`."""
        return {"ended": self._ended, "waiting": save_rows(self._waiting), "history": self._history.save()}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._ended, self._waiting = state["ended"], load_rows(state["waiting"])
        self._history.load(state["history"])


def _chunks(first: Ints, last: Ints) -> list[slice]:
    """Pieces of readings that see few enough together."""
    pairs = np.cumsum(last - first + 1)
    cuts = (np.flatnonzero(np.diff(pairs // PAIRS_AT_ONCE_MAX)) + 1).tolist()
    return [slice(low, high) for low, high in zip([0, *cuts], [*cuts, len(last)], strict=True)]
