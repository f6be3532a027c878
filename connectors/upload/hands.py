"""Does the effects of `steps` and counts them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, BinaryIO

from connectors.parquet.segment import File, Manifest, Origin, file_path
from connectors.parquet.writer import Rows, columns_of
from connectors.upload.options import Table
from connectors.upload.segments import Segment
from connectors.upload.spool import Spool
from connectors.upload.steps import Begin, Commit, Effect, Forget, Mark, Put, PutManifest, Seal, Write
from connectors.upload.store import Store, put_once
from pipelines import metrics
from pipelines.clock import Clock
from pipelines.errors import StateError, Unavailable

CommitOffset = Callable[[Origin, int], Awaitable[None]]


class Hands:
    """One site's spool and store, and Kafka's group offsets."""

    def __init__(
        self,
        site: str,
        pipeline: str,
        tables: Mapping[str, Table],
        spool: Spool,
        store: Store,
        commit: CommitOffset,
        clock: Clock,
    ) -> None:
        self._site, self._pipeline, self._tables = site, pipeline, tables
        self._spool, self._store, self._commit, self._clock = spool, store, commit, clock

    async def do(self, effect: Effect) -> Any:
        """Do an effect, once. `OSError`: the spool's disk; `Unavailable`: the store or Kafka; `StateError`: a conflict."""
        match effect:
            case Begin(segment):
                await asyncio.to_thread(self._spool.begin, segment.span)
            case Write(segment):
                return await asyncio.to_thread(self._write, segment)
            case Seal(manifest):
                await asyncio.to_thread(self._spool.seal, manifest)
            case Put(manifest, file):
                await self._put(file.path, await asyncio.to_thread(self._spool.read, file), manifest, file.rows)
            case PutManifest(manifest):
                await self._put(manifest.path, manifest.encode(), manifest, 0)
            case Mark(origin, end):
                await asyncio.to_thread(self._spool.mark, origin, end)
            case Commit(origin, end):
                await self._commit(origin, end)
            case Forget(manifest):
                await asyncio.to_thread(self._spool.forget, manifest)
        return None

    def _write(self, segment: Segment) -> Manifest:
        table, span = self._tables[segment.origin.topic], segment.span
        name, origin = table.sink.table, span.origin
        facts = {
            "pipeline": self._pipeline, "site": self._site, "topic": origin.topic, "partition": str(origin.partition),
            "start": str(span.start), "end": str(span.end),
        }  # fmt: skip
        files = []
        for row, batches in segment.batches.items():
            rows, layout = Rows(row, batches), row.fingerprint[:8]
            for part in rows.parts():

                def fill(file: BinaryIO, rows: Rows = rows, part: Any = part) -> None:
                    rows.write(part, file, table.sink.profile, facts)

                path = file_path(name, self._site, part.date, span, layout if len(segment.batches) > 1 else "")
                size, digest = self._spool.write(path, part.date, fill)
                times = part.time_min_us, part.time_max_us
                files.append(File(path, part.date, len(part.rows), size, digest, *times, layout))
        layouts = {row.fingerprint[:8]: columns_of(row) for row in segment.batches}
        where = (self._site, origin.topic, origin.partition, origin.log, span.start, span.end)
        return Manifest(name, self._pipeline, *where, tuple(files), layouts)

    async def _put(self, path: str, data: bytes, manifest: Manifest, rows: int) -> None:
        begun, result = self._clock.monotonic_s(), "failed"
        try:
            new = await put_once(self._store, path, data)
            result = "created" if new else "same"
        except StateError:
            result = "conflict"
            raise
        except Unavailable:
            metrics.uplink_up.labels(self._site).set(0)
            raise
        finally:
            metrics.upload_requests.labels(self._site, result).inc()
            metrics.upload_duration.labels(self._site).observe(self._clock.monotonic_s() - begun)
        metrics.uplink_up.labels(self._site).set(1)
        metrics.upload_bytes.labels(self._site, manifest.table).inc(len(data))
        metrics.upload_rows.labels(self._site, manifest.table).inc(rows)
