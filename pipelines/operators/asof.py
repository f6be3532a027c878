"""As-of join: each row of a stream with the newest row of a table, of the same key, strictly before it in event time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch
from pipelines.expr import Array
from pipelines.operators.flow import NO_NAMES, Flow, join_rows
from pipelines.plan import JoinSpec
from pipelines.state import State

SEEN = "~seen"  # column of waiting rows: the watermark in force when each arrived


class AsOfJoin:
    """Holds rows until the table's watermark has reached them; keeps the versions of the table that they may need."""

    by_frame = True  # late rows must see the same versions however frames are grouped

    def __init__(self, spec: JoinSpec, left: Mapping[str, str], right: Mapping[str, str]) -> None:
        """`left` and `right`: dtypes of the columns by qualified name."""
        self.spec = spec
        self._left, self._right = dict(left) | {SEEN: "int64"}, {n: d for n, d in right.items() if n != WINDOW_START}
        self._waiting = _empty(self._left)
        self._versions = _empty(self._right)

    def process(self, *inputs: Flow) -> Flow:
        """Take new rows of both sides; release those whose versions of the table are complete."""
        left, right = inputs
        if len(right.batch):
            columns = {n: right.batch.columns[n] for n in self._right}
            self._versions = join_rows([self._versions, Batch(NO_NAMES, right.batch.codes, right.batch.time, columns)])
        if len(left.batch):
            seen = np.full(len(left.batch), TIME_MIN) if left.seen is None else left.seen
            self._waiting = join_rows([self._waiting, replace(left.batch, columns={**left.batch.columns, SEEN: seen})])
        upto = max(right.watermark, self._patience(left.watermark))
        ready = self._waiting.time <= upto
        out = self._lookup(self._waiting.take(ready))
        if ready.any():
            self._waiting = self._waiting.take(~ready)
        if len(right.batch):
            self._forget(left.watermark)
        columns = dict(out.columns)
        seen = columns.pop(SEEN)
        after = left.watermark if upto >= left.watermark else min(left.watermark, upto + 1)
        return Flow(replace(out, columns=columns), after, seen)

    def _patience(self, watermark: int) -> int:
        if self.spec.wait is None or watermark == TIME_MIN:
            return TIME_MIN
        return watermark if watermark == TIME_MAX else watermark - self.spec.wait

    def _lookup(self, rows: Batch) -> Batch:
        at = _as_of(rows, self._versions)
        found = at >= 0
        if self.spec.how == "inner":
            rows, at, found = rows.take(found), at[found], found[found]
        columns: dict[str, Array] = dict(rows.columns)
        fill = dict(self.spec.fill)
        for name, dtype in self._right.items():
            values = np.full(len(rows), fill.get(name, np.nan if dtype.startswith("float") else 0), dtype)
            values[found] = self._versions.columns[name][at[found]]
            columns[name] = values
        return Batch(NO_NAMES, rows.codes, rows.time, columns)

    def _forget(self, watermark: int) -> None:
        """Drop versions that neither a waiting row nor one to come can see: all but the newest before both."""
        bound = min(watermark, int(self._waiting.time.min(initial=TIME_MAX)))
        v = self._versions
        order = np.lexsort((v.time, v.codes))
        codes, old = v.codes[order], v.time[order] < bound
        replaced = np.zeros(len(order), bool)
        replaced[:-1] = old[:-1] & old[1:] & (codes[:-1] == codes[1:])
        self._versions = v.take(np.sort(order[~replaced]))

    @property
    def nbytes(self) -> int:
        """Memory of both sides."""
        return sum(
            b.codes.nbytes + b.time.nbytes + sum(c.nbytes for c in b.columns.values())
            for b in (self._waiting, self._versions)
        )

    def save(self) -> State:
        """See `Operator.save`."""
        return {"waiting": _save(self._waiting), "versions": _save(self._versions)}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._waiting, self._versions = _load(state["waiting"]), _load(state["versions"])


def _as_of(rows: Batch, versions: Batch) -> npt.NDArray[np.int64]:
    """Index of the version each row sees, −1 if none: the newest of its key strictly before its time."""
    n = len(rows)
    codes = np.concatenate([rows.codes, versions.codes])
    time = np.concatenate([rows.time, versions.time])
    side = np.zeros(len(codes), np.int8)
    side[n:] = 1
    order = np.lexsort((side, time, codes))  # stable; at equal times rows come before versions: they do not see them
    newest = np.maximum.accumulate(np.where(order >= n, np.arange(len(order)), -1))
    seen = np.where(newest >= 0, order[newest], -1)
    same = (seen >= 0) & (codes[seen] == codes[order])
    found = np.empty(len(order), np.int64)
    found[order] = np.where(same, seen - n, -1)
    return found[:n]


def _empty(dtypes: Mapping[str, str]) -> Batch:
    return Batch(NO_NAMES, np.empty(0, np.int32), np.empty(0, np.int64), {n: np.empty(0, d) for n, d in dtypes.items()})


def _save(b: Batch) -> State:
    return {"codes": b.codes, "time": b.time, "columns": dict(b.columns)}


def _load(state: State) -> Batch:
    return Batch(NO_NAMES, state["codes"], state["time"], state["columns"])
