"""Count windows: the newest readings of a key whenever so many more have arrived, whatever their times.

The readings of a key are numbered as they arrive and folded into slices of gcd(size, every) readings; a state row is
one slice of one key.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from pipelines.aggregates import Fold, Ints
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.expr import Array
from pipelines.operators.flow import Env, Flow
from pipelines.operators.slices import Output, Runs, Spans, values_of
from pipelines.plan import WindowSpec
from pipelines.state import State
from pipelines.windows import Count


class CountOperator:
    """Emits one row for each count window: `window_start` and `time` are the oldest and newest event time in it."""

    by_frame = False

    def __init__(self, count: Count, spec: WindowSpec, env: Env) -> None:
        self._width = gcd(count.size, count.every)  # of slices, in readings
        self._size, self._hop = count.size // self._width, count.every // self._width  # of windows, in slices
        self._keys, self._output = env.keys, Output(spec)
        self.fold = Fold(dict(spec.aggs), dict(spec.dtypes), env.bytes_max, slots=1)
        self._spans = Spans(self.fold)
        self._watermark = TIME_MIN
        self._counts = np.zeros(0, np.int64)  # readings of each key
        self._rows = np.zeros((0, self._size), np.int64)  # state row of slice s of each key at s % size; 0: none

    def process(self, *inputs: Flow) -> Flow:
        """Add rows; emit the windows that are complete, at the end of all inputs also those that are not."""
        (flow,) = inputs
        new = self._keys() - len(self._counts)
        self._counts = np.pad(self._counts, (0, new))
        self._rows = np.pad(self._rows, ((0, new), (0, 0)))
        out, seen = [], []
        if len(flow.batch):
            batch, completing = self._add(flow.batch)
            out.append(batch)
            seen.append(np.full(len(batch), TIME_MIN) if flow.seen is None else flow.seen[completing])
        if flow.watermark == TIME_MAX:
            out.append(self._end())
            seen.append(np.full(len(out[-1]), self._watermark))
        else:
            self._watermark = flow.watermark
        return Flow(self._output.joined(out), flow.watermark, np.concatenate(seen) if seen else None)

    def _needed(self, counts: Ints) -> Ints:
        """Number of the oldest slice that a window still to come holds."""
        return np.maximum((counts // self._width // self._hop + 1) * self._hop - self._size, 0)

    def _add(self, batch: Batch) -> tuple[Batch, Ints]:
        """Results, and for each the index of the reading that completed its window."""
        codes = batch.codes.astype(np.uint16) if len(self._counts) <= 2**16 else batch.codes  # sorted by radix
        order = np.argsort(codes, kind="stable")
        sorted_codes = batch.codes[order]
        begins = np.flatnonzero(np.diff(sorted_codes, prepend=-1))
        slots, many = sorted_codes[begins], np.diff(begins, append=len(order))
        before = self._counts[slots]
        after = self._counts[slots] = before + many

        first, known = self._needed(before), -(-before // self._width)
        held = Runs.make(first, -(-after // self._width) - first)  # slices of each key, from the first still needed
        rows = self._rows[slots[held.of], held.number % self._size]
        fresh = held.number >= known[held.of]
        rows[fresh] = self.fold.cells.take_rows(int(fresh.sum()))

        key = np.repeat(np.arange(len(slots)), many)
        position = np.arange(len(order)) + (before - begins)[key]
        at = np.empty(len(order), np.int64)
        at[order] = rows[(held.begin - first)[key] + position // self._width]
        none = np.zeros(len(order), np.int64)
        self.fold.update(at, none, values_of(self.fold, batch), batch.time)
        self._spans.add(at, none, batch.time)

        done = before // self._width // self._hop
        ends = Runs.make(done + 1, after // self._width // self._hop - done)
        end = ends.number * self._hop
        slices = end[:, None] - self._size + np.arange(self._size)
        index = (held.begin - first)[ends.of][:, None] + slices
        out = self._rows_of(slots[ends.of], np.where(slices >= 0, rows[np.maximum(index, 0)], 0))
        completing = order[(begins - before)[ends.of] + end * self._width - 1]

        kept = held.number >= self._needed(after)[held.of]
        self._forget(rows[~kept])
        self._rows[slots[held.of[kept]], held.number[kept] % self._size] = rows[kept]
        return out, completing

    def _rows_of(self, slots: Array, windows: Ints) -> Batch:
        """Result rows of windows given as state rows, shape (windows, slices)."""
        if not len(windows):
            return self._output.none()
        _, results = self.fold.results(windows, slice(0, 1))
        low, high = (a[:, 0][windows] for a in (self._spans.low, self._spans.high))
        return self._output.rows(slots, low.min(axis=1), high.max(axis=1), {n: r[:, 0] for n, r in results.items()})

    def _end(self) -> Batch:
        """Emit what the windows next to complete hold; all keys begin anew."""
        slots = np.flatnonzero(self._counts % (self._width * self._hop))
        counts = self._counts[slots]
        slices = self._needed(counts)[:, None] + np.arange(self._size)
        held = slices * self._width < counts[:, None]
        out = self._rows_of(slots, np.where(held, self._rows[slots[:, None], slices % self._size], 0))
        self._forget(self._held())
        self._counts[:], self._rows[:] = 0, 0
        return out

    def _held(self) -> Ints:
        """The state rows in use."""
        first = self._needed(self._counts)
        held = Runs.make(first, -(-self._counts // self._width) - first)
        return self._rows[held.of, held.number % self._size]

    def _forget(self, rows: Ints) -> None:
        self.fold.release(rows.tolist())
        self._spans.clear(rows)

    @property
    def open(self) -> int:
        """Slices that hold readings of windows not yet emitted."""
        return len(self._held())

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.fold.nbytes + self._spans.nbytes + self._rows.nbytes + self._counts.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        rows = self._held().tolist()
        return {
            "watermark": self._watermark,
            "counts": self._counts,
            "fold": self.fold.save(rows, 1),
            "spans": self._spans.save(rows, 1),
        }

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._watermark, self._counts = state["watermark"], state["counts"]
        self._rows = np.zeros((len(self._counts), self._size), np.int64)
        first = self._needed(self._counts)
        held = Runs.make(first, -(-self._counts // self._width) - first)
        rows = self.fold.cells.take_rows(len(held.of))
        self._rows[held.of, held.number % self._size] = rows
        self.fold.load(rows, state["fold"])
        self._spans.load(rows, state["spans"])
