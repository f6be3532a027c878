"""Plan: a pipeline, frozen. Every host (Kafka worker, backfill, tests) runs the very same Plan."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from pipelines import topics as names
from pipelines.batch import WINDOW_START
from pipelines.expr import Expr
from pipelines.ports import Sink, Source
from pipelines.schema import Agg, Field, KeyField, Row
from pipelines.units import show_duration
from pipelines.versions import Version
from pipelines.windows import Over

READ = ("source", "table")  # from outside
SOURCES = (*READ, "repartition")  # what a task reads from topics
WITHOUT_ROWS = ("window", "changes", "dedupe", "union", *SOURCES)  # steps whose state holds no columns but their own
STATELESS = ("where", "select", "apply", "unpivot", "final", "late", "lookup", "dimension", "result", "key_by")


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the text that stands for it in graphs and fingerprints."""

    text: str
    value: Any

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class WindowSpec:
    """A window with its aggregates and what is computed from them."""

    over: Over
    aggs: tuple[tuple[str, Agg[Any]], ...]  # by result name
    marks: tuple[tuple[str, Agg[Any]], ...]  # `agg.revision` and `agg.final`
    computed: tuple[tuple[str, Expr[Any]], ...]
    dtypes: tuple[tuple[str, str], ...]  # of aggregated expressions, by repr
    fields: tuple[Field, ...]
    text: str  # what is aggregated and computed

    def __str__(self) -> str:
        return f"{self.over}: {self.text}"


Fill = tuple[tuple[str, Any], ...]  # what a left join puts where it finds no row, by qualified name


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """How a stream is joined with a table."""

    how: str  # inner | left
    wait: int | None  # ns of event time that a row waits for a table that stands still; None: as long as it takes
    fill: Fill
    tolerance: int | None = None  # ns that a version may be older than the row; None: any

    def __str__(self) -> str:
        wait = "" if self.wait is None else f", wait {show_duration(self.wait)}"
        tolerance = "" if self.tolerance is None else f", not older than {show_duration(self.tolerance)}"
        return f"{self.how} join as of{tolerance}{wait}{_shown(self.fill)}"


@dataclass(frozen=True, slots=True)
class WithinSpec:
    """How two streams are joined: `left.time - before <= right.time <= left.time + after`, all in ns."""

    how: str  # inner | left
    before: int
    after: int
    late: int  # ns that a row may be behind the watermark of its own side
    wait: (
        int | None
    )  # ns of event time that one side waits for the other if that stands still; None: as long as it takes
    fill: Fill

    def __str__(self) -> str:
        span = f"{show_duration(self.before)} before to {show_duration(self.after)} after"
        wait = "" if self.wait is None else f", wait {show_duration(self.wait)}"
        return f"{self.how} join within {span}, late {show_duration(self.late)}{wait}{_shown(self.fill)}"


@dataclass(frozen=True, slots=True)
class DimensionSpec:
    """A file of facts, one row for each key; its content is no part of the plan."""

    path: str  # relative to the folder of the pipeline file
    key: str  # header of the key
    headers: tuple[tuple[str, str], ...]  # (qualified column, header in the file)
    absent: Fill  # what stands for an empty cell

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class LookupSpec:
    """How a stream is joined with a dimension."""

    how: str  # inner | left
    fill: Fill

    def __str__(self) -> str:
        return f"{self.how} join by key{_shown(self.fill)}"


@dataclass(frozen=True, slots=True)
class KeyBySpec:
    """By what rows are keyed anew."""

    column: Expr[str]
    into: str  # the step, and its topic, that holds them then

    def __str__(self) -> str:
        return str(self.column)


@dataclass(frozen=True, slots=True)
class Exchange:
    """The source of rows that were keyed anew: tasks of all partitions write them, each reads those of its partition."""

    stream: str
    schema: Any

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"topic": self.stream}


def _shown(fill: Fill) -> str:
    return "".join(f", else {n}={v}" for n, v in fill)


