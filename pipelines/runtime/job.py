"""Job: which pipeline a worker runs, where, and the names that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pipelines import topics
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.expr import Expr
from pipelines.plan import SOURCES, Plan, foreign
from pipelines.ports import Lacking, Received, Surroundings
from pipelines.runtime import frames
from pipelines.runtime.decoders import Decoder, decoder_of
from pipelines.runtime.kafka import Place
from pipelines.schema import Row
from pipelines.task import STATE_BYTES_MAX, Task
from pipelines.wire import Frame


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
    around: Surroundings = field(default_factory=Surroundings)  # of decoders

    @cached_property
    def streams(self) -> dict[str, str]:
        """Stream by input topic."""
        sources = [s for s in self.plan.steps if s.kind in SOURCES]
        return {self.plan.topic(self.site, s.name): s.spec.stream for s in sources}

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

    @cached_property
    def conditions(self) -> dict[str, tuple[Expr[bool], ...]]:
        """Of which a row of an input topic must meet one, if there are any, to be decoded whole."""
        steps = [s for s in self.plan.steps if s.kind in SOURCES]
        return {self.plan.topic(self.site, s.name): self.plan.conditions(s.name) for s in steps}

    @cached_property
    def decoders(self) -> dict[str, Decoder]:
        """Of the input topics that are foreign; `ConfigError` if the code of one is not installed, or its files are not well."""
        sources = {topic: self.plan.sources[stream] for topic, stream in self.streams.items()}
        return {topic: decoder_of(s, self.around) for topic, s in sources.items() if foreign(s)}

    def read(self, topic: str, records: Sequence[Received]) -> tuple[list[Frame], list[DeadLetter]]:
        """Frames of consecutive records of one partition of an input, and dead letters for what cannot be used.

        `Lacking` if something must be fetched first.
        """
        if topic in self.decoders:
            return self.decoders[topic].frames(records)
        return frames.read(records, self.rows[topic], self.needed[topic], self.conditions[topic])

    async def read_all(self, topic: str, records: Sequence[Received]) -> list[Frame]:
        """The frames of `read`; what is lacking is fetched first. `Unavailable` if it cannot be had."""
        while True:
            try:
                return self.read(topic, records)[0]
            except Lacking as lacking:
                await lacking.fetch()

    @property
    def ordered(self) -> bool:
        """Whether a replay must repeat the calls of the first time, lest it gives something else."""
        return len(self.streams) > 1 or bool(self.decoders)

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
