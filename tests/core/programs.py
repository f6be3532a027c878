"""A source and a sink that are descriptions only, and the program that most tests of the core run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pipelines import Col, Key, Pipeline, Schema, Stream, Windowed, agg
from pipelines.schema import Row
from pipelines.windows import Count, Over

S = TypeVar("S", bound=Schema)


@dataclass(frozen=True)
class Feed(Generic[S]):
    """Readings from nowhere in particular."""

    schema: type[S]
    stream: str

    def describe(self) -> dict[str, str]:
        return {"stream": self.stream}


@dataclass(frozen=True)
class Shelf:
    """A sink that takes anything."""

    kind: str = "shelf"

    def check(self, row: Row) -> None:
        pass

    def describe(self) -> dict[str, str]:
        return {"on": "the shelf"}


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")
    k = Col[int]("")


class Stats(Schema):
    n = agg.count()
    total = agg.sum(Reading.x)
    mean = agg.mean(Reading.x)
    low = agg.min(Reading.x)
    high = agg.max(Reading.x)
    std = agg.std(Reading.x)
    first = agg.first(Reading.x)
    last = agg.last(Reading.x)
    median = agg.quantile(Reading.x, 0.5)
    whole = agg.sum(Reading.k)
    biggest = agg.max(Reading.k)
    newest = agg.last(Reading.k)
    span = agg.max(Reading.x) - agg.min(Reading.x)


def windowed(window: Over) -> tuple[Pipeline, Stream[Reading], Windowed[Stats, Reading]]:
    """Readings, all aggregates over one kind of window, its late rows kept."""
    program = Pipeline("test")
    readings = program.read(Feed(Reading, "reading"))
    stats = readings.window(window, Stats)
    stats.to(Shelf())
    if not isinstance(window, Count):
        stats.late.to(Shelf())
    return program, readings, stats
