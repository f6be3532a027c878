"""Segments that are not on disk yet, and when each is to be closed. Pure: time is given, nothing is read or written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from connectors.parquet import Dataset
from connectors.parquet.segment import Origin, Span
from connectors.upload.frames import Taken
from connectors.upload.options import Table
from pipelines.batch import Batch
from pipelines.schema import Row

FRAME_COST_BYTES = 4096  # memory that a decoded frame takes besides its rows
IDLE_OFFSETS_MAX = 100_000  # heartbeats after which a manifest without files says that there were no rows
RATIO_FIRST = 0.5  # size of a file against that of its frames, until the table's first segment tells


@dataclass(slots=True, eq=False)
class Segment:
    """The rows of offsets [start, end) of one log. `until`: the end that the journal gave it before a crash."""

    origin: Origin
    start: int
    end: int
    until: int | None = None
    batches: dict[Row, list[Batch]] = field(default_factory=dict)
    rows: int = 0
    frame_bytes: int = 0
    memory_bytes: int = 0
    since_s: float = 0.0  # when its first row came
    reason: str = ""  # why it was closed

    @property
    def span(self) -> Span:
        """Its offsets."""
        return Span(self.origin, self.start, self.end)

    def add(self, taken: Taken, now_s: float) -> None:
        """Take in the next record."""
        self.end = taken.offset + 1
        if taken.batch is None:
            return
        if not self.rows:
            self.since_s = now_s
        self.batches.setdefault(taken.row, []).append(taken.batch)
        self.rows += len(taken.batch)
        self.frame_bytes += taken.bytes
        self.memory_bytes += taken.bytes + FRAME_COST_BYTES

    def due(self, sink: Dataset, ratio: float, now_s: float) -> str:
        """Why it must be closed now; empty if it need not be."""
        if self.until is not None:
            return "redo" if self.end >= self.until else ""
        if not self.rows:
            return "idle" if self.end - self.start >= IDLE_OFFSETS_MAX else ""
        if self.rows >= sink.rows_max:
            return "rows"
        if self.frame_bytes * ratio >= sink.roll_bytes:
            return "bytes"
        return "timer" if now_s - self.since_s >= sink.every_s else ""


class Segments:
    """The open segment of every log, and the closed ones that wait for the disk, in order."""

    def __init__(self, tables: Mapping[str, Table], memory_bytes_max: int) -> None:
        """`memory_bytes_max` is looked at between polls: what one poll gives (4 MiB a partition) may come on top."""
        self._tables = tables
        self._ratios: dict[str, float] = {}
        self.memory_bytes_max = memory_bytes_max
        self.open: dict[Origin, Segment] = {}
        self.closed: deque[Segment] = deque()

    @property
    def memory_bytes(self) -> int:
        """Held by all segments."""
        return sum(s.memory_bytes for s in (*self.open.values(), *self.closed))

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.memory_bytes >= self.memory_bytes_max

    @property
    def blocked(self) -> bool:
        """Whether no more records may be taken in until the disk has taken a closed segment."""
        return self.full and bool(self.closed)

    def begin(self, origin: Origin, start: int, until: int | None = None) -> None:
        """Open the first segment of a log."""
        self.open[origin] = Segment(origin, start, start, until)

    def add(self, origin: Origin, taken: Iterable[Taken], now_s: float) -> None:
        """Take in records in order of offset; those before the open segment's end were there already.

        A segment is closed as soon as a record makes it due, so that its size does not depend on how much came at once.
        """
        sink = self._tables[origin.topic].sink
        for t in taken:
            segment = self.open[origin]
            if t.offset < segment.end:
                continue
            if segment.until is not None and t.offset >= segment.until:  # the last of its offsets hold no records
                segment.end = segment.until
                segment = self._close(segment, "redo")
            segment.add(t, now_s)
            if reason := segment.due(sink, self._ratio(origin), now_s):
                self._close(segment, reason)

    def close_due(self, now_s: float) -> None:
        """Close what has waited long enough; and the largest if the memory is full and nothing else frees it."""
        for segment in list(self.open.values()):
            if reason := segment.due(self._tables[segment.origin.topic].sink, self._ratio(segment.origin), now_s):
                self._close(segment, reason)
        if self.full and not self.closed:
            closable = [s for s in self.open.values() if s.rows and s.until is None]
            if largest := max(closable, key=lambda s: s.memory_bytes, default=None):
                self._close(largest, "memory")

    def close_all(self) -> None:
        """Close everything that has rows, for the service ends. What is to be redone as it was is left to the next start."""
        for segment in list(self.open.values()):
            if segment.rows and segment.until is None:
                self._close(segment, "shutdown")

    def skip(self, origin: Origin, offset: int) -> None:
        """Go on at `offset`: what was before it is gone from Kafka."""
        segment = self.open[origin]
        if segment.rows and segment.until is None:
            self._close(segment, "gap")
        self.begin(origin, offset)

    def drop(self, origin: Origin) -> None:
        """Forget a log altogether."""
        self.open.pop(origin, None)
        self.closed = deque(s for s in self.closed if s.origin != origin)

    def sealed(self, segment: Segment, file_bytes: int) -> None:
        """The disk has a closed segment, in files of so many bytes."""
        if segment in self.closed:
            self.closed.remove(segment)
        if segment.frame_bytes:
            self._ratios[segment.origin.topic] = file_bytes / segment.frame_bytes

    def _ratio(self, origin: Origin) -> float:
        return self._ratios.get(origin.topic, RATIO_FIRST)

    def _close(self, segment: Segment, reason: str) -> Segment:
        """Close a segment and give the one that follows."""
        segment.reason = reason
        self.closed.append(segment)
        self.begin(segment.origin, segment.end)
        return self.open[segment.origin]
