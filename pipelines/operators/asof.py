"""As-of join: each row of a stream with the newest row of a table, of the same key, strictly before it in event time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch, Times
from pipelines.operators.fetch import Fetch
from pipelines.operators.flow import NO_NAMES, Env, Flow, empty, join_rows, load_rows, rows_bytes, save_rows
from pipelines.operators.search import Ints, first_at_least, ranges
from pipelines.plan import JoinSpec
from pipelines.state import State

TURN = "~turn"  # column of waiting rows: their time, or if they came late the watermark that they were late for
SINCE = "~since"  # column of versions: the time from which rows see them, likewise


class AsOfJoin:
    """Holds rows until both watermarks have reached them, then emits them in order of time and arrival.

    A row sees the versions that were there when the table's watermark had just reached it: what a row finds depends on the
    rows of both sides, not on which was read first nor on how frames are grouped, unless the table is not waited for. A late
    row takes its turn with the watermark that it is late for: it gets the version newest then, if that is older than the row.
    """

    by_frame = False

    def __init__(self, spec: JoinSpec, left: Mapping[str, str], right: Mapping[str, str], env: Env) -> None:
        """`left` and `right`: dtypes of the columns by qualified name, of the right those that the result gets."""
        self.spec, self._keys = spec, env.keys
        right = {n: d for n, d in right.items() if n != WINDOW_START}
        self._fetch = Fetch(right, spec.fill)
        self._waiting = empty({**left, TURN: "int64"})
        self._versions = empty({**right, SINCE: "int64"})  # sorted by key and SINCE, and then by time too
        self._mark = TIME_MIN  # newest watermark of the rows

    @property
    def wait(self) -> int | None:
        """See `JoinSpec.wait`."""
        return self.spec.wait

    def process(self, *inputs: Flow) -> Flow:
        """Take new rows of both sides; release those whose versions of the table are complete."""
        left, right = inputs
        if len(right.batch):
            self._learn(right)
        if len(left.batch):
            turn = left.batch.time if left.seen is None else np.maximum(left.batch.time, left.seen)
            self._waiting = join_rows([self._waiting, replace(left.batch, columns={**left.batch.columns, TURN: turn})])
        if left.watermark < TIME_MAX:
            self._mark = max(self._mark, left.watermark)
        upto = max(right.watermark, self._patience(left.watermark))
        out, seen = self._release(min(left.watermark, upto))
        if len(right.batch):
            self._forget()
        return Flow(out, left.watermark if upto >= left.watermark else min(left.watermark, upto + 1), seen)

    def _patience(self, watermark: int) -> int:
        if self.spec.wait is None or watermark == TIME_MIN:
            return TIME_MIN
        return watermark if watermark == TIME_MAX else watermark - self.spec.wait

    def _learn(self, right: Flow) -> None:
        """Add versions; drop those that are older than one which rows see earlier."""
        new, columns = right.batch, {n: right.batch.columns[n] for n in self._fetch.dtypes}
        since = new.time
        if right.seen is not None and self.spec.wait != 0:  # a table that is not waited for has no late rows
            since = np.maximum(new.time, right.seen)
        v = join_rows([self._versions, Batch(NO_NAMES, new.codes, new.time, {**columns, SINCE: since})])
        v = v.take(np.lexsort((v.columns[SINCE], v.codes)))  # stable: of equal ones the last arrived is the last
        if (v.columns[SINCE] > v.time).any():
            rank = np.empty(len(v), np.int64)
            rank[np.lexsort((v.time, v.codes))] = np.arange(len(v))
            v = v.take(rank == np.maximum.accumulate(rank))
        self._versions = v

    def _release(self, bound: int) -> tuple[Batch, Times | None]:
        """Rows whose turn it is, and what they have seen if some of them are late."""
        ready = self._waiting.columns[TURN] <= bound
        rows = self._waiting.take(ready)
        if len(rows):
            self._waiting = self._waiting.take(~ready)
            rows = rows.take(np.argsort(rows.columns[TURN], kind="stable"))
        at = self._find(rows)
        if self.spec.how == "inner":
            rows, at = rows.take(at >= 0), at[at >= 0]
        columns = dict(rows.columns)
        turn = columns.pop(TURN)
        late = rows.time < turn
        seen = np.maximum.accumulate(np.where(late, turn, TIME_MIN)) if late.any() else None
        columns |= self._fetch(self._versions.columns, at)
        return Batch(NO_NAMES, rows.codes, rows.time, columns), seen

    def _find(self, rows: Batch) -> Ints:
        """Index of the version each row sees, −1 if none."""
        v, turn = self._versions, rows.columns[TURN]
        low, high = ranges(v.codes, self._keys(), rows.codes)
        at = first_at_least(v.columns[SINCE], low, high, turn) - 1
        if not len(v):
            return at
        time = v.time[at]
        found = (at >= low) & (time < rows.time)
        if self.spec.tolerance is not None:
            found &= time >= rows.time - self.spec.tolerance
        return np.where(found, at, -1)

    def _forget(self) -> None:
        """Drop versions that neither a waiting row nor one to come can see: all but the newest before the first turn."""
        v, bound = self._versions, min(self._mark, int(self._waiting.columns[TURN].min(initial=TIME_MAX)))
        old = v.columns[SINCE] < bound
        replaced = old[:-1] & old[1:] & (v.codes[:-1] == v.codes[1:])
        if replaced.any():
            self._versions = v.take(~np.append(replaced, False))

    @property
    def nbytes(self) -> int:
        """Memory of both sides."""
        return rows_bytes(self._waiting) + rows_bytes(self._versions)

    def save(self) -> State:
        """See `Operator.save`."""
        return {"waiting": save_rows(self._waiting), "versions": save_rows(self._versions), "mark": self._mark}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._waiting, self._versions = load_rows(state["waiting"]), load_rows(state["versions"])
        self._mark = state["mark"]
