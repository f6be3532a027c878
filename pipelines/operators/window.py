"""The window operator: a keyed fold over slices of event time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.aggregates import Ints
from pipelines.batch import TIME_MAX, TIME_MIN, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import Env, Flow, Late
from pipelines.operators.slices import CELLS_AT_ONCE_MAX, NO_TIMES, Output, Slices
from pipelines.plan import WindowSpec
from pipelines.state import Cells, State
from pipelines.windows import Window


@dataclass(frozen=True, slots=True)
class Part:
    """Rows with the numbers of their slices, and the watermark after them."""

    batch: Batch
    index: Times
    watermark: int


class Shown:
    """What early results have told of each open window: how many readings it had then, and how often."""

    def __init__(self) -> None:
        self.cells = Cells({"count": ("int64", 0), "revision": ("int64", 0)})
        self.rows: dict[int, int] = {}  # end of a window -> its row

    def of(self, ends: Times, *, take: bool) -> Ints:
        """The rows of windows; for new ones 0, or with `take` rows of their own."""
        if take:
            self.rows |= {e: self.cells.take_row() for e in ends.tolist() if e not in self.rows}
        return np.array([self.rows.get(e, 0) for e in ends.tolist()], np.int64)

    def release(self, ends: Times) -> None:
        """Forget windows."""
        self.cells.release([self.rows.pop(e) for e in ends.tolist() if e in self.rows])

    def save(self, keys: int) -> State:
        """As plain values."""
        return {"ends": list(self.rows), "cells": self.cells.save(list(self.rows.values()), keys)}

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        self.rows = {e: self.cells.take_row() for e in state["ends"]}
        self.cells.load(list(self.rows.values()), state["cells"])


class WindowOperator(Late):
    """Folds rows into slices; when the watermark closes windows, emits one row for each key that has readings in it."""

    def __init__(self, window: Window, spec: WindowSpec, env: Env) -> None:
        self.window, self._keys, self._output = window, env.keys, Output(spec)
        self.by_frame = window.early > 0  # early results must see the watermark after each frame
        self.slices = Slices(spec, env, carry=True)
        self._marks = {name: mark.fn for name, mark in spec.marks}
        self._shown = Shown()
        self._tick = TIME_MIN  # how many times `early` the watermark has passed
        self._closed = self._ended = self.window.limit(TIME_MIN)  # windows that end here or earlier have been emitted
        # (`_ended`: they were closed because all inputs had ended)

    def process(self, *inputs: Flow) -> Flow:
        """Add rows, close windows. Rows all of whose windows are closed become `late`."""
        (flow,) = inputs
        self._reserve()
        flow, index = self._split_late(flow)
        emitted = [batch for part in self._parts(flow, index) for batch in self._step(part)]
        emitted += self._early(flow.watermark)
        return Flow(self._output.joined(emitted), self.window.out_watermark(flow.watermark))

    def _reserve(self) -> None:
        self.slices.fold.cells.reserve(self._keys())
        if self.window.early:
            self._shown.cells.reserve(self._keys())

    def _split_late(self, flow: Flow) -> tuple[Flow, Times]:
        """The rows that are in time and the numbers of their slices."""
        self.late = flow.take(slice(0, 0))
        index = self.window.grid.index(flow.batch.time)
        if not len(index):
            return flow, index
        strictest = self._ended if flow.seen is None else max(self._ended, self.window.limit(int(flow.seen.max())))
        if self.window.last_end(index.min()) > strictest:
            return flow, index  # even the oldest row is in time for the strictest limit
        limits = self._ended if flow.seen is None else np.maximum(self.window.limits(flow.seen), self._ended)
        late = self.window.last_end(index) <= limits
        if not late.any():
            return flow, index
        self.late = flow.take(late)
        self.late_rows += int(late.sum())
        return flow.take(~late), index[~late]

    def _parts(self, flow: Flow, index: Times) -> list[Part]:
        """Usually all at once; cut at the frames where a window closes that a later row would wrongly enter, or where all
        slices at once would be too many."""
        seen = flow.seen
        if seen is None or not len(seen) or not (self._crosses(index, seen) or self._is_wide(index)):
            return [Part(flow.batch, index, flow.watermark)]
        cuts = np.flatnonzero(np.diff(seen)) + 1
        edges = [0, *cuts.tolist(), len(seen)]
        marks = [int(seen[0]), *(int(seen[c]) for c in cuts), flow.watermark]
        parts = [Part(flow.batch.take(slice(0, 0)), index[:0], marks[0])]
        for low, high, after in zip(edges[:-1], edges[1:], marks[1:], strict=True):
            parts.append(Part(flow.batch.take(slice(low, high)), index[low:high], after))
        return parts

    def _crosses(self, index: Times, seen: Times) -> bool:
        """Whether a row arrived after some, not all, of its windows had closed."""
        w = self.window
        if w.size == 1 or w.first_end(index.min()) > w.limit(int(seen.max())):
            return False
        return bool((w.first_end(index) <= w.limits(seen)).any())

    def _is_wide(self, index: Times, cells_max: int = CELLS_AT_ONCE_MAX) -> bool:
        return min(int(index.max() - index.min()), len(index)) * self.slices.fold.cells.slots > cells_max

    def _step(self, part: Part) -> list[Batch]:
        if len(part.batch):
            self.slices.add(part.batch, part.index)
        limit = self.window.limit(part.watermark)
        ends = self.window.closing(self.slices.open(), self._closed, limit) if self._due(limit) else NO_TIMES
        out = self._emit(ends, [slice(0, self._keys())])
        if part.watermark != TIME_MAX:
            self._closed = max(self._closed, limit)
        elif len(ends):  # should an input come back, it goes on from here
            self._closed = self._ended = max(self._closed, int(ends[-1]))
        if len(ends):
            open_ = self.slices.open()
            self.slices.release(open_[self.window.last_end(open_) <= self._closed])
            self._shown.release(ends)
        return out

    def _due(self, limit: int) -> bool:
        """Whether a window can close: one that holds readings ends in (closed, limit]."""
        if not self.slices.rows or limit <= self._closed:
            return False
        earliest = int(self.window.first_end(np.array(min(self.slices.rows))))
        return max(earliest, int(self.window.next_end(np.array(self._closed)))) <= limit

    def _early(self, watermark: int) -> list[Batch]:
        """When a multiple of `early` has been passed: the open windows that have changed."""
        if not self.window.early or watermark in (TIME_MIN, TIME_MAX):
            return []
        before, self._tick = self._tick, max(self._tick, watermark // self.window.early)
        if before in (TIME_MIN, self._tick):
            return []
        return self._emit(self._open_ends(), [slice(0, self._keys())], final=False)

    def _open_ends(self) -> Times:
        return self.window.closing(self.slices.open(), self._closed, self.window.limit(TIME_MAX))

    def _emit(self, ends: Times, slots: list[slice], *, final: bool = True) -> list[Batch]:
        """Windows for ranges of slots, in portions small enough to merge at once."""
        out, many = [], max(1, CELLS_AT_ONCE_MAX // self.window.size)  # (window, slot) cells at once
        for block in slots:
            for low in range(block.start, block.stop, many):
                part = slice(low, min(low + many, block.stop))
                count = max(1, many // (part.stop - part.start))
                out += [self._block(ends[i : i + count], part, final) for i in range(0, len(ends), count)]
        return out

    def _block(self, ends: Times, slots: slice, final: bool) -> Batch:
        w, shown = self.window, self._shown.cells
        counts, results = self.slices.results(ends - w.size, w.size, slots)
        wanted = self._wanted(ends, slots, counts, final)
        told = self._shown.of(ends, take=not final)
        if not final:
            wanted &= counts != shown["count"][told, slots]
        at, slot = np.nonzero(wanted)
        known: dict[str, Array] = {n: r[at, slot] for n, r in results.items()}
        for name, mark in self._marks.items():
            known[name] = (
                np.full(len(at), final) if mark == "final" else shown["revision"][told[at], slot + slots.start]
            )
        if not final:
            shown["count"][told[at], slot + slots.start] = counts[at, slot]
            shown["revision"][told[at], slot + slots.start] += 1
        return self._output.rows(slot + slots.start, w.start_ns(ends[at]), w.last_ns(ends[at]), known)

    def _wanted(self, ends: Times, slots: slice, counts: Ints, final: bool) -> Array:
        """Which windows and keys have something to tell, shape (windows, slots)."""
        return counts > 0

    @property
    def open(self) -> int:
        """Slices that hold readings of windows not yet emitted."""
        return len(self.slices.rows)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.slices.fold.nbytes + self._shown.cells.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        state: State = {"closed": self._closed, "ended": self._ended, **self.slices.save(self._keys())}
        if self.window.early:
            state |= {"tick": self._tick, "shown": self._shown.save(self._keys())}
        return state

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._closed, self._ended = state["closed"], state["ended"]
        self.slices.load(state)
        if self.window.early:
            self._tick = state["tick"]
            self._shown.load(state["shown"])
