"""Parts: the mergeable state of aggregates, in arrays over cells.

Every update is made in the order of the rows (`ufunc.at`), so that a result has the same bits however rows were batched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.aggregates.distinct import REGISTERS, add_distinct
from pipelines.expr import Array

Ints = npt.NDArray[np.int64]
Fields = Mapping[str, tuple[str, Any] | tuple[str, Any, int]]  # name -> (dtype, identity[, width])
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to add: the cell, the values of each column, and the event time (ns)."""

    at: Ints
    values: tuple[Array, ...]
    times: Ints


class Aggregate(Protocol):
    """The mergeable state of an aggregate; also what an aggregate of your own implements, see `agg.custom`.

    State is a set of named arrays. `fields` gives the dtype of each and its identity: what an empty cell holds, such
    that merging it with another changes nothing.
    """

    @property
    def fields(self) -> Fields:
        """Name -> (dtype, identity), or (dtype, identity, width) for a row of `width` numbers in each cell."""
        ...

    def update(self, state: Arrays, rows: Rows) -> None:
        """Add rows to the arrays, each of shape (cells,) or (cells, width), in place and in the order of the rows."""
        ...

    def merge(self, state: Arrays) -> Arrays:
        """From arrays of shape (windows, slices, keys[, width]), slices ascending in time, to (windows, keys[, width]).

        Besides the fields, `state["n"]` has the number of rows.
        """
        ...


@dataclass(frozen=True)
class Part:
    """An `Aggregate` of functions."""

    fields: Fields
    update: Callable[[Arrays, Rows], None]
    merge: Callable[[Arrays], Arrays]


def extreme(dtype: str, highest: bool) -> Any:
    """The number above (below) all others of a dtype."""
    if dtype == "bool":
        return highest
    if dtype.startswith("float"):
        return np.inf if highest else -np.inf
    return np.iinfo(dtype).max if highest else np.iinfo(dtype).min


def _reduced(ufunc: np.ufunc, state: Arrays) -> Arrays:
    return {name: ufunc.reduce(a, axis=1) for name, a in state.items() if name != "n"}


def _sum(dtype: str) -> Part:
    """Of floats in float64; of integers exactly, in two halves that cannot overflow below 2**31 rows."""

    def add(state: Arrays, rows: Rows) -> None:
        np.add.at(state["sum"], rows.at, rows.values[0].astype("float64" if is_float else "int64", copy=False))

    def add_halves(state: Arrays, rows: Rows) -> None:
        np.add.at(state["high"], rows.at, rows.values[0] >> 32)
        np.add.at(state["low"], rows.at, rows.values[0] & 0xFFFFFFFF)

    is_float = dtype.startswith("float")
    if dtype == "int64":
        return Part({"high": ("int64", 0), "low": ("int64", 0)}, add_halves, partial(_reduced, np.add))
    return Part({"sum": ("float64" if is_float else "int64", 0)}, add, partial(_reduced, np.add))


def _least(dtype: str) -> Part:
    def update(state: Arrays, rows: Rows) -> None:
        np.minimum.at(state["value"], rows.at, rows.values[0])

    return Part({"value": (dtype, extreme(dtype, True))}, update, partial(_reduced, np.minimum))


def _greatest(dtype: str) -> Part:
    def update(state: Arrays, rows: Rows) -> None:
        np.maximum.at(state["value"], rows.at, rows.values[0])

    return Part({"value": (dtype, extreme(dtype, False))}, update, partial(_reduced, np.maximum))


def deviation(values: Array, origin: Array) -> Array:
    """values − origin as float64; exact for integers, too, but for differences beyond 2**62."""
    if values.dtype.kind != "i":
        return np.subtract(values, origin, dtype="float64")
    rough = values.astype("float64") - origin
    return np.where(np.abs(rough) < 2.0**62, values - origin, rough)


def _origins(origin: Array, at: Ints, values: Array) -> Array:
    """The origin of each row's cell; that of an empty cell becomes its first value."""
    found: Array = origin[at]
    empty = np.isnan(found) if found.dtype.kind == "f" else found == _NO_INT
    if empty.any():
        new = np.flatnonzero(empty)[::-1]
        # the last assignment wins: the first row of each cell
        origin[at[new]] = values[new] if found.dtype.kind == "f" else np.maximum(values[new], _NO_INT + 1)
        found = origin[at]
    return found


_NO_INT = np.iinfo(np.int64).min


def _origin(dtype: str) -> tuple[str, Any]:
    return ("int64", _NO_INT) if dtype == "int64" else ("float64", np.nan)