@dataclass(frozen=True)
class Step:
    """One node of the graph.

    `spec` is the frozen description of what it does, `scope` every column that later steps can read, `row` the columns (some
    of the scope) that are written if the step has a sink.
    """

    name: str
    kind: str  # source | table | dimension | where | select | window | late | join | within | lookup | result …
    ups: tuple[str, ...]
    row: Row
    scope: tuple[Field, ...]
    spec: Any

    @property
    def keys(self) -> tuple[KeyField, ...]:
        """The columns by which the key can be read."""
        return tuple(f for f in self.scope if isinstance(f, KeyField))

    @property
    def dtypes(self) -> dict[str, str]:
        """dtypes of every column that the rows carry inside a task."""
        return {f.qualified: f.dtype for f in self.scope} | ({WINDOW_START: "int64"} if self.row.windowed else {})

    def describe(self) -> str:
        """What the step does, in one line."""
        if self.kind in SOURCES:
            return ", ".join(f"{k}={v}" for k, v in self.spec.describe().items())
        return str(self.spec)


@dataclass(frozen=True)
class Plan:
    """Steps in topological order and the sinks attached to them."""

    pipeline: str
    steps: tuple[Step, ...]
    sinks: tuple[tuple[str, Sink], ...]  # (step name, sink)

    @cached_property
    def by_name(self) -> dict[str, Step]:
        """Steps by name."""
        return {s.name: s for s in self.steps}

    @cached_property
    def sources(self) -> dict[str, Source[Any]]:
        """Sources by stream name, in order."""
        return {s.spec.stream: s.spec for s in self.steps if s.kind in SOURCES}

    @property
    def streams(self) -> list[str]:
        """The streams that come from outside."""
        return [s.spec.stream for s in self.steps if s.kind in READ]

    @cached_property
    def exchanges(self) -> tuple[str, ...]:
        """Steps whose rows go to the partitions of their new keys."""
        return tuple(s.name for s in self.steps if s.kind == "key_by")

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Steps whose rows are written to a topic: those with a sink that are not sources themselves, and exchanges."""
        return (
            *dict.fromkeys(s for s, _ in self.sinks if self.by_name[s].kind not in SOURCES),
            *self.exchanges,
        )

    def topic(self, site: str, step: str) -> str:
        """The topic that carries a step's rows."""
        s = self.by_name[step]
        if s.kind in SOURCES:
            return s.spec.topic if foreign(s.spec) else names.stream(site, s.spec.stream)
        return names.result(site, self.pipeline, s.spec.value.into if s.kind == "key_by" else s.name)

    def sinks_of(self, kind: str) -> Iterator[tuple[Step, Any]]:
        """(step, sink) for every sink of a kind."""
        return ((self.by_name[name], sink) for name, sink in self.sinks if sink.kind == kind)

    def topics(self, site: str, partitions: int) -> tuple[names.Topic, ...]:
        """Every topic that the pipeline needs on a site."""
        found = [_input(s.spec, self.topic(site, s.name), partitions) for s in self.steps if s.kind in SOURCES]
        found += [names.data(self.topic(site, step), partitions) for step in self.outputs]
        found += [names.compacted(names.positions(site), 1)] if self.keeps_positions else []
        found += [names.compacted(names.state(site, self.pipeline), partitions), names.data(names.dead(site), 1)]
        found += [names.compacted(names.rebirths(site), 1)] if self.needs_births else []
        return names.unique(found)

    @property
    def keeps_positions(self) -> bool:
        """Whether a source must remember where to go on, for its other side does not."""
        return any(getattr(source, "keeps_positions", False) for source in self.sources.values())

    @property
    def needs_births(self) -> bool:
        """Whether a source has devices that must be asked to introduce themselves when they were not heard."""
        return any(getattr(source, "needs_births", False) for source in self.sources.values())

    @cached_property
    def versions(self) -> dict[str, Version]:
        """Fingerprint and text of each stateful step. Filters, selections and sinks behind the last of them do not matter."""
        lineage: dict[str, str] = {}
        found: dict[str, Version] = {}
        pruned = self.pruned(self.outputs).by_name
        for s in self.steps:
            kept = [] if s.kind in (*WITHOUT_ROWS, *STATELESS) else [pruned[up].scope for up in s.ups]
            text = repr((s.kind, _meaning(s), [lineage[up] for up in s.ups], kept))
            lineage[s.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
            if s.kind not in (*SOURCES, *STATELESS):
                found[s.name] = lineage[s.name], str(s.spec)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes what is in the state."""
        text = repr((sorted(self.sources), sorted((name, version[0]) for name, version in self.versions.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def pruned(self, observe: Collection[str]) -> Plan:
        """The same plan without the columns that neither a step reads nor a row of the steps `observe` holds."""
        needed = {f.qualified for name in observe for f in self.by_name[name].row.fields}
        for step in self.steps:
            if step.kind not in (*SOURCES, "dimension"):
                needed |= {name for expr in _expressions(step.spec) for name in _names_in(expr)}
        steps = (replace(s, scope=tuple(f for f in s.scope if f.qualified in needed)) for s in self.steps)
        return replace(self, steps=tuple(steps))

    @cached_property
    def needed(self) -> dict[str, frozenset[str]]:
        """Columns of each stream, by qualified name, that must be decoded."""
        steps = self.pruned(self.outputs).steps
        return {s.spec.stream: frozenset(f.qualified for f in s.scope) for s in steps if s.kind in SOURCES}

    def conditions(self, source: str) -> tuple[Expr[bool], ...]:
        """Of which a row of a source step must meet one to be of use; none if all rows are used."""
        steps = [s for s in self.steps if source in s.ups]
        return tuple(s.spec.value for s in steps) if all(s.kind == "where" for s in steps) else ()

    def mermaid(self) -> str:
        """The graph as a Mermaid flow chart."""
        ids = {s.name: f"s{i}" for i, s in enumerate(self.steps)}
        lines = ["flowchart LR"]
        for s in self.steps:
            text = f"<b>{s.name}</b><br/>{s.kind}: {s.describe()}" if s.describe() else f"<b>{s.name}</b><br/>{s.kind}"
            lines.append(f'  {ids[s.name]}["{text.replace(chr(34), chr(39))}"]')
            lines += [f"  {ids[up]} --> {ids[s.name]}" for up in s.ups]
        for i, (step, sink) in enumerate(self.sinks):
            text = "<br/>".join(f"{k}={v}" for k, v in sink.describe().items())
            lines += [f'  k{i}[("<b>{sink.kind}</b><br/>{text}")]', f"  {ids[step]} --> k{i}"]
        return "\n".join(lines)


def foreign(source: object) -> bool:
    """Whether a source is a topic of other programs, in a form that its own decoder reads."""
    return bool(getattr(source, "decoder", ""))


def _input(source: object, topic: str, partitions: int) -> names.Topic:
    if foreign(source):
        return names.foreign(topic, partitions)
    return (names.facts if getattr(source, "form", "") == "compacted" else names.data)(topic, partitions)


def _expressions(spec: object) -> Iterator[Expr[Any]]:
    """Every expression in what a step is told."""
    if isinstance(spec, Expr):
        yield spec
    elif isinstance(spec, tuple | list):
        for part in spec:
            yield from _expressions(part)
    elif is_dataclass(spec):
        for f in fields(spec):
            yield from _expressions(getattr(spec, f.name))


def _names_in(expr: Expr[Any]) -> Iterator[str]:
    """The columns that it may read, by qualified name."""
    if expr.qualified:
        yield expr.qualified
    for part in (*expr.args, *(expr.columns if isinstance(expr, Agg) else ())):
        if isinstance(part, Expr):
            yield from _names_in(part)


def _meaning(step: Step) -> str:
    """What of a step decides results: where a source's readings or a dimension's facts come from does not."""
    if step.kind == "dimension":
        return ""
    if step.kind in SOURCES:
        return f"{step.spec.stream} {step.row.fingerprint}"
    return "" if step.kind in ("late", "result") else str(step.spec)
