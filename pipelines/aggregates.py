"""Aggregates over (slice, key) cells: updated row by row in offset order, merged over the slices of a window.

Every update is a `ufunc.at` in the order of the rows, so that a result has the same bits however rows were batched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.expr import Array
from pipelines.quantile import Sketches
from pipelines.schema import Agg
from pipelines.state import Cells, State

Ints = npt.NDArray[np.int64]
Fields = dict[str, tuple[str, Any]]  # name -> (dtype, identity)
Merged = Mapping[str, Array]
Block = tuple[Ints, slice]  # state rows of shape (windows, slices), and a range of slots

COUNT = "count"


@dataclass(frozen=True)
class Part:
    """A group of state arrays that one aggregate, or several, need of one column.

    `update(cells, name, at, values, times)` adds rows (cell `at[i]` gets `values[i]`); `merge(cells, name, block)` combines
    slices into arrays of shape (windows, slots of the block).
    """

    fields: Callable[[str, str], Fields]  # (name, dtype of the column)
    update: Callable[[Cells, str, Ints, Array, Ints], None]
    merge: Callable[[Cells, str, Block], Merged]


def _extreme(dtype: str, highest: bool) -> Any:
    if dtype == "bool":
        return highest
    if dtype.startswith("float"):
        return np.inf if highest else -np.inf
    return np.iinfo(dtype).max if highest else np.iinfo(dtype).min


def _sum_dtype(dtype: str) -> str:
    return "float64" if dtype.startswith("float") else "int64"


def _add(cells: Cells, name: str, at: Ints, values: Array, times: Ints) -> None:
    np.add.at(cells.flat(name), at, values.astype(_sum_dtype(str(values.dtype)), copy=False))


def _low(cells: Cells, name: str, at: Ints, values: Array, times: Ints) -> None:
    np.minimum.at(cells.flat(name), at, values)


def _high(cells: Cells, name: str, at: Ints, values: Array, times: Ints) -> None:
    np.maximum.at(cells.flat(name), at, values)


def _reduced(ufunc: np.ufunc, cells: Cells, name: str, block: Block) -> Merged:
    return {name: ufunc.reduce(cells[name][block], axis=1)}


def _spread(cells: Cells, name: str, at: Ints, values: Array, times: Ints) -> None:
    """Sums of deviations from the cell's first value.

    That value is one of the data, so n·(mean − value)² ≤ n·Σ(x − mean)²: at most log2(n) of 53 bits cancel.
    Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance" (1983), shifted data.
    """
    count, origin = cells.flat(name + ".n"), cells.flat(name + ".origin")
    fresh = np.flatnonzero(count[at] == 0)[::-1]
    origin[at[fresh]] = values[fresh]  # the last assignment wins: the first row of each cell
    deviation = values - origin[at]
    np.add.at(count, at, 1)
    np.add.at(cells.flat(name + ".s1"), at, deviation)
    np.add.at(cells.flat(name + ".s2"), at, deviation * deviation)


def _spread_merged(cells: Cells, name: str, block: Block) -> Merged:
    """Count, mean and sum of squared deviations of merged slices (Chan et al., pairwise formula for many parts)."""
    n, s1 = cells[name + ".n"][block], cells[name + ".s1"][block]
    some = np.maximum(n, 1)
    mean, m2 = cells[name + ".origin"][block] + s1 / some, cells[name + ".s2"][block] - s1 * s1 / some
    base = np.take_along_axis(mean, np.argmax(n > 0, axis=1)[:, None, :], axis=1)  # of the first slice that has rows
    total = n.sum(axis=1)
    shift = (n * (mean - base)).sum(axis=1) / np.maximum(total, 1)
    squares = (m2 + n * (mean - base - shift[:, None, :]) ** 2).sum(axis=1, where=n > 0)
    return {name + ".n": total, name + ".m2": np.maximum(squares, 0.0)}


def _edge(latest: bool, cells: Cells, name: str, at: Ints, values: Array, times: Ints) -> None:
    """Keep the value of the earliest (or latest) time of each cell; ties go to the first (or last) arrival."""
    best, kept = cells.flat(name + ".t"), cells.flat(name)
    before = best[at]
    (np.maximum if latest else np.minimum).at(best, at, times)
    wins = (times == best[at]) & ((times >= before) if latest else (times < before))
    chosen = np.flatnonzero(wins) if latest else np.flatnonzero(wins)[::-1]
    kept[at[chosen]] = values[chosen]


def _edge_merged(latest: bool, cells: Cells, name: str, block: Block) -> Merged:
    times = cells[name + ".t"][block]  # slices ascend in time: of equal ones only empty slices can be
    pick = (np.argmax if latest else np.argmin)(times, axis=1)[:, None, :]
    return {name: np.take_along_axis(cells[name][block], pick, axis=1)[:, 0, :]}


def _edge_fields(latest: bool, name: str, dtype: str) -> Fields:
    return {name + ".t": ("int64", _extreme("int64", not latest)), name: (dtype, 0)}


PARTS: dict[str, Part] = {
    COUNT: Part(lambda n, d: {n: ("int64", 0)}, _add, partial(_reduced, np.add)),
    "missing": Part(lambda n, d: {n: ("int64", 0)}, _add, partial(_reduced, np.add)),
    "sum": Part(lambda n, d: {n: (_sum_dtype(d), 0)}, _add, partial(_reduced, np.add)),
    "min": Part(lambda n, d: {n: (d, _extreme(d, True))}, _low, partial(_reduced, np.minimum)),
    "max": Part(lambda n, d: {n: (d, _extreme(d, False))}, _high, partial(_reduced, np.maximum)),
    "spread": Part(
        lambda n, d: {n + ".n": ("int64", 0), **{n + s: ("float64", 0.0) for s in (".origin", ".s1", ".s2")}},
        _spread,
        _spread_merged,
    ),
    "first": Part(partial(_edge_fields, False), partial(_edge, False), partial(_edge_merged, False)),
    "last": Part(partial(_edge_fields, True), partial(_edge, True), partial(_edge_merged, True)),
}  # fmt: skip

# aggregate -> parts it needs of its column; quantiles are kept apart, in sketches
NEEDS: dict[str, tuple[str, ...]] = {
    "count": (), "sum": ("sum",), "mean": ("sum",), "min": ("min",), "max": ("max",), "std": ("spread",),
    "first": ("first",), "last": ("last",), "quantile": (),
}  # fmt: skip


def result_dtype(agg: Agg[Any], of: str) -> str:
    """dtype of an aggregate of a column of dtype `of`."""
    if agg.fn == "count":
        return "int64"
    if agg.fn == "sum":
        return _sum_dtype(of)
    return of if agg.fn in ("min", "max", "first", "last") else "float64"


class Fold:
    """The state of all aggregates of one window step."""

    def __init__(self, aggs: Mapping[str, Agg[Any]], dtypes: Mapping[str, str], bytes_max: int) -> None:
        """`aggs` by result name; `dtypes` of each aggregated expression by its `repr`."""
        self.aggs, self.dtypes = dict(aggs), dict(dtypes)
        self.columns = {repr(a.of): a.of for a in aggs.values() if a.of is not None}
        self.parts: list[tuple[str, Part, str]] = []  # (array name, part, column)
        needed = dict.fromkeys((part, repr(a.of)) for a in aggs.values() for part in NEEDS[a.fn])
        floats = [c for c in self.columns if dtypes[c].startswith("float")]
        self.parts = [(f"{p}:{c}", PARTS[p], c) for p, c in needed]
        fields = PARTS[COUNT].fields(COUNT, "int64")
        for name, part, column in self.parts:
            fields |= part.fields(name, dtypes[column])
        for column in floats:
            fields |= PARTS["missing"].fields(f"missing:{column}", "int64")
        self.floats = frozenset(floats)
        self.cells = Cells(fields, bytes_max)
        self.sketches = {repr(a.of): Sketches() for a in aggs.values() if a.fn == "quantile"}

    def update(self, rows: Ints, slots: Array, values: Mapping[str, Array], times: Ints) -> None:
        """Add readings: state row, slot, column values (by `repr` of the expression) and time of each."""
        at = rows * self.cells.slots + slots
        np.add.at(self.cells.flat(COUNT), at, 1)
        with np.errstate(all="ignore"):
            for column in self.columns:
                self._update_column(column, rows, slots, at, values[column], times)

    def _update_column(self, column: str, rows: Ints, slots: Array, at: Ints, values: Array, times: Ints) -> None:
        if column in self.floats and np.isnan(values.min(initial=np.inf)):  # min is NaN if any is
            gone = np.isnan(values)
            np.add.at(self.cells.flat(f"missing:{column}"), at[gone], 1)
            there = ~gone
            rows, slots, at, values, times = rows[there], slots[there], at[there], values[there], times[there]
        for name, part, of in self.parts:
            if of == column:
                part.update(self.cells, name, at, values, times)
        if column in self.sketches:
            self.sketches[column].add(rows, slots, values)

    def results(self, windows: Ints, slots: slice) -> tuple[Array, dict[str, Array]]:
        """Of windows given as state rows, shape (windows, slices): counts and results, each of shape (windows, slots)."""
        block = (windows, slots)
        with np.errstate(all="ignore"):
            counts = self.cells[COUNT][block].sum(axis=1)
            merged: dict[str, Array] = {}
            for name, part, _ in self.parts:
                merged |= part.merge(self.cells, name, block)
            valid = {
                c: counts - self.cells[f"missing:{c}"][block].sum(axis=1) if c in self.floats else counts
                for c in self.columns
            }
            found = {n: _result(a, counts, valid, merged) for n, a in self.aggs.items() if a.fn != "quantile"}
        for column, sketch in self.sketches.items():
            names = {n: a.params[0] for n, a in self.aggs.items() if a.fn == "quantile" and repr(a.of) == column}
            each = np.stack([self._quantiles(sketch, w, list(names.values()))[:, slots] for w in windows], axis=1)
            found |= dict(zip(names, each, strict=True))
        return counts, found

    def _quantiles(self, sketch: Sketches, rows: Ints, qs: Sequence[float]) -> Array:
        return sketch.quantiles([int(r) for r in np.unique(rows) if r], list(qs), self.cells.slots)

    def release(self, rows: list[int]) -> None:
        """Forget slices."""
        self.cells.release(rows)
        for sketch in self.sketches.values():
            sketch.release(rows)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.cells.nbytes + sum(s.nbytes for s in self.sketches.values())

    def save(self, rows: list[int], slots: int) -> State:
        """The state of some rows as plain values."""
        return {"cells": self.cells.save(rows, slots), "sketches": {c: s.save(rows) for c, s in self.sketches.items()}}

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`, into rows taken before."""
        self.cells.load(rows, state["cells"])
        for column, sketch in self.sketches.items():
            sketch.load(rows, state["sketches"][column])


def _result(agg: Agg[Any], counts: Array, valid: Mapping[str, Array], merged: Merged) -> Array:
    if agg.of is None:
        return counts
    column = repr(agg.of)
    n = valid[column]
    if agg.fn == "sum":
        return merged[f"sum:{column}"]
    with np.errstate(invalid="ignore", divide="ignore"):
        if agg.fn == "mean":
            return np.asarray(merged[f"sum:{column}"] / n)
        if agg.fn == "std":
            return np.asarray(np.sqrt(merged[f"spread:{column}.m2"] / n))
    value = merged[f"{agg.fn}:{column}"]
    return np.where(n > 0, value, np.nan).astype(value.dtype) if value.dtype.kind == "f" else value
