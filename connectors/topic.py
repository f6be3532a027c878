"""Topics of the site as sources and sinks: frames that another program writes, and results that another program reads.

A description only. `collect` leaves such a source alone: whoever writes it keeps to `pipelines.wire` and partitions by key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pipelines.schema import Row, Schema

S = TypeVar("S", bound=Schema)


@dataclass(frozen=True)
class TopicSource(Generic[S]):
    """Frames in the topic `{site}.{stream}`."""

    schema: type[S]
    stream: str
    form: Literal["append", "compacted"]

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"topic": self.stream, "form": self.form}


@dataclass(frozen=True)
class TopicSink:
    """Rows stay in the result topic of their step, for other programs."""

    kind: str = "topic"

    def check(self, row: Row) -> None:
        """Any row will do."""

    def describe(self) -> dict[str, str]:
        """See `Sink.describe`."""
        return {}


def append(schema: type[S], name: str) -> TopicSource[S]:
    """Readings that another program appends: `press.read(topic.append(Work, "work"))`."""
    return TopicSource(schema, name, "append")


def compacted(schema: type[S], name: str) -> TopicSource[S]:
    """Facts of which the newest of each key counts: `press.table(topic.compacted(Work, "maintenance"))`.

    Kafka keeps the newest record of each record key, so a writer gives each frame the rows of one key, and that as record key.
    """
    return TopicSource(schema, name, "compacted")


def results() -> TopicSink:
    """Write the rows of a step to its result topic and nowhere else: `alarms.to(topic.results(), name="alarms")`."""
    return TopicSink()
