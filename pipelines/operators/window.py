"""The window operator: a keyed fold over slices of event time."""

from __future__ import annotations

import numpy as np

from pipelines.aggregates import Fold, Ints
from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late, join_rows
from pipelines.plan import WindowSpec
from pipelines.state import State

CELLS_AT_ONCE_MAX = 1 << 20  # (window, slice, slot) cells merged in one go when many windows close


class WindowOperator(Late):
    """Folds rows into slices; when the watermark closes windows, emits one row for each key that has readings in it."""

    by_frame = False

    def __init__(self, spec: WindowSpec, env: Env) -> None:
        self.window, self.computed, self._keys = spec.over, dict(spec.computed), env.keys
        self.fold = Fold(dict(spec.aggs), dict(spec.dtypes), env.bytes_max)
        self._dtypes = {f.qualified: f.dtype for f in spec.fields}
        self._rows: dict[int, int] = {}  # start of an open slice -> its row in the state
        self._closed = TIME_MIN  # windows that end here or earlier have been emitted
        self._ended = TIME_MIN  # those that end here or earlier were closed because all inputs had ended

    def process(self, *inputs: Flow) -> Flow:
        """Add rows, close windows. Rows all of whose windows are closed become `late`."""
        (flow,) = inputs
        self.fold.cells.reserve(self._keys())
        flow = self._split_late(flow)
        emitted = [self._step(part) for part in self._parts(flow)]
        return Flow(join_rows(emitted), self.window.out_watermark(flow.watermark))

    def _split_late(self, flow: Flow) -> Flow:
        self.late = flow.take(slice(0, 0))
        if not len(flow.batch):
            return flow
        strictest = TIME_MIN if flow.seen is None else self.window.limit(int(flow.seen.max()))
        if flow.batch.time.min() >= max(strictest, self._ended):
            return flow  # even the oldest row is in time for the strictest limit
        limits = TIME_MIN if flow.seen is None else self.window.limits(flow.seen)
        late = self.window.last_end(flow.batch.time) <= np.maximum(limits, self._ended)
        if not late.any():
            return flow
        self.late = flow.take(late)
        self.late_rows += int(late.sum())
        return flow.take(~late)

    def _parts(self, flow: Flow) -> list[Flow]:
        """Usually the flow itself; cut at the frames where a window closes that a later row would wrongly enter, or where
        all slices at once would be too many."""
        seen = flow.seen
        if seen is None or not len(seen) or not (self._crosses(flow, seen) or self._is_wide(flow)):
            return [flow]
        cuts = np.flatnonzero(np.diff(seen)) + 1
        edges = [0, *cuts.tolist(), len(seen)]
        marks = [int(seen[0]), *(int(seen[c]) for c in cuts), flow.watermark]
        parts = [Flow(flow.batch.take(slice(0, 0)), marks[0])]
        for low, high, after in zip(edges[:-1], edges[1:], marks[1:], strict=True):
            parts.append(Flow(flow.batch.take(slice(low, high)), after))
        return parts

    def _crosses(self, flow: Flow, seen: Times) -> bool:
        """Whether a row arrived after some, not all, of its windows had closed."""
        w, time = self.window, flow.batch.time
        if w.slices == 1 or time.min() >= w.limit(int(seen.max())):
            return False
        return bool((w.first_end(time) <= w.limits(seen)).any())

    def _is_wide(self, flow: Flow) -> bool:
        span = (int(flow.batch.time.max()) - int(flow.batch.time.min())) // self.window.slice
        return min(span, len(flow.batch)) * self.fold.cells.slots > CELLS_AT_ONCE_MAX

    def _step(self, flow: Flow) -> Batch:
        if len(flow.batch):
            self._add(flow.batch)
        limit = self.window.limit(flow.watermark)
        ends = (
            self.window.closing(np.array(sorted(self._rows), np.int64), self._closed, limit)
            if self._due(limit)
            else _NO_TIMES
        )
        out = [self._emit(part, slots) for part in self._portions(ends) for slots in self._slot_blocks()]
        if limit != TIME_MAX:
            self._closed = max(self._closed, limit)
        elif len(ends):
            self._closed = self._ended = max(
                self._closed, int(ends[-1])
            )  # should an input come back, it goes on from here
        self._release()
        return join_rows(out) if out else self._empty()

    def _add(self, batch: Batch) -> None:
        starts = batch.time // self.window.slice
        low = int(starts.min())
        span = int(starts.max()) - low + 1
        if span == 1:
            rows = np.full(len(starts), self._row(low), np.int64)
        elif span <= 4 * len(starts):
            present = np.zeros(span, np.int64)
            present[starts - low] = 1
            for i in np.flatnonzero(present):
                present[i] = self._row(low + int(i))
            rows = present[starts - low]
        else:
            distinct, inverse = np.unique(starts, return_inverse=True)
            rows = np.array([self._row(int(s)) for s in distinct], np.int64)[inverse]
        with np.errstate(all="ignore"):
            values = {name: np.asarray(of.on(batch.columns)) for name, of in self.fold.columns.items()}
        self.fold.update(rows, batch.codes, values, batch.time)

    def _row(self, index: int) -> int:
        start = index * self.window.slice
        row = self._rows.get(start)
        if row is None:
            row = self._rows[start] = self.fold.cells.take_row()
        return row

    def _due(self, limit: int) -> bool:
        """Whether a window can close: a boundary lies in (closed, limit]."""
        if not self._rows or limit <= self._closed:
            return False
        earliest = int(self.window.first_end(np.array([min(self._rows)]))[0])
        return max(earliest, self.window.next_end(self._closed)) <= limit

    def _portions(self, ends: Ints) -> list[Ints]:
        """Ends in groups small enough to merge at once."""
        count = max(1, CELLS_AT_ONCE_MAX // (self.window.slices * self.fold.cells.slots))
        return [ends[i : i + count] for i in range(0, len(ends), count)]

    def _slot_blocks(self) -> list[slice]:
        """Ranges of slots small enough to merge one window at once."""
        slots, size = self._keys(), max(1, CELLS_AT_ONCE_MAX // self.window.slices)
        return [slice(low, min(low + size, slots)) for low in range(0, slots, size)]

    def _emit(self, ends: Ints, slots: slice) -> Batch:
        w = self.window
        slices = (ends - w.size)[:, None] + np.arange(w.slices) * w.slice
        rows = np.array([[self._rows.get(int(s), 0) for s in window] for window in slices], np.int64)
        counts, results = self.fold.results(rows, slots)
        at, slot = np.nonzero(counts)
        known: dict[str, Array] = {n: r[at, slot] for n, r in results.items()}
        with np.errstate(all="ignore"):
            for name, expr in self.computed.items():
                known[name] = np.broadcast_to(expr.on(known), at.shape)
        columns = {n: known[n] for n in self._dtypes} | {WINDOW_START: ends[at] - w.size}
        return Batch(NO_NAMES, (slot + slots.start).astype(np.int32), ends[at] - 1, columns)

    def _empty(self) -> Batch:
        columns = {n: np.empty(0, d) for n, d in self._dtypes.items()} | {WINDOW_START: _NO_TIMES}
        return Batch(NO_NAMES, np.empty(0, np.int32), _NO_TIMES, columns)

    def _release(self) -> None:
        """Forget slices whose last window is closed."""
        if not self._rows or self._closed == TIME_MIN:
            return
        starts = np.fromiter(self._rows, np.int64, len(self._rows))
        done = starts[self.window.last_end(starts) <= self._closed]
        if len(done):
            self.fold.release([self._rows.pop(int(s)) for s in done])

    @property
    def open(self) -> int:
        """Slices that hold readings of windows not yet emitted."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.fold.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        starts = sorted(self._rows)
        fold = self.fold.save([self._rows[s] for s in starts], self._keys())
        return {"closed": self._closed, "ended": self._ended, "starts": starts, "fold": fold}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._closed, self._ended = state["closed"], state["ended"]
        self._rows = {s: self.fold.cells.take_row() for s in state["starts"]}
        self.fold.load(list(self._rows.values()), state["fold"])


_NO_TIMES = np.empty(0, np.int64)
