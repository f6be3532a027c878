"""The one contract of every source: `read` gives a batch and its `ack`; errors say what to do next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from connectors.conditions import Condition
from pipelines.batch import Batch
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.ports import Source
from pipelines.schema import Schema, quality_of

QUALITY = "~quality"  # where a reader puts quality (int8) if the schema has no Quality column: bad readings stay here
TimeUnit = Literal["iso", "s", "ms", "us", "ns"]  # how a device writes time: ISO 8601 text, or a number since 1970
S_co = TypeVar("S_co", bound=Schema, covariant=True)


class EndOfInput(Exception):
    """There is nothing more to read, ever."""


@dataclass(frozen=True, slots=True)
class Read:
    """What one `read` gave.

    The batch has the columns of `Schema.sent()`. A reader whose protocol knows quality adds it (see `quality_column`), and one
    that knows when each reading came adds the schema's Arrival column; the collector fills what is not there.
    """

    batch: Batch
    rejects: tuple[DeadLetter, ...]
    ack: Callable[[], Awaitable[None]]  # called once Kafka has acknowledged the batch and the rejects
    births_wanted: tuple[str, ...] = ()  # who has to introduce himself again; written for control, which may ask him


def quality_column(schema: type[Schema]) -> str:
    """Where a reader puts the quality of its readings (int8, `pipelines.quality`)."""
    return quality_of(schema) or QUALITY


class Reader(Protocol):
    """A connected source. Used by one coroutine at a time."""

    async def connect(self) -> None:
        """Open the link; `NotConnected` if the other side does not answer."""
        ...

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """Up to `rows_max` readings: waits up to `linger_s` for the first, and as long again for more.

        An empty `Read` means silence. `NotConnected` means that the link broke: connect again; what was not acknowledged
        will be delivered again if the protocol can. `EndOfInput` means that all has been read.
        """
        ...

    async def close(self) -> None:
        """Close the link; never raises."""
        ...


class Positions(Protocol):
    """Where a source goes on after a restart, by names of its own; for those whose other side does not know that."""

    async def load(self) -> Mapping[str, bytes]:
        """What was saved last under each name."""
        ...

    async def save(self, positions: Mapping[str, bytes]) -> None:
        """Keep them; to be called by the `ack` of the last reading before them. `Unavailable` if the process ends first."""
        ...


class NoPositions:
    """Keeps none."""

    async def load(self) -> Mapping[str, bytes]:
        """See `Positions.load`."""
        return {}

    async def save(self, positions: Mapping[str, bytes]) -> None:
        """See `Positions.save`."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where a reader works: its site, which of the site's collectors it belongs to, its secrets, its clock, its positions."""

    site: str
    collector: str
    secrets_dir: Path
    clock: Clock
    positions: Positions = field(default_factory=NoPositions)


class Readable(Source[S_co], Protocol[S_co]):
    """A source that `collect` reads. A source without a `reader` is a topic that another program writes.

    `reader` is 'module:Class' of its `Reader`, made with (source, Context): the client library loads in `collect` only.
    """

    @property
    def reader(self) -> str:
        """'module:Class'."""
        ...

    @property
    def speed(self) -> float:
        """Seconds of event time that pass in one second: 1 live, more for recordings, 0 if unrelated."""
        ...

    @property
    def silence(self) -> str:
        """The longest that a healthy fleet says nothing; after it the watermark goes on with the clock."""
        ...

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is reported of the readings; () for all. The collector applies them."""
        ...

    @property
    def stale(self) -> str | None:
        """A device silent for longer than this, while the link is up, is marked as stale; None if silence means nothing."""
        ...