def _moments(powers: int, dtype: str) -> Part:
    """Sums of powers of deviations from the cell's first value.

    That value is one of the data, so n·(mean − value)² ≤ n·Σ(x − mean)²: at most log2(n) of 53 bits cancel. Sources:
    Chan, Golub, LeVeque, "Algorithms for computing the sample variance" (1983), shifted data; for the higher moments
    Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical moments"
    (2008), eq. 2.1.
    """

    def update(state: Arrays, rows: Rows) -> None:
        (values,) = rows.values
        if values.dtype == bool:
            values = values.astype("float64")
        off = deviation(values, _origins(state["origin"], rows.at, values))
        power = off
        for p in range(1, powers + 1):
            np.add.at(state[f"s{p}"], rows.at, power)
            if p < powers:
                power = power * off

    def merge(state: Arrays) -> Arrays:
        n = state["n"]
        some = np.maximum(n, 1)
        shift = state["s1"] / some
        central = _about_mean(n, shift, [state[f"s{p}"] for p in range(2, powers + 1)])
        base = np.take_along_axis(state["origin"], np.argmax(n > 0, axis=1)[:, None, :], axis=1)
        mean = deviation(state["origin"], base) + shift  # from the origin of the first slice that has rows
        total = n.sum(axis=1)
        mid = np.where(n > 0, n * mean, 0.0).sum(axis=1) / np.maximum(total, 1)
        d = np.where(n > 0, mean - mid[:, None, :], 0.0)
        sums: list[Array] = []
        for p in range(2, powers + 1):
            terms = central[p - 2] + n * d**p
            for k in range(1, p - 1):
                terms = terms + _choose(p, k) * d**k * central[p - k - 2]
            sums.append(terms.sum(axis=1))
        out = _about_origin(total, mid, sums)
        return {"origin": base[:, 0], **{f"s{p}": s for p, s in enumerate(out, 1)}}

    fields = {
        "origin": _origin(dtype),
        **{f"s{p}": ("float64", 0.0) for p in range(1, powers + 1)},
    }
    return Part(fields, update, merge)


