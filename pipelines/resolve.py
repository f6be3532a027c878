"""Resolve a program's columns against what a step offers: dtypes, units and every mistake that can be found early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.aggregates import result_dtype, result_unit
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.plan import Step, WindowSpec
from pipelines.schema import TEXT, Agg, Field, Schema
from pipelines.windows import Count, Over, Window

MARKS = ("revision", "final")  # columns of windows with early results
_AS_THEY_COME = ("where", "select", "apply", "lookup", "result")  # steps that look at each row by itself
_DTYPES = {"float64": "float64", "float32": "float32", "int64": "int64", "bool": "bool", "StringDType()": TEXT}


def window_spec(over: Over, into: type[Schema], up: Step) -> WindowSpec:
    """Resolve the columns of `into`, aggregates and what is computed from them, against the columns of `up`."""
    aggs: dict[str, Agg[Any]] = {}
    for column in into.columns().values():
        for leaf in column.leaves():
            if not isinstance(leaf, Agg):
                raise PlanError(
                    f"{column.qualified}: {leaf} is not an aggregate; in a window write agg.mean({leaf}), agg.last({leaf}) …"
                )
            leaf.__set_name__(into, f"_{len(aggs)}")  # one that stands within an expression has no name yet
            if leaf.owner != into.__name__:
                raise PlanError(
                    f"{column.qualified}: {leaf} is a result of another window; here write agg.mean({leaf}), agg.last({leaf}) …"
                )
            aggs[leaf.qualified] = leaf
    marks = {n: aggs.pop(n) for n in list(aggs) if aggs[n].fn in MARKS}
    _check_marks(over, into, marks)
    if not aggs:
        raise PlanError(f"window into {into.__name__}: the schema has no aggregates, such as  n = agg.count()")
    of = {repr(c): dtype_of(c, up, a.qualified) for a in aggs.values() for c in a.columns}
    units = {f.qualified: f.unit for f in up.scope}
    results = {
        n: (
            result_dtype(a, tuple(of[repr(c)] for c in a.columns)),
            result_unit(a, tuple(units.get(c.qualified, "") for c in a.columns)),
        )
        for n, a in (aggs | marks).items()
    }
    scope = tuple(Field(n, d, u) for n, (d, u) in results.items())
    computed = {c.qualified: c for c in into.columns().values() if not isinstance(c, Agg)}
    known = Step("", "", (), up.row, scope, None)
    fields = [f for f in scope if not f.name.startswith("_")]
    fields += [Field(n, dtype_of(c, known, n), unit_of(c, known)) for n, c in computed.items()]
    order = {c.qualified: i for i, c in enumerate(into.columns().values())}
    ordered = tuple(sorted(fields, key=lambda f: order[f.qualified]))
    names = frozenset(f.qualified for f in up.scope)
    shown = [f"{n.rpartition('.')[2]}={a.formula(names)}" for n, a in (aggs | marks).items()]
    shown += [f"{n.rpartition('.')[2]}={c.formula(frozenset(aggs | marks))}" for n, c in computed.items()]
    text = ", ".join(shown)
    return WindowSpec(
        over, tuple(aggs.items()), tuple(marks.items()), tuple(computed.items()), tuple(of.items()), ordered, text
    )


def _check_marks(over: Over, into: type[Schema], marks: Mapping[str, Agg[Any]]) -> None:
    early = isinstance(over, Window) and over.early > 0
    if marks and not early:
        name, mark = next(iter(marks.items()))
        raise PlanError(f"{name} = agg.{mark.fn}(): only windows with early=… have it; this is {over}")
    if early and not any(m.fn == "final" for m in marks.values()):
        raise PlanError(
            f"{into.__name__}: with early=… a window gives several results, so its schema must tell them apart: add a line  "
            "final = agg.final()"
        )


def _early(step: Step, steps: Mapping[str, Step]) -> str | None:
    """The window whose results, several for each of its windows, a step gives."""
    if step.kind == "window":
        return step.name if isinstance(step.spec.over, Window) and step.spec.over.early else None
    return _early(steps[step.ups[0]], steps) if step.kind in _AS_THEY_COME else None


def check_final(step: Step, steps: Mapping[str, Step]) -> None:
    """Early results may be filtered, shaped and written, not computed with further."""
    if step.kind in (*_AS_THEY_COME, "final", "late"):
        return
    for up in step.ups:
        if window := _early(steps[up], steps):
            raise PlanError(
                f"{step.name}: {up} gives early results, which the final ones replace: take the final ones only, {window}.final()"
            )


def final_mark(node: Step) -> Expr[bool]:
    """The column of a window step that says whether a result is final."""
    marks: dict[str, Expr[bool]] = {m.fn: m for _, m in node.spec.marks} if node.kind == "window" else {}
    if "final" not in marks:
        raise PlanError(f"{node.name}.final(): all its results are final; only windows with early=… have others")
    return marks["final"]


def check_has_late(node: Step) -> None:
    """A count window takes rows of any time."""
    if node.kind == "window" and isinstance(node.spec.over, Count):
        raise PlanError(f"{node.name}.late: no row is late for a count window")


def dtype_of(expr: Expr[Any], up: Step, where: str) -> str:
    """dtype of an expression over the columns of a step, found by computing it on no rows."""
    empty = {f.qualified: np.empty(0, f.dtype) for f in up.scope}
    for leaf in expr.leaves(frozenset(empty)):
        if leaf.qualified not in empty:
            has = ", ".join(sorted(n for n in empty if "._" not in n)) or "no columns"
            raise PlanError(f"{where}: column {leaf} is not in this stream, which has {has}")
    try:
        with np.errstate(all="ignore"):
            found = str(np.asarray(expr.on({n: np.ones(1, c.dtype) for n, c in empty.items()})).dtype)
    except (TypeError, ValueError, OverflowError) as e:
        raise PlanError(f"{where}: {expr.formula()} cannot be computed: {e}") from e
    if found not in _DTYPES:
        raise PlanError(
            f"{where}: {expr.formula()} is of type {found}; a column is float64, float32, int64, bool or text"
        )
    return _DTYPES[found]


def unit_of(column: Expr[Any], up: Step) -> str:
    """A column that is only renamed keeps its unit; others have the one that is stated."""
    if column.op == "unit":
        return str(column.args[1])
    if column.op == "same" and isinstance(column.args[0], Expr):
        return next((f.unit for f in up.scope if f.qualified == column.args[0].qualified), "")
    return ""
