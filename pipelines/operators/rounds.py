"""Operators that go from row to row of each key: all keys at once, row by row (round by round)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.batch import Batch, rounds
from pipelines.expr import Array, Expr
from pipelines.operators.flow import Env, Flow, Late
from pipelines.operators.ordered import Ordered
from pipelines.shapes import ChangesSpec, ScanSpec
from pipelines.state import Cells, State


def values_of(columns: tuple[Expr[Any], ...], batch: Batch) -> list[Array]:
    """Columns evaluated over a batch, each of shape `(rows,)`."""
    with np.errstate(all="ignore"):
        return [np.broadcast_to(c.on(batch.columns), (len(batch),)) for c in columns]


class Changes:
    """Rows whose value lies further than a dead-band from the last one that was let through, in the order of arrival."""

    by_frame = False

    def __init__(self, spec: ChangesSpec, env: Env) -> None:
        self.spec, self._keys = spec, env.keys
        self._cells = Cells(
            {"known": ("bool", False), "value": (spec.dtype, "" if spec.dtype == "T" else 0)}, env.bytes_max, rows=1
        )

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        self._cells.reserve(self._keys())
        known, last = self._cells["known"][0], self._cells["value"][0]
        (values,) = values_of((self.spec.of,), flow.batch)
        keep = np.zeros(len(values), bool)
        for rows in rounds(flow.batch.codes):
            slots, now = flow.batch.codes[rows], values[rows]
            passes = ~known[slots] | self._differs(now, last[slots])
            keep[rows] = passes
            known[slots] = True
            last[slots[passes]] = now[passes]
        return flow.take(keep)

    def _differs(self, now: Array, last: Array) -> Array:
        """NaN differs from numbers, not from NaN."""
        if now.dtype.kind != "f":
            far = np.asarray(now != last)
            if now.dtype.kind == "i" and self.spec.band:
                far &= np.abs(now.astype(float) - last) > self._band(last)
            return far
        gone, was_gone = np.isnan(now), np.isnan(last)
        with np.errstate(invalid="ignore"):
            moved = (now != last) & ~(np.abs(now - last) <= self._band(last))
        return np.asarray(np.where(gone | was_gone, gone != was_gone, moved))

    def _band(self, last: Array) -> Array:
        return np.asarray(self.spec.band * (np.abs(last.astype(float)) if self.spec.relative else np.ones(len(last))))

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._cells.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        return self._cells.save([0], self._keys())

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._cells.load([0], state)


class Scan(Late):
    """An operator of a user: new columns from those of a row and the state of its key."""

    by_frame = False

    def __init__(self, spec: ScanSpec, env: Env, dtypes: Mapping[str, str]) -> None:
        self.spec, self._keys = spec, env.keys
        self._ordered = None if spec.late is None else Ordered(dtypes, spec.late)
        self._cells = Cells(dict(spec.operator.state), env.bytes_max, rows=1)

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        self._cells.reserve(self._keys())
        if self._ordered is None:
            self.late = flow.take(slice(0, 0))
            return replace(flow, batch=self._step(flow.batch))
        batch, self.late = self._ordered.take(flow)
        self.late_rows += len(self.late.batch)
        watermark = flow.watermark if abs(flow.watermark) >= 2**63 - 1 else self._ordered.upto
        return Flow(self._step(batch), watermark)

    def _step(self, batch: Batch) -> Batch:
        given = values_of(self.spec.of, batch)
        out = {f.qualified: np.empty(len(batch), f.dtype) for f in self.spec.fields}
        names = list(self._cells.fields)
        with np.errstate(all="ignore"):
            for rows in rounds(batch.codes):
                slots = batch.codes[rows]
                state = {n: self._cells[n][0, slots] for n in names}
                found = self.spec.operator.step(state, *(v[rows] for v in given))
                for name in names:
                    self._cells[name][0, slots] = state[name]
                for column, values in zip(out.values(), found, strict=True):
                    column[rows] = values
        return replace(batch, columns={**batch.columns, **out})

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._cells.nbytes + (self._ordered.nbytes if self._ordered else 0)

    def save(self) -> State:
        """See `Operator.save`."""
        ordered = self._ordered.save() if self._ordered else {}
        return {"cells": self._cells.save([0], self._keys()), "ordered": ordered}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._cells.load([0], state["cells"])
        if self._ordered:
            self._ordered.load(state["ordered"])
