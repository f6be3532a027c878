"""Session windows: readings of a key that follow each other within a gap.

Readings of a key in one slice as wide as the gap always belong together. So they are folded into slices like those of
other windows; when no reading can enter a slice any more it is merged into the *open* session of each key, or begins
a new one. State is one cell for each key and as many slices as fit into `late`, however long sessions are.
"""

from __future__ import annotations

import numpy as np

from pipelines.aggregates import Ints
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.expr import Array
from pipelines.operators.flow import Env, Flow, Late
from pipelines.operators.slices import CELLS_AT_ONCE_MAX, Output, Slices, Spans, split_old
from pipelines.plan import WindowSpec
from pipelines.state import State
from pipelines.windows import Session, limit

OPEN = TIME_MIN  # stands for the slice of what has been merged: the sessions that are open


class SessionOperator(Late):
    """Emits one row for each session: `window_start` is the time of its first reading, `time` that of its last."""

    by_frame = False

    def __init__(self, session: Session, spec: WindowSpec, env: Env) -> None:
        self.session, self._keys, self._output = session, env.keys, Output(spec)
        self.slices = Slices(spec, env)
        self._spans = Spans(self.slices.fold)
        self._open = self.slices.rows[OPEN] = self.slices.fold.cells.take_row()
        self._ended = TIME_MIN  # time of the newest reading when all inputs had ended

    def process(self, *inputs: Flow) -> Flow:
        """Add rows, close sessions."""
        (flow,) = inputs
        self.slices.fold.cells.reserve(self._keys())
        flow, self.late = split_old(flow, self.session.late, self._ended)
        self.late_rows += len(self.late.batch)
        out: list[Batch] = []
        for part in self._parts(flow):
            if len(part.batch):
                rows = self.slices.add(part.batch, part.batch.time // self.session.gap)
                self._spans.add(rows, part.batch.codes, part.batch.time)
            out += self._settle(limit(part.watermark, self.session.late), end=part.watermark == TIME_MAX)
        return Flow(self._output.joined(out), self._out_watermark(flow.watermark))

    def _parts(self, flow: Flow) -> list[Flow]:
        """All at once, or by frames where all slices at once would be too many."""
        seen, time = flow.seen, flow.batch.time
        if seen is None or not len(seen):
            return [flow]
        spread = min(int(time.max() - time.min()) // self.session.gap, len(time))
        if spread * self.slices.fold.cells.slots <= CELLS_AT_ONCE_MAX:
            return [flow]
        cuts = (np.flatnonzero(np.diff(seen)) + 1).tolist()
        marks = [*(int(seen[c]) for c in cuts), flow.watermark]
        bounds = zip([0, *cuts], [*cuts, len(seen)], marks, strict=True)
        return [Flow(flow.batch.take(slice(low, high)), after) for low, high, after in bounds]

    def _settle(self, bound: int, *, end: bool) -> list[Batch]:
        """Merge the slices that lie before `bound`, older than which no reading will come; emit the sessions that are over."""
        gap, spans, out = self.session.gap, self._spans, []
        done = [i for i in self.slices.open()[1:] if (i + 1) * gap <= bound]
        for i in done:
            out += self._merge(self.slices.rows[int(i)])
        self.slices.release(np.array(done, np.int64))
        last = spans.high[self._open]
        over = np.flatnonzero((last != TIME_MIN) & (last < bound - gap))
        if len(over) and (row := self.slices.rows.get(bound // gap)) is not None:
            over = over[spans.low[row, over] > last[over] + gap]  # the others go on in the slice that `bound` divides
        if end:
            self._ended = max(self._ended, int(last.max()))
        return out + self._close(over)

    def _merge(self, row: int) -> list[Batch]:
        """Merge a slice into the open sessions, closing those that it does not continue."""
        fold, spans = self.slices.fold, self._spans
        slots = np.flatnonzero(spans.high[row] != TIME_MIN)
        last = spans.high[self._open, slots]
        new = (last == TIME_MIN) | (spans.low[row, slots] - self.session.gap > last)
        out = self._close(slots[new & (last != TIME_MIN)])
        fold.absorb(self._open, row, slots)
        spans.low[self._open, slots] = np.minimum(spans.low[self._open, slots], spans.low[row, slots])
        spans.high[self._open, slots] = spans.high[row, slots]
        spans.clear(row)
        return out

    def _close(self, slots: Ints) -> list[Batch]:
        if not len(slots):
            return []
        block = slice(int(slots[0]), int(slots[-1]) + 1)
        _, results = self.slices.fold.results(np.array([[self._open]]), block)
        known: dict[str, Array] = {n: r[0, slots - block.start] for n, r in results.items()}
        rows = self._output.rows(slots, self._spans.low[self._open, slots], self._spans.high[self._open, slots], known)
        self.slices.fold.clear(self._open, slots)
        self._spans.clear(self._open, slots)
        return [rows]

    def _out_watermark(self, watermark: int) -> int:
        """A session that is still open, or begins, ends no earlier than `gap` before what no reading will precede."""
        if watermark in (TIME_MIN, TIME_MAX):
            return watermark
        return limit(watermark, self.session.late) - self.session.gap

    @property
    def open(self) -> int:
        """Slices that hold readings not yet merged."""
        return len(self.slices.rows) - 1

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.slices.fold.nbytes + self._spans.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        rows = [self.slices.rows[s] for s in sorted(self.slices.rows)]
        spans = self._spans.save(rows, self._keys())
        return {"ended": self._ended, "spans": spans, **self.slices.save(self._keys())}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._ended = state["ended"]
        self.slices.fold.release([self._open])
        self.slices.load(state)
        self._open = self.slices.rows[OPEN]
        self._spans.load(list(self.slices.rows.values()), state["spans"])
