"""Aggregates of columns over a window, written as attributes of a Schema: `mean = agg.mean(Vibration.rms)`.

NaN values are left out of every aggregate but `count`; where none is left the result is NaN (of `sum` 0). The user
guide has a table of what each takes, gives, costs and does with what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr, sqrt
from pipelines.schema import Agg
from pipelines.units import duration_s

T = TypeVar("T", int, float, np.float32)
T_any = TypeVar("T_any")
T_co = TypeVar("T_co", covariant=True)
Number = Expr[float] | Expr[np.float32] | Expr[int]
Measured = Number | Expr[bool]


class Custom(Protocol[T_co]):
    """An aggregate of your own: a frozen dataclass whose `repr` tells it from others, since it is part of fingerprints.

    `fields`, `update` and `merge` are as in `pipelines.aggregates.Aggregate`; `result` makes of the merged arrays
    (windows, keys) the result, an array of `dtype` ('float64', 'int64' or 'bool') and the same shape.
    """

    @property
    def dtype(self) -> str:
        """Of the result."""
        ...

    @property
    def fields(self) -> Any:
        """Name -> (dtype, identity) of each state array."""
        ...

    def update(self, state: Any, rows: Any) -> None:
        """Add rows, in place."""
        ...

    def merge(self, state: Any) -> Any:
        """Merge slices."""
        ...

    def result(self, state: Any) -> Any:
        """The result of each window and key."""
        ...


def _seconds(text: str, what: str) -> float:
    try:
        seconds = duration_s(text)
    except ConfigError as e:
        raise PlanError(f"{what}: {e}") from e
    if seconds <= 0:
        raise PlanError(f"{what}: {text} must be longer than zero")
    return seconds


def _per(text: str, what: str) -> tuple[float, str]:
    """Seconds of '1h', and how it stands in a unit: 'h'."""
    return _seconds(text, what), text.removeprefix("1")


def _gap(text: str | None) -> float:
    return 0.0 if text is None else _seconds(text, "gap")


def count() -> Agg[int]:
    """Number of readings."""
    return Agg("count")


def revision() -> Agg[int]:
    """With `early=`: 0 for the first result of a window and key, then 1, 2 …"""
    return Agg("revision")


def final() -> Agg[bool]:
    """With `early=`: whether the window has closed. `live.where(Live.final)` are the results that will not change."""
    return Agg("final")


def sum(of: Expr[T]) -> Agg[T]:
    """Sum; of an int or bool column an int, which stops at ±2**63 instead of turning over."""
    return Agg("sum", of)


def mean(of: Measured) -> Agg[float]:
    """Arithmetic mean; of a bool column the share that is true."""
    return Agg("mean", of)


def min(of: Expr[T]) -> Agg[T]:
    """Smallest value; of a bool column whether all are true."""
    return Agg("min", of)


def max(of: Expr[T]) -> Agg[T]:
    """Largest value; of a bool column whether any is true."""
    return Agg("max", of)


def all(of: Expr[bool]) -> Agg[bool]:
    """Whether every reading is true."""
    return Agg("min", of)


def any(of: Expr[bool]) -> Agg[bool]:
    """Whether a reading is true."""
    return Agg("max", of)


def range(of: Number) -> Agg[float]:
    """Largest less smallest value."""
    return Agg("range", of)


def std(of: Measured) -> Agg[float]:
    """Standard deviation of the population (divided by n)."""
    return Agg("std", of)


def var(of: Measured) -> Agg[float]:
    """Variance of the population (divided by n)."""
    return Agg("var", of)


def skew(of: Number) -> Agg[float]:
    """Skewness of the population: 0 for symmetric values."""
    return Agg("skew", of)


def kurtosis(of: Number) -> Agg[float]:
    """Kurtosis of the population: 3 for a normal distribution, 1.5 for a sine; rises with shocks."""
    return Agg("kurtosis", of)


def rms(of: Expr[float]) -> Expr[float]:
    """Root of the mean square."""
    return sqrt(Agg("mean", of * of))


def crest(of: Expr[float]) -> Expr[float]:
    """Crest factor: largest magnitude over rms; √2 for a sine."""
    return Agg[float]("max", abs(of)) / rms(of)


def zscore(of: Expr[float]) -> Expr[float]:
    """How many standard deviations the last value lies from the mean of the window; over `sliding` windows, of each
    reading."""
    return (Agg[float]("last", of) - Agg[float]("mean", of)) / Agg[float]("std", of)


def first(of: Expr[T_any]) -> Agg[T_any]:
    """Value of the earliest reading by event time; of several at one time the one that arrived first."""
    return Agg("first", of)


def last(of: Expr[T_any]) -> Agg[T_any]:
    """Value of the latest reading by event time; of several at one time the one that arrived last."""
    return Agg("last", of)


def delta(of: Number) -> Agg[float]:
    """Last less first value."""
    return Agg("delta", of)


def argmin(of: Expr[T_any], by: Number) -> Agg[T_any]:
    """Value of `of` in the reading where `by` is smallest; of several the earliest."""
    return Agg("argmin", of, by)


def argmax(of: Expr[T_any], by: Number) -> Agg[T_any]:
    """Value of `of` in the reading where `by` is largest; of several the earliest."""
    return Agg("argmax", of, by)


def quantile(of: Number, q: float) -> Agg[float]:
    """The q-quantile (0 ≤ q ≤ 1), within 1 % of the value at that rank; see `pipelines.aggregates.quantile`."""
    if not 0 <= q <= 1:
        raise PlanError(f"quantile({of}, {q}): q is a fraction between 0 and 1, such as 0.99")
    return Agg("quantile", of, params=(float(q),))


def distinct(of: Expr[T_any]) -> Agg[int]:
    """About how many different values there are: standard error 2.3 %, less below 5,000 (HyperLogLog, 2 kB for each key)."""
    return Agg("distinct", of)


def mode(of: Expr[T_any], k: int = 0) -> Agg[T_any]:
    """The most frequent value (`k` = 1: the second most, and so on); of several as frequent the smallest.

    Where there are not so many different values: NaN, 0, false or empty text.
    """
    if not 0 <= k < 1_000:
        raise PlanError(f"mode({of}, k={k}): k is a rank from 0 to 999")
    return Agg("mode", of, params=(k,))


def histogram(of: Number, edges: Sequence[float], bin: int) -> Agg[int]:
    """How many values lie in a bin: 0 is below the first edge, `len(edges)` from the last edge on; bins begin with
    their edge."""
    if not edges or sorted(set(edges)) != list(edges):
        raise PlanError(f"histogram({of}): edges are ascending numbers, such as [0, 10, 20]; got {list(edges)}")
    if not 0 <= bin <= len(edges):
        raise PlanError(f"histogram({of}, bin={bin}): {len(edges)} edges make bins 0 to {len(edges)}")
    return Agg("bin", of, params=(tuple(map(float, edges)), bin))


def correlation(x: Measured, y: Measured) -> Agg[float]:
    """Pearson's correlation of two columns, −1 to 1."""
    return Agg("correlation", x, y)


