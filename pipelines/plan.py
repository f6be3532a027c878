"""Plan: a pipeline, frozen. Every host (Kafka worker, backfill, tests) runs the very same Plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines import topics as names
from pipelines.batch import WINDOW_START
from pipelines.expr import Expr
from pipelines.ports import Sink, Source
from pipelines.schema import Agg, Field, Row
from pipelines.units import show_duration
from pipelines.windows import Window

SOURCES = ("source", "table")


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

    over: Window
    aggs: tuple[tuple[str, Agg[Any]], ...]  # by result name
    computed: tuple[tuple[str, Expr[Any]], ...]
    dtypes: tuple[tuple[str, str], ...]  # of aggregated expressions, by repr
    fields: tuple[Field, ...]
    text: str  # what is aggregated and computed

    def __str__(self) -> str:
        return f"{self.over}: {self.text}"


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """How a stream is joined with a table."""

    how: str  # inner | left
    wait: int | None  # ns of event time that a row waits for a table that stands still; None: as long as it takes
    fill: tuple[tuple[str, float], ...]  # what a left join puts where the table has no row yet, by qualified name

    def __str__(self) -> str:
        wait = "" if self.wait is None else f", wait {show_duration(self.wait)}"
        return f"{self.how} join as of{wait}" + "".join(f", else {n}={v}" for n, v in self.fill)


@dataclass(frozen=True)
class Step:
    """One node of the graph.

    `spec` is the frozen description of what it does, `scope` every column that later steps can read, `row` the columns (some
    of the scope) that are written if the step has a sink.
    """

    name: str
    kind: str  # source | table | where | select | window | late | join | result
    ups: tuple[str, ...]
    row: Row
    scope: tuple[Field, ...]
    spec: Any

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

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Steps whose rows are written to a result topic: those with a sink that are not sources themselves."""
        return tuple(dict.fromkeys(s for s, _ in self.sinks if self.by_name[s].kind not in SOURCES))

    def topic(self, site: str, step: str) -> str:
        """The topic that carries a step's rows."""
        s = self.by_name[step]
        return names.stream(site, s.spec.stream) if s.kind in SOURCES else names.result(site, self.pipeline, s.name)

    def sinks_of(self, kind: str) -> Iterator[tuple[Step, Any]]:
        """(step, sink) for every sink of a kind."""
        return ((self.by_name[name], sink) for name, sink in self.sinks if sink.kind == kind)

    def topics(self, site: str, partitions: int) -> tuple[names.Topic, ...]:
        """Every topic that the pipeline needs on a site."""
        found = [names.data(names.stream(site, stream), partitions) for stream in self.sources]
        found += [names.data(self.topic(site, step), partitions) for step in self.outputs]
        found += [names.compacted(names.state(site, self.pipeline), partitions), names.data(names.dead(site), 1)]
        return names.unique(found)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes what is in the state: the version of windows and joins.

        Filters, selections and sinks behind the last of them may come and go.
        """
        needed: set[str] = set()
        for s in reversed(self.steps):
            if s.kind in ("window", "join", *SOURCES) or s.name in needed:
                needed |= {s.name, *s.ups}
        text = repr([(s.name, s.kind, s.ups, s.row.fingerprint, _meaning(s)) for s in self.steps if s.name in needed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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


def _meaning(step: Step) -> str:
    """What of a step decides results: where a source's readings come from does not."""
    return step.spec.stream if step.kind in SOURCES else str(step.spec)
