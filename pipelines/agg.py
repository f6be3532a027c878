"""Aggregates of a column over a window, written as attributes of a Schema: `mean = agg.mean(Vibration.rms)`.

NaN values are left out of every aggregate but `count`; where none is left the result is NaN (`sum`: 0).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import Agg

T = TypeVar("T", int, float, np.float32)
Number = Expr[float] | Expr[np.float32]


def count() -> Agg[int]:
    """Number of readings."""
    return Agg("count")


def sum(of: Expr[T]) -> Agg[T]:
    """Sum; of an int or bool column an int."""
    return Agg("sum", of)


def mean(of: Number) -> Agg[float]:
    """Arithmetic mean."""
    return Agg("mean", of)


def min(of: Expr[T]) -> Agg[T]:
    """Smallest value."""
    return Agg("min", of)


def max(of: Expr[T]) -> Agg[T]:
    """Largest value."""
    return Agg("max", of)


def std(of: Number) -> Agg[float]:
    """Standard deviation of the population (divided by n)."""
    return Agg("std", of)


def first(of: Expr[T]) -> Agg[T]:
    """Value of the earliest reading by event time; of several at one time the one that arrived first."""
    return Agg("first", of)


def last(of: Expr[T]) -> Agg[T]:
    """Value of the latest reading by event time; of several at one time the one that arrived last."""
    return Agg("last", of)


def quantile(of: Number, q: float) -> Agg[float]:
    """The q-quantile (0 ≤ q ≤ 1), within 1 % of the value at that rank; see `pipelines.quantile`."""
    if not 0 <= q <= 1:
        raise PlanError(f"quantile({of}, {q}): q is a fraction between 0 and 1, such as 0.99")
    return Agg("quantile", of, float(q))