def covariance(x: Measured, y: Measured) -> Agg[float]:
    """Covariance of the population (divided by n)."""
    return Agg("covariance", x, y)


def slope(of: Measured, per: str = "1s") -> Agg[float]:
    """Slope of the straight line through the values over event time (least squares), for each `per`."""
    seconds, unit = _per(per, f"slope({of})")
    return Agg("slope", of, params=(seconds * 1e9,), unit="{0}/" + unit)


def r2(of: Measured) -> Agg[float]:
    """How much of the variance the straight line of `slope` explains, 0 to 1."""
    return Agg("r2", of)


def increase(of: Number, gap: str | None = None) -> Agg[float]:
    """How much a counter grew; where it fell it has begun again at 0. `gap`: what lies between readings further apart
    counts not."""
    return Agg("increase", of, params=(_gap(gap),))


def rate(of: Number, gap: str | None = None) -> Agg[float]:
    """How fast a counter grew, a second, over the time between the readings that count; see `increase`."""
    return Agg("rate", of, params=(_gap(gap),))


def integral(of: Number, per: str = "1s", *, linear: bool = True, gap: str | None = None) -> Agg[float]:
    """Area under the readings over time: of kW with per='1h' kWh.

    `linear`: straight lines between readings (trapezoids), else each value holds until the next. What lies between
    two readings belongs to the window of the later one, so windows side by side add up to the whole. `gap`: readings
    further apart are an outage.
    """
    seconds, unit = _per(per, f"integral({of})")
    return Agg("integral", of, params=(linear, seconds, _gap(gap)), unit="{0}·" + unit)


def time_mean(of: Number, *, linear: bool = True, gap: str | None = None) -> Agg[float]:
    """Mean weighted with time: of readings that come unevenly, as after report-on-change. See `integral`."""
    return Agg("time_mean", of, params=(linear, _gap(gap)))


def duration(condition: Expr[bool], gap: str | None = None) -> Agg[float]:
    """Seconds for which a condition held; each reading holds until the next. `duration(M.state == "run")`."""
    return Agg("duration", condition, params=(_gap(gap),))


def ewma(of: Number, half_life: str) -> Agg[float]:
    """Mean in which a reading counts half as much as one that is `half_life` younger."""
    return Agg("ewma", of, params=(_seconds(half_life, f"ewma({of})"),))


def frequency(of: Number) -> Agg[float]:
    """Dominant frequency (Hz) of evenly spaced readings: where their spectrum (FFT, mean taken off) is highest.

    NaN below four readings. The resolution is one over the window.
    """
    return Agg("frequency", of)


def band_power(of: Number, low: float, high: float) -> Agg[float]:
    """Power of evenly spaced readings from `low` up to `high` Hz, in squared units: over all frequencies it is the
    variance."""
    if not 0 <= low < high:
        raise PlanError(f"band_power({of}, {low}, {high}): give two frequencies in Hz, the lower one first")
    return Agg("band", of, params=(float(low), float(high)))


def custom(how: Custom[T_any], *of: Expr[Any]) -> Agg[T_any]:
    """An aggregate of your own; see `Custom`."""
    if not of:
        raise PlanError(f"custom({how}): name the columns that it aggregates")
    return Agg("custom", *of, params=(how,))
