"""The language of pipelines. Building one does no I/O; `Pipeline.plan` freezes it, and every mistake is found by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pipelines import resolve_join
from pipelines.errors import PlanError
from pipelines.expr import Array, Expr
from pipelines.plan import SOURCES, Exchange, Named, Plan, Step, foreign
from pipelines.ports import Sink, Source
from pipelines.resolve import check_final, check_has_late, dtype_of, final_mark, unit_of, window_spec
from pipelines.resolve_join import Sides
from pipelines.resolve_shape import (
    added,
    apply_spec,
    changes_spec,
    dedupe_spec,
    key_by,
    measured,
    pivot_columns,
    resample_spec,
    scan_spec,
    unpivot_spec,
)  # fmt: skip
from pipelines.schema import TEXT, Field, KeyField, Row, Schema
from pipelines.shapes import Scanner
from pipelines.topics import named_after, valid_name
from pipelines.windows import Over

S = TypeVar("S", bound=Schema)
S2 = TypeVar("S2", bound=Schema)


@dataclass(frozen=True, eq=False)
class Table(Generic[S]):
    """The newest row of each key, over event time, or the row of each key in a dimension; the right side of a join."""

    flow: Pipeline
    step: str
    schema: type[S]


@dataclass(frozen=True, eq=False)
class Stream(Generic[S]):
    """Rows of a schema. Every method adds a step and returns its stream."""

    flow: Pipeline
    step: str
    schema: type[S]

    @property
    def _node(self) -> Step:
        return self.flow.steps[self.step]

    def where(self, condition: Expr[bool]) -> Stream[S]:
        """Only rows for which the condition holds. It may use any column computed so far, selected or not."""
        node = self._node
        if dtype_of(condition, node, "where") != "bool":
            raise PlanError(
                f"where({condition}): a condition must be true or false, this is a {dtype_of(condition, node, 'where')}"
            )
        return Stream(
            self.flow,
            self.flow.chain("where", node, node.row, node.scope, condition.formula(_names(node)), condition),
            self.schema,
        )

    def select(self, into: type[S2]) -> Stream[S2]:
        """Rows of schema `into`, its columns computed from the columns so far (which later steps can still read)."""
        node = self._node
        fields = tuple(
            Field(c.qualified, dtype_of(c, node, into.__name__), unit_of(c, node)) for c in into.columns().values()
        )
        if not fields:
            raise PlanError(f"select({into.__name__}): the schema has no columns")
        scope = tuple({f.qualified: f for f in (*node.scope, *fields)}.values())
        row = Row(into.__name__, node.row.key, fields, node.row.windowed)
        formulas = ", ".join(f"{n}={c.formula(_names(node))}" for n, c in into.columns().items())
        self.flow.know(into)
        step = self.flow.chain("select", node, row, scope, formulas, tuple(into.columns().values()))
        return Stream(self.flow, step, into)

    def split(self, condition: Expr[bool]) -> tuple[Stream[S], Stream[S]]:
        """The rows for which the condition holds, and the others."""
        return self.where(condition), self.where(~condition)

    def union(self, other: Stream[S]) -> Stream[S]:
        """The rows of two streams of one schema; complete up to the earlier of their watermarks."""
        node, second = self._node, other._node
        if other.flow is not self.flow:
            raise PlanError(
                f"union({other.step}): it belongs to pipeline {other.flow.name!r}, this is {self.flow.name!r}"
            )
        if (node.row.key, node.row.fields, node.row.windowed) != (
            second.row.key,
            second.row.fields,
            second.row.windowed,
        ):
            raise PlanError(
                f"union({other.step}): its rows are {second.row.name}, these are {node.row.name}; select one schema"
            )
        scope = tuple(f for f in node.scope if f in second.scope)
        return Stream(self.flow, self.flow.chain("union", node, node.row, scope, "", None, other.step), self.schema)

    def key_by(self, column: Expr[str]) -> Stream[S]:
        """The same rows by another key: a text column, which becomes the key; the key so far becomes a column.

        The rows travel through a topic, to the partition of their new key. Of the columns those of schema `S` go with them. Later
        steps see them in event time, complete up to where the tasks of all partitions are.
        """
        node = self._node
        spec, row = key_by(node, column)
        writer = self.flow.chain("key_by", node, row, row.fields, str(spec), spec)
        source = Exchange(f"{self.flow.name}.{spec.into}", self.schema)
        scope = (*row.fields, KeyField(column.qualified, TEXT))
        return Stream(
            self.flow, self.flow.add(Step(spec.into, "repartition", (writer,), row, scope, source)), self.schema
        )

    def dedupe(self, *, by: Expr[int] | None = None, within: str) -> Windowed[S, S]:
        """Of rows of a key with the same `by` (a sequence number; by default the event time) only the first to arrive.

        `within` is how far apart duplicates may be in event time: rows further behind the watermark are late.
        """
        spec = dedupe_spec(self._node, by, within)
        return self._same("dedupe", spec)

    def changes(self, of: Expr[Any], *, deadband: float | str = 0.0) -> Stream[S]:
        """Only rows in which a value lies further than `deadband` from the last one of its key that was let through.

        The dead-band is in the unit of the column, or a share of the last value: '2%'. The order of arrival counts.
        """
        return self._same("changes", changes_spec(self._node, of, deadband))

    def resample(
        self, every: str, *, fill: Literal["previous", "linear", "null"], late: str, max_gap: str
    ) -> Windowed[S, S]:
        """One row for each key and multiple of `every`: the newest row before it, or a point on the line to the next one.

        'null' gives NaN where the step before has no row. Nothing is filled further than `max_gap` from a row, so a device that
        is gone does not live on. Rows wait until the watermark has passed them by `late`; older ones are late.
        """
        return self._same("resample", resample_spec(self._node, every, fill, late, max_gap))

    def scan(self, operator: Scanner, *of: Expr[Any], into: type[S2], late: str | None = None) -> Windowed[S2, S]:
        """An operator of your own with state for each key; its outputs are the `Col`s of `into`, in order.

        Rows are taken in the order of arrival; with `late` in that of event time, once the watermark has passed them by it.
        """
        spec = scan_spec(self._node, operator, of, into, late)
        return self._adding("scan", spec, into, spec.fields)

    def apply(self, function: Callable[..., tuple[Array, ...]], *of: Expr[Any], into: type[S2]) -> Stream[S2]:
        """A function of your own over whole columns: it takes arrays and gives one for each `Col` of `into`, row by row."""
        spec = apply_spec(self._node, function, of, into)
        return self._adding("apply", spec, into, spec.fields)

    def unpivot(self, *columns: Expr[Any], into: type[S2]) -> Stream[S2]:
        """Wide to long: a row for each column, with its name and value (`into`: a Col[str] and a Col[float])."""
        spec = unpivot_spec(self._node, columns, into)
        return self._adding("unpivot", spec, into, measured(into, "unpivot", self._node))

    def pivot(self, *, on: Expr[str], value: Expr[Any], into: type[S2]) -> Stream[S2]:
        """Long to wide: `value` goes into the column of `into` whose name `on` holds; the others are NaN.

        Each row stays a row; a window with agg.last(…) of each column gathers them.
        """
        columns = pivot_columns(self._node, on, value, into)
        row, scope = added(self._node, into, measured(into, "pivot", self._node))
        self.flow.know(into)
        return Stream(
            self.flow, self.flow.chain("select", self._node, row, scope, f"pivot on {on}: {value}", columns), into
        )

    def _same(self, kind: str, spec: Any) -> Windowed[S, S]:
        node = self._node
        return Windowed(
            self.flow, self.flow.chain(kind, node, node.row, node.scope, str(spec), spec), self.schema, self.schema
        )

    def _adding(self, kind: str, spec: Any, into: type[S2], fields: tuple[Field, ...]) -> Windowed[S2, S]:
        row, scope = added(self._node, into, fields)
        self.flow.know(into)
        step = self.flow.chain(kind, self._node, row, scope, str(spec), spec)
        return Windowed(self.flow, step, into, self.schema)

    def window(self, over: Over, into: type[S2]) -> Windowed[S2, S]:
        """Group rows by key and window; one row of schema `into` for each when the window closes.

        With `early=…` also before that; see `agg.revision`, `agg.final` and `Windowed.final`.
        """
        if self._node.kind == "late":
            raise PlanError(
                f"{self.step}: late rows have no watermark, so a window over them never closes; write them to a sink"
            )
        name = valid_name("step", named_after(into.__name__))
        self.flow.know(into)
        spec = window_spec(over, into, self._node)
        key = into.key()
        if key not in (None, self._node.row.key):
            raise PlanError(
                f"{into.__name__}.{key}: the key of {self.step} is {self._node.row.key!r}; leave the Key out of {into.__name__}"
            )
        row = Row(into.__name__, self._node.row.key, spec.fields, windowed=True)
        scope = (*spec.fields, *dict.fromkeys((*self._node.keys, *into.key_field())))
        self.flow.add(Step(name, "window", (self.step,), row, scope, spec))
        return Windowed(self.flow, name, into, self.schema)

    def join(
        self, table: Table[Any], *, how: Literal["inner", "left"], wait: str = "10s", tolerance: str | None = None
    ) -> Stream[S]:
        """Each row with the table's newest row of the same key strictly before it, and not older than `tolerance`.

        A row is held until the table is complete up to its time. If the table is computed from another source, which may
        fall silent, then for at most `wait` of event time; a `pipeline.table` is never waited for, nor is a `dimension`.
        """
        sides = self._sides("join", table, how)
        fields, fill = sides.right_fields(table.schema)
        if sides.right.kind == "dimension":
            return self._joined("lookup", sides, fields, resolve_join.lookup(sides, fill, tolerance))
        return self._joined("join", sides, fields, resolve_join.as_of(sides, fill, wait, tolerance))

    def join_within(
        self, other: Stream[S2], *, before: str, after: str, how: Literal["inner", "left"], late: str, wait: str = "1m"
    ) -> Joined[S, S2]:
        """Each pair of rows of one key with the other's time in `[time - before, time + after]`: an interval join.

        The result has the time of this stream's row. It comes when both watermarks have passed it and its partners by `late`;
        rows further behind the watermark of their own stream are late. If one stream stands still, then the other goes on without
        it after `wait` of event time; what comes later than that is late.
        """
        sides = self._sides("join_within", other, how)
        fields, fill = sides.right_fields(other.schema)
        spec = resolve_join.within(sides, fill, before, after, late, wait)
        step = self._joined("within", sides, fields, spec).step
        return Joined(self.flow, step, self.schema, other.schema)

    def join_window(self, other: Stream[S2], *, how: Literal["inner", "left"], wait: str = "1m") -> Joined[S, S2]:
        """Results of equal windows, key by key; the windows of both streams must be the same. `wait`: see `join_within`."""
        resolve_join.check_windows(self._sides("join_window", other, how))
        return self.join_within(other, before="0s", after="0s", how=how, late="0s", wait=wait)

    def _sides(self, method: str, other: Stream[Any] | Table[Any], how: str) -> Sides:
        call = f"{method}({other.step})"
        if other.flow is not self.flow:
            raise PlanError(f"{call}: it belongs to pipeline {other.flow.name!r}, this is {self.flow.name!r}")
        sides = Sides(call, self.flow.steps, self._node, self.flow.steps[other.step], how)
        sides.check()
        return sides

    def _joined(self, kind: str, sides: Sides, fields: tuple[Field, ...], spec: Any) -> Stream[S]:
        left, right = sides.left, sides.right
        step = self.flow.chain(kind, left, left.row, left.scope + fields, str(spec), spec, right.name)
        return Stream(self.flow, step, self.schema)

    def latest(self) -> Table[S]:
        """This stream as a table: the newest row of each key, for joins."""
        return Table(self.flow, self.step, self.schema)

    def to(self, *sinks: Sink, name: str | None = None) -> Stream[S]:
        """Write the rows to sinks, through the result topic of this step (`name`: of the topic, if not the schema's)."""
        step = self.step
        ours = self._node.kind in SOURCES and not foreign(self._node.spec)
        if not ours and self._node.kind not in ("window", "late", "result"):
            step = valid_name("result", name or named_after(self.schema.__name__))
            node = self._node
            self.flow.add(Step(step, "result", (self.step,), node.row, node.scope, ""))
        elif name is not None:
            raise PlanError(f"{self.step}.to(name={name!r}): the rows of {self.step} already have a topic of that name")
        for sink in sinks:
            sink.check(self.flow.steps[step].row)
            self.flow.sinks.append((step, sink))
        return Stream(self.flow, step, self.schema)


@dataclass(frozen=True, eq=False)
class Windowed(Stream[S], Generic[S, S2]):
    """Results of a window; `late` are the rows that came too late for it."""

    late_schema: type[S2]

    @property
    def late(self) -> Stream[S2]:
        """Rows all of whose windows had closed when they arrived, as they came."""
        check_has_late(self._node)
        return Stream(self.flow, self.flow.late(self._node, 0), self.late_schema)

    def final(self) -> Stream[S]:
        """Of windows with `early=…` the results that will not change: those of windows that have closed."""
        mark = final_mark(self._node)
        return Stream(
            self.flow, self.flow.chain("final", self._node, self._node.row, self._node.scope, "", mark), self.schema
        )


@dataclass(frozen=True, eq=False)
class Joined(Stream[S], Generic[S, S2]):
    """Rows of a stream with those of another; the rows of either that came too late for it."""

    right_schema: type[S2]

    @property
    def late(self) -> Stream[S]:
        """Rows of this stream that were late, as they came."""
        return Stream(self.flow, self.flow.late(self._node, 0), self.schema)

    @property
    def late_right(self) -> Stream[S2]:
        """Rows of the other stream that were late, as they came."""
        return Stream(self.flow, self.flow.late(self._node, 1), self.right_schema)


@dataclass(eq=False)
class Pipeline:
    """A named graph of steps, from sources to sinks."""

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    sinks: list[tuple[str, Sink]] = field(default_factory=list)
    schemas: dict[str, type[Schema]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if valid_name("pipeline", self.name) in ("collect", "control"):
            raise PlanError(f"a pipeline cannot be called {self.name!r}: topics of the service have that name")

    def read(self, source: Source[S]) -> Stream[S]:
        """A stream of a source's readings."""
        return Stream(self, self._source("source", source), source.schema)

    def table(self, source: Source[S]) -> Table[S]:
        """A source whose newest row of each key matters, such as a maintenance plan; joins do not wait for it."""
        return Table(self, self._source("table", source), source.schema)

    def dimension(
        self, schema: type[S], path: str, *, key: str | None = None, columns: Mapping[Expr[Any], str] | None = None
    ) -> Table[S]:
        """Facts of each key that change by deploy only: a CSV or Parquet file that lies beside the pipeline file or below it.

        `key` and `columns` (`{Machine.limit: "Limit [A]"}`) are headers that differ from the schema's names. An empty cell takes
        the `absent` of its column.
        """
        spec, row = resolve_join.dimension(schema, path, key, columns or {}), schema.measured()
        self.know(schema)
        name = valid_name("dimension", named_after(schema.__name__))
        return Table(self, self.add(Step(name, "dimension", (), row, row.fields, spec)), schema)

    def _source(self, kind: str, source: Source[Any]) -> str:
        row = source.schema.measured()
        self.know(source.schema)
        if source.stream == "dead":
            raise PlanError(
                "a stream cannot be called 'dead': that is the topic of dead letters; give it another stream="
            )
        scope = (*row.fields, *source.schema.key_field())
        return self.add(Step(valid_name("stream", source.stream), kind, (), row, scope, source))

    def add(self, step: Step) -> str:
        """Add a step; its name must be new."""
        if step.name == "state":
            raise PlanError(
                f"{self.name}: a step cannot be called 'state': that is the topic of snapshots; rename the schema"
            )
        if step.name in self.steps:
            kind = self.steps[step.name].kind
            cures = {
                "result": "give .to(…) another name=",
                "repartition": "call key_by once and use its stream twice, or select into another schema before",
            }
            cure = cures.get(step.kind, "give the schema another name")
            raise PlanError(
                f"{self.name}: there is already a step {step.name!r} ({kind}), and names key state and topics: {cure}"
            )
        check_final(step, self.steps)
        self.steps[step.name] = step
        return step.name

    def chain(self, kind: str, up: Step, row: Row, scope: tuple[Field, ...], text: str, spec: Any, *ups: str) -> str:
        """Add a step without state of its own name: it is called after what it does and to whom."""
        name = f"{up.name}|{kind}"
        while name in self.steps:
            name += "'"
        return self.add(Step(name, kind, (up.name, *ups), row, scope, Named(text, spec)))

    def late(self, step: Step, side: int) -> str:
        """The step of the rows that one input of a step was too late for."""
        name = f"{step.name.replace('|', '-')}-late{'-right' if side else ''}".replace("'", "x")
        if name not in self.steps or self.steps[name].kind != "late":
            up = self.steps[step.ups[side]]
            self.add(Step(name, "late", (step.name,), up.row, up.scope, "right" if side else ""))
        return name

    def know(self, schema: type[Schema]) -> None:
        """Columns are known as Schema.column, so one pipeline has one schema of a name."""
        if self.schemas.setdefault(schema.__name__, schema) is not schema:
            raise PlanError(f"{self.name}: two schemas are called {schema.__name__}: rename one")

    def plan(self) -> Plan:
        """Freeze; `PlanError` if the pipeline reads nothing or two columns of a result have one name."""
        if not self.steps:
            raise PlanError(
                f"{self.name} reads nothing: add a line such as  readings = {self.name}.read(mqtt.source(…))"
            )
        for step, _ in self.sinks:
            row = self.steps[step].row
            bare = [f.name for f in row.fields]
            if twice := {n for n in bare if bare.count(n) > 1 or n == row.key}:
                raise PlanError(
                    f"{step}: two columns are called {', '.join(sorted(twice))}; select a schema that names them apart"
                )
        return Plan(self.name, tuple(self.steps.values()), tuple(self.sinks))


def _names(node: Step) -> frozenset[str]:
    return frozenset(f.qualified for f in node.scope)
