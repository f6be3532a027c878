"""Operators without state: they look at each row by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.expr import Array, Expr
from pipelines.operators.flow import Flow, Stateless


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
