"""Job: which pipeline a worker runs, where, and the names that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipelines import topics
from pipelines.batch import Batch
from pipelines.plan import SOURCES, Plan
from pipelines.runtime.kafka import Place
from pipelines.schema import Row
from pipelines.task import STATE_BYTES_MAX, Task


@dataclass(frozen=True)
class Job:
    """A plan on a site."""

    plan: Plan
    site: str
    brokers: str
    partitions: int
    state_bytes_max: int = STATE_BYTES_MAX  # of one partition number
    discard_state: str = ""  # fingerprint of the version of the plan whose state may be dropped
    dimensions: Mapping[str, Batch] = field(default_factory=dict)  # content of each, by step

    @cached_property
    def streams(self) -> dict[str, str]:
        """Stream by input topic."""
        return {topics.stream(self.site, stream): stream for stream in self.plan.sources}

    @cached_property
    def exchanged(self) -> frozenset[str]:
        """Input topics that the tasks of the pipeline write themselves."""
        return frozenset(self.plan.topic(self.site, step) for step in self.plan.exchanges)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """What the frames of each input topic are."""
        by_stream = {s.spec.stream: s.row for s in self.plan.steps if s.kind in SOURCES}
        return {topic: by_stream[stream] for topic, stream in self.streams.items()}

    @cached_property
    def needed(self) -> dict[str, frozenset[str]]:
        """Columns of each input topic that are decoded."""
        return {topic: self.plan.needed[stream] for topic, stream in self.streams.items()}

    @property
    def group(self) -> str:
        """Consumer group of the workers."""
        return f"{self.site}.{self.plan.pipeline}"

    def inputs(self, partition: int) -> list[Place]:
        """What the task of a partition number reads."""
        return [Place(topic, partition) for topic in self.streams]

    def state(self, partition: int) -> Place:
        """Where its checkpoints and snapshots are."""
        return Place(topics.state(self.site, self.plan.pipeline), partition)

    def transactional_id(self, partition: int) -> str:
        """One producer id for each partition number: whoever opens it last has fenced all others."""
        return f"{self.site}.{self.plan.pipeline}.{partition}"

    def task(self) -> Task:
        """A new task."""
        return Task(self.plan, state_bytes_max=self.state_bytes_max, dimensions=self.dimensions)
