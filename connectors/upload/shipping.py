"""From closed segments in memory to the disk, and from the disk to the store, for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from connectors.backoff import Backoff
from connectors.parquet.segment import Manifest, Origin
from connectors.upload.hands import Hands
from connectors.upload.segments import Segment, Segments
from connectors.upload.spool import Spool
from connectors.upload.steps import Commit, Effect, Put, PutManifest, drive, sealing, sending
from pipelines import metrics
from pipelines.errors import StateError, Unavailable
from pipelines.runtime.kafka import KafkaError
from pipelines.runtime.serve import Health

IDLE_S = 0.1  # between looks for work
FILE_OVERHEAD_BYTES = 64 * 1024  # what files may take more than their frames
log = logging.getLogger("upload")


class Shipping:
    """Seals and sends, each one segment after another; a log with a conflict stands still, the others go on."""

    def __init__(
        self,
        site: str,
        segments: Segments,
        hands: Hands,
        spool: Spool,
        bytes_max: int,
        health: Health,
        halt: Callable[[Origin], None],
    ) -> None:
        """`bytes_max`: of the spool. `halt` is told of a log that stands still."""
        self._site, self._segments, self._hands, self._spool = site, segments, hands, spool
        self._bytes_max, self._health, self._halt = bytes_max, health, halt
        self.pending: list[Manifest] = []
        self.halted: set[Origin] = set()

    def resume(self, sealed: Iterable[Manifest]) -> None:
        """Send first what the journal has."""
        self.pending.extend(sealed)
        self._show()

    async def seal(self, stop: asyncio.Event, last: asyncio.Event) -> None:
        """Bring closed segments to disk until there are no more after `last` is set."""
        closed = self._segments.closed
        while closed or not last.is_set():
            closed = self._segments.closed
            if not closed or not self._has_room(closed[0]):
                await asyncio.sleep(IDLE_S)
                continue
            try:
                await self._seal(closed[0], stop)
            except (OSError, Unavailable) as e:
                log.error("%d closed segments are left to Kafka and the next start: %s", len(closed), e)
                return

    async def _seal(self, segment: Segment, stop: asyncio.Event) -> None:
        manifest = await drive(sealing(segment), lambda effect: self._persist(effect, stop))
        self._segments.sealed(segment, sum(f.bytes for f in manifest.files))
        if segment.origin in self.halted:
            return
        self.pending.append(manifest)
        metrics.segments_sealed.labels(self._site, manifest.table, segment.reason).inc()
        log.info(
            "sealed %s: %d rows in %d files (%s)", segment.span.name, manifest.rows, len(manifest.files), segment.reason
        )
        self._show()

    async def send(self, stop: asyncio.Event, last: asyncio.Event) -> None:
        """Bring sealed segments to the store until there are no more after `last` is set, or the store fails after `stop`."""
        while True:
            manifest = next((m for m in self.pending if m.span.origin not in self.halted), None)
            if manifest is None:
                if last.is_set():
                    return
                await asyncio.sleep(IDLE_S)
                continue
            try:
                await drive(sending(manifest), lambda effect: self._persist(effect, stop))
            except StateError as e:
                self.halt(manifest.span.origin, e)
            except (OSError, Unavailable) as e:
                log.warning(
                    "%d sealed segments stay in %s until the next start: %s", len(self.pending), self._spool.folder, e
                )
                return
            else:
                self.pending.remove(manifest)
                self._show()

    def halt(self, origin: Origin, e: Exception) -> None:
        """Stop a log: what it has in the spool and in Kafka stays there until somebody has looked at it."""
        log.error("%s[%d] stands still, the others go on: %s", origin.topic, origin.partition, e)
        metrics.errors.labels(self._site, "upload", "conflict").inc()
        self.halted.add(origin)
        self._segments.drop(origin)
        self._halt(origin)

    async def _persist(self, effect: Effect, stop: asyncio.Event) -> Any:
        """Do an effect, again and again; once `stop` is set, raise what is wrong."""
        backoff = Backoff()
        while True:
            try:
                result = await self._hands.do(effect)
            except (OSError, Unavailable, KafkaError) as e:
                self._report(effect, e)
                if stop.is_set():
                    raise Unavailable(str(e) or type(e).__name__) from e
                await backoff.wait(stop)
            else:
                if not isinstance(effect, Put | PutManifest | Commit):
                    self._health.set(spool=True)
                return result

    def _report(self, effect: Effect, e: Exception) -> None:
        reason, text = "spool", str(e) or type(e).__name__
        if isinstance(effect, Commit):
            reason = "kafka"
            self._health.set(kafka=False)
        elif isinstance(effect, Put | PutManifest) and isinstance(e, Unavailable):
            reason = "store"
        elif isinstance(e, OSError):
            self._health.set(spool=False)
            text = self._spool.complaint(e)
        metrics.errors.labels(self._site, "upload", reason).inc()
        log.warning("%s, trying again: %s", type(effect).__name__, text)

    def _has_room(self, segment: Segment) -> bool:
        there = self._spool.size
        return not there or there + segment.frame_bytes + FILE_OVERHEAD_BYTES <= self._bytes_max

    def _show(self) -> None:
        metrics.spool_bytes.labels(self._site).set(self._spool.size)
        metrics.spool_oldest.labels(self._site).set(self._spool.oldest_s)
