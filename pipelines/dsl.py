"""The language of pipelines. Building one does no I/O; `Pipeline.plan` freezes it, and every mistake is found by then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.plan import SOURCES, JoinSpec, Named, Plan, Step
from pipelines.ports import Sink, Source
from pipelines.resolve import dtype_of, fill_of, unit_of, window_spec
from pipelines.schema import Field, Row, Schema
from pipelines.topics import named_after, valid_name
from pipelines.units import duration_ns
from pipelines.windows import Window

S = TypeVar("S", bound=Schema)
S2 = TypeVar("S2", bound=Schema)


@dataclass(frozen=True, eq=False)
class Table(Generic[S]):
    """The newest row of each key, over event time; the right side of a join."""

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

    def window(self, over: Window, into: type[S2]) -> Windowed[S2, S]:
        """Group rows by key and window; one row of schema `into` for each when the window closes."""
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
        self.flow.add(Step(name, "window", (self.step,), row, spec.fields, spec))
        return Windowed(self.flow, name, into, self.schema)

    def join(self, table: Table[Any], *, how: Literal["inner", "left"], wait: str = "10s") -> Stream[S]:
        """Each row with the table's newest row of the same key strictly before it in event time.

        A row is held until the table is complete up to its time. If the table is computed from another source, which may
        fall silent, then for at most `wait` of event time; a `pipeline.table` is never waited for.
        """
        if table.flow is not self.flow:
            raise PlanError(
                f"join({table.step}): the table belongs to pipeline {table.flow.name!r}, this is {self.flow.name!r}"
            )
        left, right = self._node, self.flow.steps[table.step]
        if how not in ("inner", "left"):
            raise PlanError(f"join({table.step}, how={how!r}): how is 'inner' or 'left'")
        if left.row.key != right.row.key:
            raise PlanError(
                f"join({table.step}): its key is {right.row.key!r}, the key of {self.step} is {left.row.key!r}"
            )
        clash = {f.qualified for f in left.scope} & {f.qualified for f in right.scope}
        if clash:
            raise PlanError(f"join({table.step}): both sides have {', '.join(sorted(clash))}")
        same = self.flow.origins(self.step) >= self.flow.origins(table.step)
        patience = 0 if right.kind == "table" else None if same else duration_ns(wait)
        spec = JoinSpec(how, patience, fill_of(right, table.schema) if how == "left" else ())
        return Stream(
            self.flow,
            self.flow.chain("join", left, left.row, left.scope + right.scope, str(spec), spec, table.step),
            self.schema,
        )

    def latest(self) -> Table[S]:
        """This stream as a table: the newest row of each key, for joins."""
        return Table(self.flow, self.step, self.schema)

    def to(self, *sinks: Sink, name: str | None = None) -> Stream[S]:
        """Write the rows to sinks, through the result topic of this step (`name`: of the topic, if not the schema's)."""
        step = self.step
        if self._node.kind in ("where", "select", "join"):
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
        name = f"{self.step}-late"
        if name not in self.flow.steps or self.flow.steps[name].kind != "late":
            up = self.flow.steps[self._node.ups[0]]
            self.flow.add(Step(name, "late", (self.step,), up.row, up.scope, ""))
        return Stream(self.flow, name, self.late_schema)


@dataclass(eq=False)
class Pipeline:
    """A named graph of steps, from sources to sinks."""

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    sinks: list[tuple[str, Sink]] = field(default_factory=list)
    schemas: dict[str, type[Schema]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if valid_name("pipeline", self.name) == "control":
            raise PlanError("a pipeline cannot be called 'control': the topics of device commands have that name")

    def read(self, source: Source[S]) -> Stream[S]:
        """A stream of a source's readings."""
        return Stream(self, self._source("source", source), source.schema)

    def table(self, source: Source[S]) -> Table[S]:
        """A source whose newest row of each key matters, such as a maintenance plan; joins do not wait for it."""
        return Table(self, self._source("table", source), source.schema)

    def _source(self, kind: str, source: Source[Any]) -> str:
        row = source.schema.measured()
        self.know(source.schema)
        if source.stream == "dead":
            raise PlanError(
                "a stream cannot be called 'dead': that is the topic of dead letters; give it another stream="
            )
        return self.add(Step(valid_name("stream", source.stream), kind, (), row, row.fields, source))

    def add(self, step: Step) -> str:
        """Add a step; its name must be new."""
        if step.name == "state":
            raise PlanError(
                f"{self.name}: a step cannot be called 'state': that is the topic of snapshots; rename the schema"
            )
        if step.name in self.steps:
            kind = self.steps[step.name].kind
            cure = "give .to(…) another name=" if step.kind == "result" else "give the schema another name"
            raise PlanError(
                f"{self.name}: there is already a step {step.name!r} ({kind}), and names key state and topics: {cure}"
            )
        self.steps[step.name] = step
        return step.name

    def chain(self, kind: str, up: Step, row: Row, scope: tuple[Field, ...], text: str, spec: Any, *ups: str) -> str:
        """Add a step without state of its own name: it is called after what it does and to whom."""
        name = f"{up.name}|{kind}"
        while name in self.steps:
            name += "'"
        return self.add(Step(name, kind, (up.name, *ups), row, scope, Named(text, spec)))

    def origins(self, step: str) -> frozenset[str]:
        """The sources that a step's watermark follows: a join waits for its table, but not for ever."""
        node = self.steps[step]
        return frozenset({step}) if node.kind in SOURCES else self.origins(node.ups[0])

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
