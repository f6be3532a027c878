"""What a pipeline asks of the outside world: sources it reads and sinks it writes, as pure descriptions.

Connectors implement these as frozen dataclasses. A description does no I/O and imports no client library; the service that
acts on it does (`connectors.collect`, `connectors.upload`, `connectors.control`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from pipelines.schema import Row, Schema

S_co = TypeVar("S_co", bound=Schema, covariant=True)


class Source(Protocol[S_co]):
    """Where readings of a schema come from. `stream` names the topic within the site."""

    @property
    def schema(self) -> type[S_co]:
        """What a reading is."""
        ...

    @property
    def stream(self) -> str:
        """Last part of the topic's name: `{site}.{stream}`."""
        ...

    def describe(self) -> dict[str, str]:
        """Settings for graphs, plans and fingerprints; never a secret."""
        ...


class Received(Protocol):
    """A record as a Kafka consumer gives it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """ms since the epoch, when the broker took it in."""
        ...

    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a decoder finds what its source names."""

    folder: Path = Path()  # of the pipeline file
    secrets_dir: Path = Path("/run/secrets")


def lies_beside(path: str) -> bool:
    """Whether it is the path of a file in the pipeline file's folder, or below it: such files travel with the pipeline file."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts and "\\" not in path


class Lacking(Exception):
    """Records cannot be decoded before something has been fetched: await `fetch`, then decode them again.

    Raised by decoders, which do no I/O. `fetch` raises `Unavailable` if it cannot be had now; what it got before that stays.
    """

    def __init__(self, fetch: Callable[[], Awaitable[None]]) -> None:
        super().__init__("a schema must be fetched first")
        self.fetch = fetch


class Sink(Protocol):
    """Where the rows of a step go besides its result topic. `kind` is a word such as 'parquet'."""

    @property
    def kind(self) -> str:
        """One word for graphs and plans."""
        ...

    def check(self, row: Row) -> None:
        """`PlanError` if rows of this layout cannot be written there."""
        ...

    def describe(self) -> dict[str, str]:
        """Settings for graphs, plans and fingerprints; never a secret."""
        ...