def _choose(n: int, k: int) -> int:
    return (n * (n - 1) // 2) if k == 2 else n  # 1 <= k <= 2: powers up to four


def central_moments(state: Arrays, powers: int) -> tuple[Array, list[Array]]:
    """Mean and sums of the 2nd … powers of deviations from it."""
    n = state["n"]
    shift = state["s1"] / np.maximum(n, 1)
    return state["origin"] + shift, _about_mean(n, shift, [state[f"s{p}"] for p in range(2, powers + 1)])


def _about_mean(n: Array, d: Array, sums: list[Array]) -> list[Array]:
    """Sums of powers 2, 3, 4 about the mean, from those about a point that lies `d` below it."""
    s2 = np.maximum(sums[0] - n * d * d, 0.0)
    if len(sums) == 1:
        return [s2]
    s3 = sums[1] - 3 * d * sums[0] + 2 * n * d**3
    return [s2, s3, np.maximum(sums[2] - 4 * d * sums[1] + 6 * d**2 * sums[0] - 3 * n * d**4, 0.0)]


def _about_origin(n: Array, d: Array, central: list[Array]) -> list[Array]:
    """Inverse of `_about_mean`, with the sum of first powers in front."""
    s2 = central[0] + n * d * d
    if len(central) == 1:
        return [n * d, s2]
    s3 = central[1] + 3 * d * s2 - 2 * n * d**3
    return [n * d, s2, s3, central[2] + 4 * d * s3 - 6 * d**2 * s2 + 3 * n * d**4]


def _co_moments(x: str, y: str) -> Part:
    """Sums of products of deviations from the cell's first values (Chan et al., as for the variance)."""

    def update(state: Arrays, rows: Rows) -> None:
        xs, ys = (v.astype("float64") if v.dtype == bool else v for v in rows.values)
        dx = deviation(xs, _origins(state["ox"], rows.at, xs))
        dy = deviation(ys, _origins(state["oy"], rows.at, ys))
        for name, term in (("sx", dx), ("sy", dy), ("sxx", dx * dx), ("syy", dy * dy), ("sxy", dx * dy)):
            np.add.at(state[name], rows.at, term)

    def merge(state: Arrays) -> Arrays:
        n = state["n"]
        first = np.argmax(n > 0, axis=1)[:, None, :]
        bx, by = (np.take_along_axis(state[o], first, axis=1) for o in ("ox", "oy"))
        hx, hy = (np.where(n > 0, deviation(state[o], b), 0.0) for o, b in (("ox", bx), ("oy", by)))
        sums = {
            "sx": state["sx"] + n * hx,
            "sy": state["sy"] + n * hy,
            "sxx": state["sxx"] + 2 * hx * state["sx"] + n * hx * hx,
            "syy": state["syy"] + 2 * hy * state["sy"] + n * hy * hy,
            "sxy": state["sxy"] + hx * state["sy"] + hy * state["sx"] + n * hx * hy,
        }
        return {"ox": bx[:, 0], "oy": by[:, 0], **{s: a.sum(axis=1) for s, a in sums.items()}}

    sums = dict.fromkeys(("sx", "sy", "sxx", "syy", "sxy"), ("float64", 0.0))
    return Part({"ox": _origin(x), "oy": _origin(y), **sums}, update, merge)


def _picked(state: Arrays, highest: bool) -> Arrays:
    pick = (np.argmax if highest else np.argmin)(state["best"], axis=1)[:, None, :]
    return {name: np.take_along_axis(a, pick, axis=1)[:, 0, :] for name, a in state.items() if name != "n"}


def _edge(latest: bool, dtype: str) -> Part:
    """The value at the earliest (latest) event time; of several the first (last) to arrive."""

    def update(state: Arrays, rows: Rows) -> None:
        best, kept = state["best"], state["value"]
        before = best[rows.at]
        (np.maximum if latest else np.minimum).at(best, rows.at, rows.times)
        better = rows.times >= before if latest else rows.times < before
        chosen = np.flatnonzero(better & (rows.times == best[rows.at]))[:: 1 if latest else -1]
        kept[rows.at[chosen]] = rows.values[0][chosen]  # the last assignment wins

    fields = {"best": ("int64", extreme("int64", not latest)), "value": _blank(dtype)}
    order = slice(None, None, -1 if latest else 1)  # slices of count windows may hold the same times
    return Part(fields, update, lambda state: _picked({n: a[:, order] for n, a in state.items()}, latest))


def _extreme_of(highest: bool, dtype: str, by: str) -> Part:
    """The value where a second column, of dtype `by`, is lowest (highest); of several the earliest, then the first to arrive."""
    never = extreme("int64", True)

    def update(state: Arrays, rows: Rows) -> None:
        values, order = rows.values
        best, time = state["best"], state["time"]
        before = best[rows.at]
        (np.maximum if highest else np.minimum).at(best, rows.at, order)
        hit = order == best[rows.at]
        time[rows.at[hit & (order != before)]] = never
        candidates = np.flatnonzero(hit)
        cells, when = rows.at[candidates], rows.times[candidates]
        earlier = when < time[cells]
        np.minimum.at(time, cells, when)
        chosen = np.flatnonzero(earlier & (when == time[cells]))[::-1]
        state["value"][cells[chosen]] = values[candidates[chosen]]

    fields = {"best": (by, extreme(by, not highest)), "time": ("int64", never), "value": _blank(dtype)}
    return Part(fields, update, lambda state: _picked(state, highest))


def _blank(dtype: str) -> tuple[str, Any]:
    return dtype, "" if dtype == "T" else 0


def _histogram(edges: tuple[float, ...]) -> Part:
    def update(state: Arrays, rows: Rows) -> None:
        bin_ = np.searchsorted(np.asarray(edges), rows.values[0], side="right")
        np.add.at(state["bins"], (rows.at, bin_), 1)

    return Part({"bins": ("int64", 0, len(edges) + 1)}, update, partial(_reduced, np.add))


def _distinct() -> Part:
    def update(state: Arrays, rows: Rows) -> None:
        add_distinct(state["registers"], rows.at, rows.values[0])

    return Part({"registers": ("uint8", 0, REGISTERS)}, update, partial(_reduced, np.maximum))


def _extent() -> Part:
    """Least and greatest event time."""

    def update(state: Arrays, rows: Rows) -> None:
        np.minimum.at(state["from"], rows.at, rows.times)
        np.maximum.at(state["upto"], rows.at, rows.times)

    def merge(state: Arrays) -> Arrays:
        return {"from": state["from"].min(axis=1), "upto": state["upto"].max(axis=1)}

    return Part({"from": ("int64", extreme("int64", True)), "upto": ("int64", extreme("int64", False))}, update, merge)


# name -> the part for columns of these dtypes and these parameters
PARTS: dict[str, Callable[[tuple[str, ...], tuple[Any, ...]], Aggregate]] = {
    "sum": lambda d, p: _sum(d[0]),
    "min": lambda d, p: _least(d[0]),
    "max": lambda d, p: _greatest(d[0]),
    "spread": lambda d, p: _moments(2, d[0]),
    "shape": lambda d, p: _moments(4, d[0]),
    "co": lambda d, p: _co_moments(*d),
    "trend": lambda d, p: _over_time(d[0]),
    "first": lambda d, p: _edge(False, d[0]),
    "last": lambda d, p: _edge(True, d[0]),
    "argmin": lambda d, p: _extreme_of(False, *d),
    "argmax": lambda d, p: _extreme_of(True, *d),
    "histogram": lambda d, p: _histogram(p),
    "distinct": lambda d, p: _distinct(),
    "extent": lambda d, p: _extent(),
    "custom": lambda d, p: p[0],
}  # fmt: skip


def _over_time(dtype: str) -> Part:
    """Co-moments of event time (ns) and a column."""
    both = _co_moments("int64", dtype)

    def update(state: Arrays, rows: Rows) -> None:
        both.update(state, Rows(rows.at, (rows.times, rows.values[0]), rows.times))

    return Part(both.fields, update, both.merge)
