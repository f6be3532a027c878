"""Resolve what shapes a stream: every mistake in it is found here, when the pipeline is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr, if_else
from pipelines.plan import KeyBySpec, Step
from pipelines.resolve import dtype_of
from pipelines.schema import TEXT, Col, Field, KeyField, Row, Schema
from pipelines.shapes import ApplySpec, ChangesSpec, DedupeSpec, Fill, ResampleSpec, Scanner, ScanSpec, UnpivotSpec
from pipelines.topics import valid_name
from pipelines.units import duration_ns

DURATION_NS_MAX = 366 * 86_400 * 10**9


def duration(what: str, text: str, *, zero: bool = False) -> int:
    """ns of a duration of at most a year; `PlanError` if it is none."""
    try:
        ns = duration_ns(text)
    except ConfigError as e:
        raise PlanError(f"{what}: {e}") from e
    if not (0 if zero else 1) <= ns <= DURATION_NS_MAX:
        raise PlanError(f"{what}: {text} must be {'at most a year' if zero else 'longer than zero and at most a year'}")
    return ns


def names(node: Step) -> frozenset[str]:
    """Columns that a step offers, by qualified name."""
    return frozenset(f.qualified for f in node.scope)


def measured(into: type[Schema], what: str, node: Step) -> tuple[Field, ...]:
    """The columns of a schema that an operator fills: `Col`s only."""
    fields = []
    for name, column in into.columns().items():
        if not isinstance(column, Col):
            raise PlanError(
                f"{what}: {into.__name__}.{name} is computed ({column.formula()}); an output is a Col[…](…)"
            )
        fields.append(Field(column.qualified, column.dtype, column.unit))
    if not fields:
        raise PlanError(f"{what}: {into.__name__} has no columns for what comes out")
    if clash := {f.qualified for f in fields} & names(node):
        raise PlanError(
            f"{what}: the stream already has {', '.join(sorted(clash))}; give the output a schema of its own"
        )
    return tuple(fields)


def added(node: Step, into: type[Schema], fields: tuple[Field, ...]) -> tuple[Row, tuple[Field, ...]]:
    """Row and scope of a stream that gets new columns."""
    return Row(into.__name__, node.row.key, fields, node.row.windowed), (*node.scope, *fields)


def key_by(node: Step, column: Expr[Any]) -> tuple[KeyBySpec, Row]:
    """By what the rows of a step are keyed anew, and their row then."""
    what = f"key_by({column})"
    if (dtype := dtype_of(column, node, what)) != TEXT:
        raise PlanError(
            f"{what}: a key is text, this is {dtype}; name the group in words, such as if_else(…, 'hot', 'cold')"
        )
    if not column.qualified:
        raise PlanError(f"{what}: the key needs a name: make it a column of a schema and select that first")
    if any(column.qualified == f.qualified for f in node.keys):
        raise PlanError(f"{what}: {node.name} has this key already")
    if node.kind == "late":
        raise PlanError(f"{what}: late rows have no watermark; write them to a sink")
    before = Field(f"{node.row.name}.{node.row.key}", TEXT) if not node.keys else Field(node.keys[0].qualified, TEXT)
    fields = tuple(f for f in node.row.fields if f.qualified != column.qualified and f != before)
    if before.name in (column.name, *(f.name for f in fields)):
        raise PlanError(
            f"{what}: {before.name!r} is the key so far, and also a column; select a schema that names them apart"
        )
    row = Row(node.row.name, column.name, (before, *fields), node.row.windowed)
    into = f"{node.name.replace('|', '-')}-by-{column.name}".replace("'", "x").replace("_", "-").lower()
    return KeyBySpec(column, valid_name("step", into)), row


def changes_spec(node: Step, of: Expr[Any], deadband: float | str) -> ChangesSpec:
    """Of `Stream.changes`."""
    what = f"changes({of})"
    dtype = dtype_of(of, node, what)
    relative = isinstance(deadband, str)
    try:
        band = float(deadband.removesuffix("%")) / 100 if isinstance(deadband, str) else float(deadband)
    except ValueError:
        band = -1.0
    if not 0 <= band < float("inf") or (isinstance(deadband, str) and not deadband.endswith("%")):
        raise PlanError(f"{what}: deadband={deadband!r} is no band: write a number in the unit of the column, or '2%'")
    if band and dtype in ("bool", TEXT):
        raise PlanError(f"{what}: a column of {dtype if dtype == 'bool' else 'text'} has no dead-band; leave it out")
    return ChangesSpec(of, dtype, band, relative, f"{of.shown(names(node))}, dead-band {deadband}")


def dedupe_spec(node: Step, by: Expr[Any] | None, within: str) -> DedupeSpec:
    """Of `Stream.dedupe`."""
    if by is not None and dtype_of(by, node, "dedupe") != "int64":
        raise PlanError(f"dedupe(by={by}): a sequence is a column of int; without by= the event time is taken")
    text = "event time" if by is None else by.shown(names(node))
    return DedupeSpec(by, duration("dedupe(within=…)", within), text)


def resample_spec(node: Step, every: str, fill: Fill, late: str, max_gap: str) -> ResampleSpec:
    """Of `Stream.resample`."""
    what = f"resample({every!r})"
    if fill not in get_args(Fill):
        raise PlanError(f"{what}: fill={fill!r} is unknown: write 'previous', 'linear' or 'null'")
    if fill == "null" and (other := [f.qualified for f in node.scope if not _may_be_nan(f)]):
        raise PlanError(
            f"{what}: {other[0]} cannot be NaN, so fill='null' has no meaning for it; select float columns first"
        )
    spec = ResampleSpec(
        duration(what, every), fill, duration(f"{what}, late", late, zero=True), duration(f"{what}, max_gap", max_gap)
    )
    if spec.max_gap < spec.every:
        raise PlanError(f"{what}: max_gap={max_gap!r} is shorter than the grid; nothing would be filled")
    return spec


def scan_spec(node: Step, operator: Scanner, of: Sequence[Expr[Any]], into: type[Schema], late: str | None) -> ScanSpec:
    """Of `Stream.scan`."""
    what = f"scan({operator!r})"
    for column in of:
        dtype_of(column, node, what)
    for name, spec in operator.state.items():
        if len(spec) != 2:
            raise PlanError(
                f"{what}: state {name!r} is {spec!r}: write a dtype and the value for a new key, ('float64', 0.0)"
            )
    late_ns = None if late is None else duration(f"{what}, late", late, zero=True)
    order = "" if late is None else f", in event time, late {late}"
    text = f"{operator!r} of {', '.join(c.shown(names(node)) for c in of)}{order}"
    return ScanSpec(operator, tuple(of), measured(into, what, node), late_ns, text)


def apply_spec(node: Step, function: Callable[..., Any], of: Sequence[Expr[Any]], into: type[Schema]) -> ApplySpec:
    """Of `Stream.apply`."""
    name = getattr(function, "__qualname__", repr(function))
    for column in of:
        dtype_of(column, node, f"apply({name})")
    text = f"{name} of {', '.join(c.shown(names(node)) for c in of)}"
    return ApplySpec(function, tuple(of), measured(into, f"apply({name})", node), text)


def unpivot_spec(node: Step, columns: Sequence[Expr[Any]], into: type[Schema]) -> UnpivotSpec:
    """Of `Stream.unpivot`."""
    what = f"unpivot into {into.__name__}"
    if not columns:
        raise PlanError(f"{what}: name the columns that become rows")
    fields = measured(into, what, node)
    if [f.dtype for f in fields] != [TEXT, "float64"]:
        raise PlanError(f"{what}: it needs two columns: the name, a Col[str](), and the value, a Col[float]()")
    for column in columns:
        if dtype_of(column, node, what) not in ("float64", "float32", "int64", "bool") or not column.name:
            raise PlanError(f"{what}: {column} is not a column of numbers with a name")
    return UnpivotSpec(tuple(columns), fields[0].qualified, fields[1].qualified)


def pivot_columns(node: Step, on: Expr[str], value: Expr[Any], into: type[Schema]) -> tuple[Expr[Any], ...]:
    """Of `Stream.pivot`: each column is the value where `on` is its name, else NaN."""
    what = f"pivot into {into.__name__}"
    if dtype_of(on, node, what) != TEXT:
        raise PlanError(f"{what}: on={on} must be a column of text: the name of each value")
    columns = []
    for field in measured(into, what, node):
        if not field.dtype.startswith("float"):
            raise PlanError(f"{what}: {field.qualified} must be a float: it is NaN in the rows of other names")
        column = if_else(on == field.name, value, float("nan"))
        column.owner, column.name = into.__name__, field.name
        columns.append(column)
    return tuple(columns)


def _may_be_nan(field: Field) -> bool:
    return field.dtype.startswith("float") or isinstance(field, KeyField)
