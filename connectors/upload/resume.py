"""Where to go on with a log after a start: by the journal, the disk's mark, Kafka's group offset, and the store's manifests."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.parquet.segment import Manifest, Origin, Span, manifest_path
from connectors.upload.spool import Journal
from connectors.upload.store import Store
from pipelines.errors import StateError


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a log from Kafka."""

    committed: int | None  # by the group
    log_start: int
    log_end: int


@dataclass(frozen=True, slots=True)
class Start:
    """The first offset to read; the end that its segment must have again; how many offsets Kafka deleted before it."""

    offset: int
    until: int | None = None
    lost: int = 0
    ask_store: bool = False  # the disk knows nothing of this log: manifests may reach further than the group's offset


def start_of(origin: Origin, journal: Journal, known: Known) -> Start:
    """Decide; `StateError` if the log ends before what was stored of it."""
    sealed = [m.end for m in journal.sealed if m.span.origin == origin]
    ends = [*sealed, *(e for e in (journal.marks.get(origin), known.committed) if e is not None)]
    at, span = max(ends, default=known.log_start), journal.open.get(origin)
    redo = span is not None and (not ends or span.start >= at)
    if span is not None and redo:
        at = span.start
    if known.log_end < at:
        raise StateError(
            f"{origin.topic}[{origin.partition}] ends at offset {known.log_end}, but was stored up to {at}: the topic was "
            f"deleted or cut off. Restore it; or, to store the new topic, give the sink another table and remove "
            f"{origin.name}.mark from the spool"
        )
    if known.log_start > at:
        return Start(known.log_start, lost=known.log_start - at)
    fresh = not sealed and span is None and origin not in journal.marks
    return Start(at, span.end if span is not None and redo else None, ask_store=fresh)


def unusable(journal: Journal, log: str) -> list[Span]:
    """Open segments of another Kafka cluster: what they were made of is gone."""
    return [span for origin, span in journal.open.items() if origin.log != log]


async def adopted(store: Store, table: str, site: str, origin: Origin, start: int) -> int:
    """The end of the chain of manifests that begins at `start`: the store has that much. `Unavailable` if it does not answer."""
    while raw := await store.get(path := manifest_path(table, site, origin, start)):
        end = Manifest.decode(raw, path).end
        if end <= start:
            raise StateError(f"{path} in the store ends at offset {end}, before its start")
        start = end
    return start
