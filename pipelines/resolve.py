"""Resolve a program's columns against what a step offers: dtypes, units and every mistake that can be found early."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.aggregates import result_dtype
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.plan import Step, WindowSpec
from pipelines.schema import Agg, Col, Field, Schema
from pipelines.windows import Window

_DTYPES = ("float64", "float32", "int64", "bool")


def window_spec(over: Window, into: type[Schema], up: Step) -> WindowSpec:
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
    if not aggs:
        raise PlanError(f"window into {into.__name__}: the schema has no aggregates, such as  n = agg.count()")
    of = {repr(a.of): dtype_of(a.of, up, a.qualified) for a in aggs.values() if a.of is not None}
    results = {
        n: (result_dtype(a, of[repr(a.of)] if a.of is not None else ""), agg_unit(a, up)) for n, a in aggs.items()
    }
    scope = tuple(Field(n, d, u) for n, (d, u) in results.items())
    computed = {c.qualified: c for c in into.columns().values() if not isinstance(c, Agg)}
    known = Step("", "", (), up.row, scope, None)
    fields = [f for f in scope if not f.name.startswith("_")]
    fields += [Field(n, dtype_of(c, known, n), "") for n, c in computed.items()]
    order = {c.qualified: i for i, c in enumerate(into.columns().values())}
    ordered = tuple(sorted(fields, key=lambda f: order[f.qualified]))
    names = frozenset(f.qualified for f in up.scope)
    shown = [f"{n.rpartition('.')[2]}={a.formula(names)}" for n, a in aggs.items()]
    shown += [f"{n.rpartition('.')[2]}={c.formula(frozenset(aggs))}" for n, c in computed.items()]
    text = ", ".join(shown)
    return WindowSpec(over, tuple(aggs.items()), tuple(computed.items()), tuple(of.items()), ordered, text)


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
        raise PlanError(f"{where}: {expr.formula()} is of type {found}; a column is float64, float32, int64 or bool")
    return found


def unit_of(column: Expr[Any], up: Step) -> str:
    """A column that is only renamed keeps its unit."""
    if column.op == "same" and isinstance(column.args[0], Expr):
        return next((f.unit for f in up.scope if f.qualified == column.args[0].qualified), "")
    return ""


def agg_unit(agg: Agg[Any], up: Step) -> str:
    if agg.of is None:
        return ""
    return next((f.unit for f in up.scope if f.qualified == agg.of.qualified), "")


def fill_of(right: Step, schema: type[Schema]) -> tuple[tuple[str, float], ...]:
    """What a left join puts in for a missing row."""
    absent = {c.qualified: c.absent for c in schema.columns().values() if isinstance(c, Col) and c.absent is not None}
    counts = [c for c in schema.columns().values() if isinstance(c, Agg) and c.fn in ("count", "sum")]
    absent |= {c.qualified: 0 for c in counts}  # nothing was counted where there is no row
    for f in right.scope:
        if f.qualified not in absent and not f.dtype.startswith("float"):
            raise PlanError(
                f"left join with {right.name}: say what {f.qualified} is where there is no row: Col[…](absent=…), or join inner"
            )
    return tuple(absent.items())
