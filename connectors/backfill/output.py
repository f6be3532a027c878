"""Results -> files and manifests, named and laid out as those of `upload`; the offsets of a segment are numbers of results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from connectors.backfill.record import put
from connectors.parquet.segment import DATES_MAX, DAY_NS, File, Manifest, Origin, Span, file_path
from connectors.parquet.writer import Rows, columns_of
from connectors.upload.options import Table
from pipelines.batch import WINDOW_START, Batch
from pipelines.operators.flow import join_rows
from pipelines.task import Emitted


@dataclass(frozen=True, slots=True)
class Label:
    """Whose results they are, in names and manifests."""

    pipeline: str
    site: str
    unit: int  # stands where the number of a partition stands in the segments of `upload`
    log: str  # 8 hex digits of the backfill


class Output:
    """The results of one step of one unit, of windows that lie in the time asked for."""

    def __init__(self, label: Label, table: Table, out: Path, bounds: tuple[int, int, int], written: int) -> None:
        """`bounds`: results in [begin, end), of windows that begin at the third or later; ns."""
        self._label, self._table, self._folder = label, table, out
        self._begin, self._end, self._since = bounds
        self._waiting: list[Batch] = []
        self.rows = 0  # that wait
        self.written = written

    def add(self, emitted: Emitted) -> None:
        """Take results."""
        batch = emitted.batch
        keep = (batch.time >= self._begin) & (batch.time < self._end)
        if self._table.row.windowed:
            keep &= batch.columns[WINDOW_START] >= self._since
        if not keep.all():
            batch = batch.take(keep)
        if len(batch):
            self._waiting.append(batch)
            self.rows += len(batch)

    def flush(self) -> int:
        """Write what waits; how many files. The same results make the same files again."""
        if not self._waiting:
            return 0
        names = self._waiting[-1].names  # of the unit's task, where names are only ever added
        whole, self._waiting, self.rows = join_rows(self._waiting), [], 0
        rows = Batch(names, whole.codes, whole.time, whole.columns)
        return sum(self._write(part) for part in _by_dates(rows))

    def _write(self, batch: Batch) -> int:
        label, sink, row = self._label, self._table.sink, self._table.row
        span = Span(Origin(self._table.topic, label.unit, label.log), self.written, self.written + len(batch))
        rows, files = Rows(row, [batch]), []
        facts = {
            "pipeline": label.pipeline, "site": label.site, "topic": span.origin.topic, "partition": str(label.unit),
            "start": str(span.start), "end": str(span.end),
        }  # fmt: skip
        for part in rows.parts():
            held = BytesIO()
            rows.write(part, held, sink.profile, facts)
            data, path = held.getvalue(), file_path(sink.table, label.site, part.date, span)
            put(self._folder, path, data)
            times = part.time_min_us, part.time_max_us
            digest = hashlib.sha256(data).hexdigest()
            files.append(File(path, part.date, len(part.rows), len(data), digest, *times, row.fingerprint[:8]))
        where = (label.site, *_fields(span))
        manifest = Manifest(sink.table, label.pipeline, *where, tuple(files), {row.fingerprint[:8]: columns_of(row)})
        put(self._folder, manifest.path, manifest.encode())
        self.written = span.end
        return len(files)


def _fields(span: Span) -> tuple[str, int, str, int, int]:
    return span.origin.topic, span.origin.partition, span.origin.log, span.start, span.end


def _by_dates(batch: Batch) -> Iterator[Batch]:
    """Parts of so few dates that each date has a file of its own."""
    day = np.floor_divide(batch.time, DAY_NS)
    days = np.unique(day)
    for i in range(0, len(days), DATES_MAX):
        low, high = days[i], days[min(i + DATES_MAX, len(days)) - 1]
        yield batch if len(days) <= DATES_MAX else batch.take((day >= low) & (day <= high))
