"""What a backfill is told, and which part of a plan it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from connectors.backfill.reach import reach
from connectors.upload.options import Table, tables_of
from pipelines import dimensions
from pipelines.batch import TIME_NS_MAX, Batch
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.plan import READ, SOURCES, Plan, Step

SITE = "history"  # of readings whose path names none


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is held and done at once. Another limit may cut files elsewhere; it never changes a result."""

    held_bytes_max: int = 2**26  # of readings of one share, waiting to be put in order
    slab_rows: int = 2**20  # readings put in order at once, about
    checkpoint_rows: int = 2**25  # readings between checkpoints
    file_rows_max: int = 2**20  # of results


@dataclass(frozen=True, slots=True)
class Job:
    """A backfill of the readings in `[begin − warm_up, end)`, whose results are those of `[begin, end)`; all in ns.

    `datasets` are a folder, file or pattern for each stream. Everything is text and numbers, so that a worker on another machine
    can be told.
    """

    pipeline: str  # FILE or FILE:VARIABLE
    datasets: tuple[tuple[str, str], ...]
    out: str  # folder
    begin: int = -TIME_NS_MAX
    end: int = TIME_NS_MAX
    warm_up: int | None = None  # None: what the plan's windows need
    limits: Limits = field(default_factory=Limits)

    @property
    def program(self) -> Program:
        """The plan and the facts it needs; `ConfigError` or `PlanError` if it cannot be backfilled."""
        return _program(self.pipeline)

    @property
    def reads_from(self) -> int:
        """Earliest event time of a reading that is read."""
        if self.begin == -TIME_NS_MAX:
            return self.begin
        return self.begin - (reach(self.program.plan) if self.warm_up is None else self.warm_up)

    def check(self) -> None:
        """`ConfigError` if it makes no sense."""
        if self.begin >= self.end:
            raise ConfigError(
                "--from is not before --to: readings are taken from the first up to, not including, the second"
            )
        streams, given = self.program.plan.streams, [stream for stream, _ in self.datasets]
        if unknown := [s for s in given if s not in streams]:
            raise ConfigError(
                f"--source {unknown[0]}=…: the tables of {self.pipeline} are computed from "
                f"{', '.join(streams)}: name one of these"
            )
        if twice := [s for s in given if given.count(s) > 1]:
            raise ConfigError(
                f"--source {twice[0]}=… is there twice: give a folder or a pattern that holds all its files"
            )
        if lacks := [s for s in streams if s not in given]:
            raise ConfigError(f"stream {lacks[0]} has no readings: add  --source {lacks[0]}=DATASET")

    def describe(self) -> dict[str, object]:
        """What decides the results, for the record."""
        facts = {"from": self.begin, "to": self.end, "reads_from": self.reads_from}
        return {"program": self.program.digest, "datasets": dict(self.datasets), **facts}


@dataclass(frozen=True)
class Program:
    """The steps of a pipeline that lead to Parquet tables."""

    plan: Plan
    digest: str  # of every step, sink and dimension
    facts: Mapping[str, Batch]  # content of the dimensions, by step

    def tables(self, site: str) -> dict[str, Table]:
        """The table of each step that has one."""
        found = tables_of(self.plan, site)
        return {step: found[self.plan.topic(site, step)] for step, _ in self.plan.sinks}


@lru_cache(maxsize=4)
def _program(pipeline: str) -> Program:
    plan, folder = narrowed(load(pipeline).plan()), dimensions.folder_of(pipeline)
    return Program(plan, _digest(plan, folder), dimensions.load(plan, folder))


def narrowed(plan: Plan) -> Plan:
    """The steps that lead to Parquet tables, and these sinks only: history commands no device."""
    sinks = tuple((s, sink) for s, sink in plan.sinks if sink.kind == "parquet" and plan.by_name[s].kind not in SOURCES)
    if not sinks:
        raise ConfigError(
            f"pipeline {plan.pipeline} has no result to backfill: none of its computed steps has a .to(parquet.dataset(…)); "
            "what is read from a source is there already"
        )
    wanted = {step for step, _ in sinks}
    for step in reversed(plan.steps):
        wanted |= set(step.ups) if step.name in wanted else set()
    steps = tuple(s for s in plan.steps if s.name in wanted)
    return replace(plan, steps=steps, sinks=sinks)


def _digest(plan: Plan, folder: Path) -> str:
    steps = [(s.name, s.kind, s.ups, _text(s), s.row.fingerprint) for s in plan.steps]
    sinks = [(step, sorted(sink.describe().items())) for step, sink in plan.sinks]
    facts = [(p, hashlib.sha256(data).hexdigest()) for p, data in dimensions.files(plan, folder).items()]
    return hashlib.sha256(repr((steps, sinks, facts)).encode()).hexdigest()[:16]


def _text(step: Step) -> str:
    return step.spec.stream if step.kind in READ else str(step.spec)
