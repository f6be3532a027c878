"""Resample: one row for each key and point of a grid in time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Batch, Times
from pipelines.expr import Array
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late
from pipelines.operators.ordered import Ordered
from pipelines.shapes import ResampleSpec
from pipelines.state import Cells, State

POINTS_AT_ONCE_MAX = 1 << 20


class Resample(Late):
    """Grid points between the samples of each key, in event time.

    A point takes the newest sample at or before it (`previous`), what lies on the straight line to the next one
    (`linear`), or the newest sample of its own step (`null`: NaN if there is none). Nothing further than `max_gap` from a
    sample.
    """

    by_frame = False

    def __init__(self, spec: ResampleSpec, env: Env, dtypes: Mapping[str, str]) -> None:
        self.spec, self._keys, self._dtypes = spec, env.keys, dict(dtypes)
        self._ordered = Ordered(dtypes, spec.late)
        blank = {n: (d, "" if d == "T" else 0) for n, d in dtypes.items()}
        self._cells = Cells(
            {"~known": ("bool", False), "~time": ("int64", 0), "~next": ("int64", 0), **blank}, env.bytes_max, rows=1
        )

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        self._cells.reserve(self._keys())
        batch, self.late = self._ordered.take(flow)
        self.late_rows += len(self.late.batch)
        limit = self._limit(flow.watermark, batch)
        out = self._points(batch, limit)
        return Flow(out, flow.watermark if flow.watermark in (TIME_MIN, TIME_MAX) else self._promise(limit))

    def _limit(self, watermark: int, batch: Batch) -> int:
        """Points before this are decided. At the end of all inputs: up to the newest sample, and not beyond."""
        if watermark != TIME_MAX:
            return self._ordered.upto
        times = self._cells["~time"][0][self._cells["~known"][0]]
        return max(int(batch.time.max(initial=TIME_MIN)), int(times.max(initial=TIME_MIN))) + 1

    def _promise(self, limit: int) -> int:
        """No point from now on is earlier than this."""
        if self.spec.fill != "linear":
            return limit
        known, time = self._cells["~known"][0], self._cells["~time"][0]
        alive = time[known & (time >= limit - self.spec.max_gap)]
        return min(limit, int(alive.min(initial=limit)))

    def _points(self, batch: Batch, limit: int) -> Batch:
        """Samples are those remembered and the new ones, by key and time; each gives the points up to the next."""
        known = np.flatnonzero(self._cells["~known"][0])
        slot = np.r_[known, batch.codes].astype(np.int64)
        time = np.r_[self._cells["~time"][0, known], batch.time]
        columns = {n: np.concatenate([self._cells[n][0, known], batch.columns[n]]) for n in self._dtypes}
        order = np.lexsort((time, slot))
        slot, time = slot[order], time[order]
        columns = {n: c[order] for n, c in columns.items()}
        last = np.r_[slot[1:] != slot[:-1], True][: len(slot)]
        begin, upto = self._range(slot, time, last, limit)
        self._keep(slot[last], time[last], {n: c[last] for n, c in columns.items()}, np.maximum(begin, upto)[last])
        return self._expand(slot, time, columns, begin, upto)

    def _range(self, slot: Array, time: Times, last: Array, limit: int) -> tuple[Times, Times]:
        """Numbers of the points that each sample gives: from, and up to but not with."""
        s = self.spec
        begin = -(-time // s.every)
        first = np.r_[True, slot[1:] != slot[:-1]][: len(slot)]
        given = self._cells["~known"][0, slot] & first & (time == self._cells["~time"][0, slot])
        begin = np.where(given, np.maximum(begin, self._cells["~next"][0, slot]), begin)
        after = np.r_[time[1:], limit][: len(time)]
        following = np.where(last, limit, after)
        upto = np.minimum(-(-following // s.every), (time + s.max_gap) // s.every + 1)
        if s.fill == "linear":
            own = np.where((begin * s.every == time) & (time < limit), begin + 1, begin)
            upto = np.where(last | (after - time > s.max_gap), own, -(-following // s.every))
        return begin, upto

    def _keep(self, slot: Array, time: Times, columns: Mapping[str, Array], following: Times) -> None:
        for name, values in {"~known": np.full(len(slot), True), "~time": time, "~next": following, **columns}.items():
            self._cells[name][0, slot] = values

    def _expand(self, slot: Array, time: Times, columns: Mapping[str, Array], begin: Times, upto: Times) -> Batch:
        counts = np.maximum(upto - begin, 0)
        of = np.repeat(np.arange(len(slot)), counts)
        point = begin[of] + np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        when = point * self.spec.every
        out = {n: self._value(n, c, of, when, time) for n, c in columns.items()}
        order = np.argsort(when, kind="stable")
        return Batch(NO_NAMES, slot[of][order].astype(np.int32), when[order], {n: c[order] for n, c in out.items()})

    def _value(self, name: str, column: Array, of: Array, when: Times, time: Times) -> Array:
        before = column[of]
        if not self._dtypes[name].startswith("float"):
            return before
        if self.spec.fill == "null":
            return np.where(when - time[of] < self.spec.every, before, np.nan).astype(self._dtypes[name])
        if self.spec.fill == "linear":
            next_ = np.minimum(of + 1, len(time) - 1)
            span = time[next_] - time[of]
            share = np.where(span > 0, (when - time[of]) / np.maximum(span, 1), 0.0)
            return np.where(when == time[of], before, before + share * (column[next_] - before)).astype(
                self._dtypes[name]
            )
        return before

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._cells.nbytes + self._ordered.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        return {"cells": self._cells.save([0], self._keys()), "ordered": self._ordered.save()}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._cells.load([0], state["cells"])
        self._ordered.load(state["ordered"])
