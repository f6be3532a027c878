"""The protocol: which effects, in which order, bring a segment to the store exactly once. Values only; `hands` does them.

    sealing   Begin → Write → Seal                          until the disk has it
    sending   Put … → PutManifest → Mark → Commit → Forget  until the store has it

Each effect may be repeated, after an error or after a crash, and does then what is left of it. Nothing leaves the machine before
Seal, which fixes names and contents; everything is put under its own name or not at all; a reader counts the files of manifests
only; and Mark, on disk, and Commit, in Kafka, come after the manifest. So whatever is lost or repeated in between, the next start
either finds the segment in the journal, or begins at an offset that the manifests reach up to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from connectors.parquet.segment import File, Manifest, Origin
from connectors.upload.segments import Segment

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Begin:
    """Note in the journal that these offsets make a segment."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Write:
    """Write its files; gives the manifest."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Seal:
    """Put the manifest into the journal: from now on the files are what they are."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Put:
    """Bring a file to the store, if it is not there."""

    manifest: Manifest
    file: File


@dataclass(frozen=True, slots=True)
class PutManifest:
    """Bring the manifest to the store: from now on the rows count."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Mark:
    """Note on disk how far a log is in the store: Kafka forgets a group's offsets that were not committed for a week."""

    origin: Origin
    end: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Tell Kafka how far a log is in the store."""

    origin: Origin
    end: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the segment from journal and disk."""

    manifest: Manifest


Effect: TypeAlias = Begin | Write | Seal | Put | PutManifest | Mark | Commit | Forget
Sealing: TypeAlias = Generator[Effect, Any, Manifest]
Sending: TypeAlias = Generator[Effect, Any, None]


def sealing(segment: Segment) -> Sealing:
    """Bring a closed segment to disk; returns its manifest."""
    yield Begin(segment)
    manifest: Manifest = yield Write(segment)
    yield Seal(manifest)
    return manifest


def sending(manifest: Manifest) -> Sending:
    """Bring a sealed segment to the store. Segments of one origin go in order of offset."""
    for file in manifest.files:
        yield Put(manifest, file)
    yield PutManifest(manifest)
    yield Mark(manifest.span.origin, manifest.end)
    yield Commit(manifest.span.origin, manifest.end)
    yield Forget(manifest)


async def drive(steps: Generator[Effect, Any, T], do: Callable[[Effect], Awaitable[Any]]) -> T:
    """Do the effects one after the other, each answered with its result; returns what the steps return."""
    result: Any = None
    while True:
        try:
            effect = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
        result = await do(effect)
