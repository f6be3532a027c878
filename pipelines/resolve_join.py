"""Resolve joins: what the sides of each kind of join must have in common, and every mistake that can be found early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr
from pipelines.plan import READ, DimensionSpec, Fill, JoinSpec, LookupSpec, Step, WithinSpec
from pipelines.ports import lies_beside
from pipelines.schema import Agg, Col, Field, KeyField, Schema
from pipelines.units import duration_ns
from pipelines.windows import LENGTH_NS_MAX, Calendar, Window
from pipelines.zones import DAYS

_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Sides:
    """Two steps that are to be joined. `call` is what the program says, for errors."""

    call: str
    steps: Mapping[str, Step]
    left: Step
    right: Step
    how: str

    def check(self) -> None:
        """`PlanError` if rows of the two cannot meet."""
        if self.how not in ("inner", "left"):
            raise PlanError(f"{self.call}, how={self.how!r}: how is 'inner' or 'left'")
        if self.left.row.key != self.right.row.key:
            raise PlanError(
                f"{self.call}: its key is {self.right.row.key!r}, the key of {self.left.name} is {self.left.row.key!r}; rows "
                "meet by key, and both sides must call it the same"
            )

    def right_fields(self, schema: type[Schema]) -> tuple[tuple[Field, ...], Fill]:
        """The columns that the right side adds, and what a left join puts there for a missing row.

        A column that a select has hidden gives way to one of the left, and is left out where nothing can stand for it.
        """
        known, visible = {f.qualified for f in self.left.scope}, {f.qualified for f in self.right.row.fields}
        if clash := sorted(known & visible):
            raise PlanError(
                f"{self.call}: both sides have {', '.join(clash)}: select the right side into a schema that names them "
                f"otherwise, such as  class Other(Schema): {clash[0].rpartition('.')[2]} = {clash[0]}"
            )
        fields = [f for f in self.right.scope if f.qualified not in known and not isinstance(f, KeyField)]
        if self.how == "inner":
            return tuple(fields), ()
        absent = {c.qualified: value for c in schema.columns().values() if (value := _absent(c)) is not None}
        nothing = [f.qualified for f in fields if f.qualified not in absent and not f.dtype.startswith("float")]
        if unsaid := [n for n in nothing if n in visible]:
            raise PlanError(
                f"{self.call}, how='left': say what {unsaid[0]} is where there is no row: Col[…](absent=…), or join inner"
            )
        return tuple(f for f in fields if f.qualified not in nothing), tuple(absent.items())

    def patience(self, wait: str) -> int:
        """ns of event time that a side waits for the other: `wait` and the stride in which the watermarks move."""
        return self.ns("wait", wait) + max(_stride(self.steps, s) for s in (self.left, self.right))

    def ns(self, name: str, text: str) -> int:
        """A duration that the call was given."""
        try:
            ns = duration_ns(text)
        except ConfigError as e:
            raise PlanError(f"{self.call}, {name}: {e}") from e
        if ns > LENGTH_NS_MAX:
            raise PlanError(f"{self.call}, {name}={text!r}: no longer than ten years")
        return ns


def as_of(sides: Sides, fill: Fill, wait: str, tolerance: str | None) -> JoinSpec:
    """The join of a stream with a table."""
    if sides.right.kind == "table":
        patience: int | None = 0
    elif origins(sides.steps, sides.left) >= origins(sides.steps, sides.right):
        patience = None  # the table goes on whenever the stream does
    else:
        patience = sides.patience(wait)
    return JoinSpec(sides.how, patience, fill, None if tolerance is None else sides.ns("tolerance", tolerance))


def within(sides: Sides, fill: Fill, before: str, after: str, late: str, wait: str) -> WithinSpec:
    """The join of two streams by their times."""
    for side in (sides.left, sides.right):
        if side.kind == "late":
            raise PlanError(
                f"{sides.call}: the rows of {side.name} are late, they have no watermark, and nobody knows when their partners "
                "are complete; write them to a sink"
            )
    same = origins(sides.steps, sides.left) == origins(sides.steps, sides.right)
    patience = None if same else sides.patience(wait)
    return WithinSpec(
        sides.how, sides.ns("before", before), sides.ns("after", after), sides.ns("late", late), patience, fill
    )


def lookup(sides: Sides, fill: Fill, tolerance: str | None) -> LookupSpec:
    """The join of a stream with a dimension."""
    if tolerance is not None:
        raise PlanError(
            f"{sides.call}, tolerance={tolerance!r}: the rows of a dimension have no time: leave tolerance out"
        )
    return LookupSpec(sides.how, fill)


def check_windows(sides: Sides) -> None:
    """`PlanError` unless both sides are results of the same windows, apart from how long these wait for late rows."""
    left, right = _window(sides, sides.left), _window(sides, sides.right)
    if replace(left, late=0, early=0, idle=0) != replace(right, late=0, early=0, idle=0):
        raise PlanError(
            f"{sides.call}: the windows differ: {sides.left.name} has {left}; {sides.right.name} has {right}. Make them the "
            "same, or take the newest of the other:  .join(other.latest(), …)"
        )


def _window(sides: Sides, side: Step) -> Window:
    step = side
    while step.kind != "window" and step.row.windowed:
        step = sides.steps[step.ups[0]]
    if step.kind != "window":
        raise PlanError(f"{sides.call}: {side.name} has no windows: window it first, or use join_within")
    over = step.spec.over
    if not isinstance(over, Window):
        raise PlanError(f"{sides.call}: {step.name} is {over}: its windows differ from key to key; use join_within")
    return over


def dimension(schema: type[Schema], path: str, key: str | None, columns: Mapping[Expr[Any], str]) -> DimensionSpec:
    """What is read of a file of facts."""
    where, row = f"dimension({schema.__name__}, {path!r})", schema.measured()
    if not path.lower().endswith((".csv", ".parquet")):
        raise PlanError(f"{where}: only .csv and .parquet can be read")
    if filled := {f.qualified for f in row.fields} - {f.qualified for f in schema.sent().fields}:
        raise PlanError(f"{where}: facts have no {', '.join(sorted(filled))}: only a source of readings fills that")
    if not lies_beside(path):
        raise PlanError(
            f"{where}: the file travels with the pipeline file, so it lies in its folder or one below: 'facts/x.csv'"
        )
    given = {expr.qualified: header for expr, header in columns.items()}
    if unknown := given.keys() - {f.qualified for f in row.fields}:
        raise PlanError(
            f"{where}, columns={{{', '.join(sorted(unknown))}: …}}: "
            f"{schema.__name__} has {', '.join(f.qualified for f in row.fields)}"
        )
    headers = tuple((f.qualified, given.get(f.qualified, f.name)) for f in row.fields)
    absent = ((c.qualified, c.absent) for c in schema.columns().values() if isinstance(c, Col) and c.absent is not None)
    return DimensionSpec(path, key or row.key, headers, tuple(absent))


def origins(steps: Mapping[str, Step], step: Step) -> frozenset[str]:
    """The sources that a step's watermark follows; a join waits for its other side, but not for ever.

    A join of two streams from different sources follows neither alone: it is an origin of its own.
    """
    if step.kind in READ:
        return frozenset({step.name})
    if step.kind == "union":
        return origins(steps, steps[step.ups[0]]) | origins(steps, steps[step.ups[1]])
    first = origins(steps, steps[step.ups[0]])
    if step.kind == "within" and origins(steps, steps[step.ups[1]]) != first:
        return frozenset({step.name})
    return first


def _absent(column: Expr[Any]) -> Any:
    """What stands for a column where there is no row; None if nobody has said it."""
    if isinstance(column, Col):
        return column.absent
    if isinstance(column, Agg):
        return 0 if column.fn in ("count", "sum") else None  # nothing was counted where there is no row
    return _absent(column.args[0]) if column.op == "same" and isinstance(column.args[0], Expr) else None


def _stride(steps: Mapping[str, Step], step: Step) -> int:
    """How far (ns) the watermark of a step moves at once: results of windows come a window at a time."""
    longest = 0
    while step.ups:
        over = step.spec.over if step.kind == "window" else None
        if isinstance(over, Window):
            grid = over.grid
            width = (
                DAYS[grid.unit] * _DAY_NS * 5 // 4 if isinstance(grid, Calendar) else grid.width
            )  # the longest month …
            longest = max(longest, over.hop * width)
        step = steps[step.ups[0]]
    return longest
