"""Operators that look at each row by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.expr import Array, Expr
from pipelines.operators.flow import Flow, Stateless, join_rows
from pipelines.schema import TEXT
from pipelines.shapes import ApplySpec, UnpivotSpec
from pipelines.state import State
from pipelines.wire import to_arrow


class Where(Stateless):
    """Keeps the rows for which a condition holds."""

    def __init__(self, condition: Expr[bool]) -> None:
        self.condition = condition

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        with np.errstate(all="ignore"):
            keep = self.condition.on(flow.batch.columns)
        return flow if keep.all() else flow.take(keep)


class Select(Stateless):
    """Computes columns beside those that are there."""

    def __init__(self, columns: Sequence[Expr[Any]]) -> None:
        self.columns = columns

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        known: dict[str, Array] = dict(flow.batch.columns)
        with np.errstate(all="ignore"):
            for column in self.columns:
                known[column.qualified] = np.broadcast_to(column.on(known), (len(flow.batch),))
        return flow.with_columns(known)


class Pass(Stateless):
    """Rows as they are, under another name."""

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        return inputs[0]


class KeyBy(Stateless):
    """Rows by another key. They are on their way to other partitions: their codes are not slots of this task."""

    def __init__(self, column: Expr[str]) -> None:
        self.column = column

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        coded = to_arrow(self.column.on(flow.batch.columns))
        return replace(flow, batch=replace(flow.batch, names=coded.dictionary, codes=coded.indices.to_numpy()))


class Apply(Stateless):
    """A function of a user over whole columns."""

    def __init__(self, spec: ApplySpec) -> None:
        self.spec = spec

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        with np.errstate(all="ignore"):
            given = [np.broadcast_to(c.on(flow.batch.columns), (len(flow.batch),)) for c in self.spec.of]
            found = self.spec.function(*given)
        new = {
            f.qualified: np.asarray(values, dtype=f.dtype) for f, values in zip(self.spec.fields, found, strict=True)
        }
        return flow.with_columns({**flow.batch.columns, **new})


class Unpivot(Stateless):
    """A row for each of several columns."""

    def __init__(self, spec: UnpivotSpec) -> None:
        self.spec = spec

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        width, rows = len(self.spec.columns), len(flow.batch)
        out = flow.take(np.repeat(np.arange(rows), width))
        names = np.array([c.name for c in self.spec.columns], TEXT)
        values = [c.on(flow.batch.columns).astype("float64") for c in self.spec.columns]
        columns = {self.spec.name: np.tile(names, rows), self.spec.value: np.stack(values, axis=1).reshape(-1)}
        return out.with_columns({**out.batch.columns, **columns})


class Union:
    """Rows of two streams; complete up to the earlier of their watermarks."""

    by_frame = True  # so that the watermark in force when a row arrived is the one after the frame before
    nbytes = 0

    def __init__(self) -> None:
        self._watermark = TIME_MIN

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        names = [n for n in inputs[0].batch.columns if n in inputs[1].batch.columns]
        batch = join_rows([replace(f.batch, columns={n: f.batch.columns[n] for n in names}) for f in inputs])
        seen, watermark = np.full(len(batch), self._watermark), min(f.watermark for f in inputs)
        if watermark != TIME_MAX:
            self._watermark = max(self._watermark, watermark)
        return Flow(batch, watermark, seen)

    def save(self) -> State:
        """See `Operator.save`."""
        return {"watermark": self._watermark}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._watermark = state["watermark"]
