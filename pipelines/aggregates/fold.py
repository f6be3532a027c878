"""Fold: the state of all aggregates of one window step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.aggregates.parts import PARTS, Aggregate, Ints, Rows
from pipelines.aggregates.quantile import Sketches
from pipelines.aggregates.results import RULES, Merged
from pipelines.aggregates.samples import COMPUTE, Samples
from pipelines.expr import Array, Expr
from pipelines.schema import Agg
from pipelines.state import Cells, State

COUNT = "count"


class Fold:
    """Cells of shape (state rows, slots), one for each slice and key, with what the aggregates need.

    Aggregates of the same columns share their state. A row in which one of these columns is NaN counts for none of them.
    """

    def __init__(
        self,
        aggs: Mapping[str, Agg[Any]],
        dtypes: Mapping[str, str],
        bytes_max: int,
        *,
        carry: bool = False,
        slots: int = 16,
    ) -> None:
        """`aggs` by result name; `dtypes` of each aggregated column by its `repr`.

        `carry`: what a key had just before a window counts for aggregates of time, such as integrals. `slots`: to begin with.
        """
        self.aggs, self.dtypes = dict(aggs), dict(dtypes)
        self.columns: dict[str, Expr[Any]] = {repr(c): c for a in aggs.values() for c in a.columns}
        self.groups = {a.group: tuple(map(repr, a.columns)) for a in aggs.values() if a.columns}
        self._floats = {g: [c for c in of if dtypes[c].startswith("float")] for g, of in self.groups.items()}
        self._parts = self._needed()
        fields: dict[str, Any] = {COUNT: ("int64", 0)}
        for name, (_, part) in self._parts.items():
            fields |= {f"{name}.{field}": spec for field, spec in part.fields.items()}
        fields |= {f"missing:{g}": ("int64", 0) for g, floats in self._floats.items() if floats}
        self.cells = Cells(fields, bytes_max, slots)
        self.sketches = {a.group: Sketches() for a in aggs.values() if a.fn == "quantile"}
        self.samples = {a.group: Samples(dtypes[a.group], carry) for a in aggs.values() if a.fn in COMPUTE}
        self._stores: list[Sketches | Samples] = [*self.sketches.values(), *self.samples.values()]

    def _needed(self) -> dict[str, tuple[str, Aggregate]]:
        """The parts by name, with the group that each belongs to."""
        own = {
            (a.group, p) for a in self.aggs.values() if a.columns for p in RULES[a.fn].parts if not RULES[a.fn].shared
        }
        found: dict[str, tuple[str, Aggregate]] = {}
        for a in self.aggs.values():
            if not a.columns:
                continue
            rule = RULES[a.fn]
            shared = [p for p in rule.shared if (a.group, p) in own]
            for kind in shared or rule.parts:
                name = self._part(a, kind)
                if name not in found:
                    found[name] = (
                        a.group,
                        PARTS[kind](tuple(self.dtypes[c] for c in self.groups[a.group]), _own(a, kind)),
                    )
        return found

    @staticmethod
    def _part(a: Agg[Any], kind: str) -> str:
        own = _own(a, kind)
        return f"{kind}{own or ''}:{a.group}"

    def update(self, rows: Ints, slots: Array, values: Mapping[str, Array], times: Ints) -> None:
        """Add readings: state row, slot, column values (by `repr` of the expression) and time of each."""
        at = rows * self.cells.slots + slots
        np.add.at(self.cells.flat(COUNT), at, 1)
        with np.errstate(all="ignore"):
            for group, columns in self.groups.items():
                self._update_group(group, rows, slots, at, tuple(values[c] for c in columns), times)

    def _update_group(
        self, group: str, rows: Ints, slots: Array, at: Ints, values: tuple[Array, ...], times: Ints
    ) -> None:
        floats = [v for v in values if v.dtype.kind == "f"]
        if any(np.isnan(v.min(initial=np.inf)) for v in floats):  # the least is NaN if any is
            gone = np.any([np.isnan(v) for v in floats], axis=0)
            np.add.at(self.cells.flat(f"missing:{group}"), at[gone], 1)
            there = ~gone
            rows, slots, at, times = rows[there], slots[there], at[there], times[there]
            values = tuple(v[there] for v in values)
        added = Rows(at, values, times)
        for name, (of, part) in self._parts.items():
            if of == group:
                part.update({field: self.cells.flat(f"{name}.{field}") for field in part.fields}, added)
        if group in self.sketches:
            self.sketches[group].add(rows, slots, values[0])
        if group in self.samples:
            self.samples[group].add(rows, slots, times, values[0])

    def results(self, windows: Ints, slots: slice, slices: Ints | None = None) -> tuple[Array, dict[str, Array]]:
        """Of windows given as state rows, shape (windows, slices): counts and results, each of shape (windows, slots).

        `slices`: the same windows without rows made by `combine`, if `windows` has such.
        """
        block, slices = (windows, slots), windows if slices is None else slices
        with np.errstate(all="ignore"):
            counts = self.cells[COUNT][block].sum(axis=1)
            usable = self._usable(block)
            valid = {g: n.sum(axis=1) for g, n in usable.items()}
            merged = {
                name: {**part.merge(self._state(name, block) | {"n": usable[g]}), "n": valid[g]}
                for name, (g, part) in self._parts.items()
            }
            ordered = {g: s.ordered(slices, slots) for g, s in self.samples.items()}
            found: dict[str, Array] = {}
            for name, a in self.aggs.items():
                if a.fn == COUNT:
                    found[name] = counts
                elif a.fn in COMPUTE:
                    found[name] = COMPUTE[a.fn](ordered[a.group], a.params).reshape(counts.shape)
                elif a.fn != "quantile":
                    found[name] = self._result(a, valid[a.group], merged)
        return counts, found | self._quantiles(slices, slots)

    def _usable(self, block: Any) -> dict[str, Array]:
        """Rows that count, of each group."""
        counts = self.cells[COUNT][block]
        return {g: counts - self.cells[f"missing:{g}"][block] if f else counts for g, f in self._floats.items()}

    def _state(self, name: str, block: Any) -> dict[str, Array]:
        return {field: self.cells[f"{name}.{field}"][block] for field in self._parts[name][1].fields}

    def _result(self, a: Agg[Any], n: Array, merged: Mapping[str, Mapping[str, Array]]) -> Array:
        rule = RULES[a.fn]
        names = {kind: self._part(a, kind) for kind in (*rule.parts, *rule.shared)}
        state = Merged(n, {kind: merged[name] for kind, name in names.items() if name in merged}, a.params)
        value = np.asarray(rule.compute(state))
        return (
            np.where(n > 0, value, np.nan).astype(value.dtype) if value.dtype.kind == "f" and a.fn != "sum" else value
        )

    def _quantiles(self, windows: Ints, slots: slice) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for group, sketch in self.sketches.items():
            names = {n: a.params[0] for n, a in self.aggs.items() if a.fn == "quantile" and a.group == group}
            qs = list(names.values())
            each = [
                sketch.quantiles([int(r) for r in np.unique(w) if r], qs, self.cells.slots)[:, slots] for w in windows
            ]
            found |= dict(zip(names, np.stack(each, axis=1), strict=True))
        return found

    def absorb(self, target: int, source: int, slots: Ints) -> None:
        """Merge cells of one state row into another, which is earlier in time, for some slots; `source` is then
        cleared there."""
        self._merge(target, np.array([target, source]), slots)
        for store in self._stores:
            store.absorb(target, source, slots)
        self._identity(source, slots)

    def combine(self, target: int, sources: list[int]) -> None:
        """Fill an empty state row with others merged, ascending in time; not with what is kept in sketches and samples."""
        self._merge(target, np.array(sources), slice(None))

    def _merge(self, target: int, sources: Ints, slots: Ints | slice) -> None:
        block = (sources[None, :, None], slots) if isinstance(slots, np.ndarray) else (sources[None, :], slots)
        with np.errstate(all="ignore"):
            usable = self._usable(block)
            merged = {
                f"{name}.{field}": a[0]
                for name, (g, part) in self._parts.items()
                for field, a in part.merge(self._state(name, block) | {"n": usable[g]}).items()
            }
        for name in self.cells.fields:
            if name == COUNT or name.startswith("missing:"):
                merged[name] = self.cells[name][block][0].sum(axis=0)
        for name, a in merged.items():
            self.cells[name][target, slots] = a

    def clear(self, row: int, slots: Ints) -> None:
        """Empty the cells of a state row for some slots."""
        self._identity(row, slots)
        for store in self._stores:
            store.clear(row, slots)

    def _identity(self, row: int, slots: Ints) -> None:
        for name, spec in self.cells.fields.items():
            self.cells[name][row, slots] = spec[1]

    def release(self, rows: list[int]) -> None:
        """Forget slices."""
        self.cells.release(rows)
        for store in self._stores:
            store.release(rows)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.cells.nbytes + sum(s.nbytes for s in self._stores)

    def save(self, rows: list[int], slots: int) -> State:
        """The state of some rows as plain values."""
        return {
            "cells": self.cells.save(rows, slots),
            "sketches": {c: s.save(rows) for c, s in self.sketches.items()},
            "samples": {c: s.save(rows) for c, s in self.samples.items()},
        }

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`, into rows taken before."""
        self.cells.load(rows, state["cells"])
        for column, sketch in self.sketches.items():
            sketch.load(rows, state["sketches"][column])
        for column, samples in self.samples.items():
            samples.load(rows, state["samples"][column])


def _own(a: Agg[Any], kind: str) -> tuple[Any, ...]:
    """The parameters that decide a part's state."""
    return a.params[:1] if kind == "custom" else tuple(a.params[0]) if kind == "histogram" else ()
