"""From merged parts to results: what each aggregate needs, accepts and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.aggregates.distinct import estimate
from pipelines.aggregates.parts import Arrays, central_moments
from pipelines.errors import PlanError
from pipelines.expr import Array
from pipelines.schema import Agg

NUMBERS = ("float64", "float32", "int64", "bool")
ORDERED = ("float64", "float32", "int64")
ANY = (*NUMBERS, "T")
_INT = np.iinfo(np.int64)


@dataclass(frozen=True)
class Merged:
    """What a result is computed from: arrays of shape (windows, keys)."""

    n: Array  # usable rows
    parts: Mapping[str, Arrays]  # state of each part, merged
    params: tuple[Any, ...]


def _float_sum(state: Arrays) -> Array:
    if "sum" in state:
        return state["sum"].astype("float64")
    return np.asarray(state["high"] * 2.0**32 + state["low"])


def _sum(m: Merged) -> Array:
    """An integer sum that does not fit 64 bits stops at the largest (smallest) number that does."""
    state = m.parts["sum"]
    if "sum" in state:
        return state["sum"]
    high, low = state["high"] + (state["low"] >> 32), state["low"] & 0xFFFFFFFF
    fits = (high < 2**31) & (high >= -(2**31))
    return np.where(fits, (np.where(fits, high, 0) << 32) + low, np.where(high > 0, _INT.max, _INT.min))


def _mean(m: Merged) -> Array:
    if "spread" in m.parts:
        return np.asarray(central_moments(m.parts["spread"], 2)[0])
    return np.asarray(_float_sum(m.parts["sum"]) / m.n)


def _variance(m: Merged) -> Array:
    return np.asarray(central_moments(m.parts["spread"], 2)[1][0] / m.n)


def _skew(m: Merged) -> Array:
    _, (m2, m3, _) = central_moments(m.parts["shape"], 4)
    return np.asarray((m3 / m.n) / (m2 / m.n) ** 1.5)


def _kurtosis(m: Merged) -> Array:
    _, (m2, _, m4) = central_moments(m.parts["shape"], 4)
    return np.asarray(m.n * m4 / m2**2)


def _co(m: Merged, part: str = "co") -> tuple[Array, Array, Array]:
    """Sums of squares of x, of y and of their product, about the means."""
    s = m.parts[part]
    n = np.maximum(s["n"], 1)
    return (
        np.maximum(s["sxx"] - s["sx"] ** 2 / n, 0.0),
        np.maximum(s["syy"] - s["sy"] ** 2 / n, 0.0),
        s["sxy"] - s["sx"] * s["sy"] / n,
    )


def _correlation(m: Merged, part: str = "co") -> Array:
    xx, yy, xy = _co(m, part)
    return np.asarray(np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0))


def _slope(m: Merged) -> Array:
    xx, _, xy = _co(m, "trend")
    return np.where(xx > 0, xy / xx * m.params[0], np.nan)


def _range(m: Merged) -> Array:
    low, high = m.parts["min"]["value"], m.parts["max"]["value"]
    return high.astype("float64") - low if high.dtype == "int64" else high - low


def _delta(m: Merged) -> Array:
    first, last = m.parts["first"]["value"], m.parts["last"]["value"]
    return last - first if last.dtype.kind != "i" else last.astype("float64") - first


def _value(part: str) -> Callable[[Merged], Array]:
    return lambda m: m.parts[part]["value"]


@dataclass(frozen=True)
class Rule:
    """One aggregate: the parts it merges, the dtypes of its columns, the dtype and unit of its result.

    dtype 'same' is the first column's; `unit` is a form in which {0} and {1} are those of the columns.
    """

    parts: tuple[str, ...]
    compute: Callable[[Merged], Array]
    accepts: tuple[str, ...] = ORDERED
    dtype: str = "float64"
    unit: str = "{0}"
    shared: tuple[str, ...] = ()  # parts that make `parts` unnecessary where another aggregate needs them anyway


RULES: dict[str, Rule] = {
    "sum": Rule(("sum",), _sum, NUMBERS, "sum"),
    "mean": Rule(("sum",), _mean, NUMBERS, shared=("spread",)),
    "min": Rule(("min",), _value("min"), NUMBERS, "same"),
    "max": Rule(("max",), _value("max"), NUMBERS, "same"),
    "range": Rule(("min", "max"), _range),
    "std": Rule(("spread",), lambda m: np.sqrt(_variance(m)), NUMBERS),
    "var": Rule(("spread",), _variance, NUMBERS, unit="({0})²"),
    "skew": Rule(("shape",), _skew, unit=""),
    "kurtosis": Rule(("shape",), _kurtosis, unit=""),
    "first": Rule(("first",), _value("first"), ANY, "same"),
    "last": Rule(("last",), _value("last"), ANY, "same"),
    "delta": Rule(("first", "last"), _delta),
    "argmin": Rule(("argmin",), _value("argmin"), ANY, "same"),
    "argmax": Rule(("argmax",), _value("argmax"), ANY, "same"),
    "correlation": Rule(("co",), _correlation, NUMBERS, unit=""),
    "covariance": Rule(("co",), lambda m: _co(m)[2] / m.n, NUMBERS, unit="{0}·{1}"),
    "slope": Rule(("trend",), _slope, NUMBERS, unit="{0}/s"),
    "r2": Rule(("trend",), lambda m: _correlation(m, "trend") ** 2, NUMBERS, unit=""),
    "distinct": Rule(("distinct",), lambda m: estimate(m.parts["distinct"]["registers"]), ANY, "int64", ""),
    "bin": Rule(("histogram",), lambda m: m.parts["histogram"]["bins"][..., m.params[-1]], ORDERED, "int64", ""),
    "start": Rule(("extent",), lambda m: m.parts["extent"]["from"], ANY, "int64", "ns"),
    "end": Rule(("extent",), lambda m: m.parts["extent"]["upto"], ANY, "int64", "ns"),
    "custom": Rule(("custom",), lambda m: m.params[0].result(m.parts["custom"]), ANY, "custom", ""),
    # from samples and sketches
    "quantile": Rule((), lambda m: m.n, ORDERED),
    "increase": Rule((), lambda m: m.n, ORDERED),
    "rate": Rule((), lambda m: m.n, ORDERED, unit="{0}/s"),
    "integral": Rule((), lambda m: m.n, ORDERED, unit="{0}·s"),
    "time_mean": Rule((), lambda m: m.n, ORDERED),
    "duration": Rule((), lambda m: m.n, ("bool",), unit="s"),
    "ewma": Rule((), lambda m: m.n, ORDERED),
    "mode": Rule((), lambda m: m.n, ANY, "same"),
    "frequency": Rule((), lambda m: m.n, ORDERED, unit="Hz"),
    "band": Rule((), lambda m: m.n, ORDERED, unit="({0})²"),
}  # fmt: skip
MARKS = {"count": "int64", "revision": "int64", "final": "bool"}  # aggregates of no column


def result_dtype(agg: Agg[Any], of: tuple[str, ...]) -> str:
    """dtype of an aggregate of columns of dtypes `of`; `PlanError` if it has no meaning for them."""
    if agg.fn in MARKS:
        return MARKS[agg.fn]
    rule = RULES[agg.fn]
    for column, dtype in zip(agg.columns, of, strict=True):
        accepted = ANY if column is agg.columns[0] and agg.fn in ("argmin", "argmax") else rule.accepts
        if agg.fn in ("argmin", "argmax") and column is not agg.columns[0]:
            accepted = ORDERED
        if dtype not in accepted:
            kind = {"T": "text", "bool": "true or false"}.get(dtype, dtype)
            takes = ", ".join("text" if a == "T" else a for a in accepted)
            raise PlanError(
                f"{agg.qualified}: agg.{agg.fn}({column}) has no meaning for a column of {kind}; it takes {takes}"
            )
    if rule.dtype == "same":
        return of[0]
    if rule.dtype == "sum":
        return "float64" if of[0].startswith("float") else "int64"
    return str(agg.params[0].dtype) if rule.dtype == "custom" else rule.dtype


def result_unit(agg: Agg[Any], of: tuple[str, ...]) -> str:
    """Unit of an aggregate of columns in units `of`."""
    if not of:
        return ""
    form = agg.unit or RULES[agg.fn].unit
    if not all(of):
        return (
            form.replace("({0})²", "")
            .replace("{0}·{1}", "")
            .replace("{0}·", "")
            .replace("{0}/", "1/")
            .replace("{0}", "")
        )
    return form.format(*of)
