"""Collects one source: read, select, cut into a frame for each partition, hand to Kafka, and only then acknowledge to devices.

A reading that a condition holds back is acknowledged when it is passed on or given up for a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.backoff import Backoff
from connectors.base import EndOfInput, Read, Readable, Reader
from connectors.intake import Intake
from connectors.outlet import Outlet, Record
from connectors.owed import Owed
from connectors.progress import Progress
from connectors.wish import Wish
from pipelines import metrics, topics
from pipelines.batch import TIME_MIN, Batch
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.errors import NotConnected, SitestreamError, Unavailable
from pipelines.runtime.kafka import partition_of
from pipelines.schema import Row
from pipelines.units import duration_s
from pipelines.wire import FrameInfo, encode

KEYS_CACHED_MAX = 100_000
ROWS_MAX = 4_096
FRAME_BYTES_MAX = 2**20  # a longer one is cut: what one read gives has no limit in bytes, and Kafka's records do
STABLE_S = 10.0  # a link that breaks before is no success: two who throw each other out do so ever more slowly
log = logging.getLogger("collect")


class Partitioner:
    """Device -> partition, by Kafka's own hash of the key's UTF-8 bytes, so that any Kafka client finds the same."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.known: dict[str, int] = {}
        self._recent: tuple[pa.StringArray, npt.NDArray[np.int32]] | None = None  # names and the partition of each

    def split(self, batch: Batch) -> Iterator[tuple[int, Batch]]:
        """The rows of each partition that has any, in their order."""
        if self._recent is None or self._recent[0] is not batch.names:
            if len(self.known) > KEYS_CACHED_MAX:
                self.known.clear()
            of_name = np.array([self._of(name) for name in batch.names.to_pylist()], dtype=np.int32)
            self._recent = batch.names, of_name
        of_row = self._recent[1][batch.codes]
        for partition in np.unique(of_row).tolist():
            yield partition, batch.take(of_row == partition)

    def _of(self, name: str) -> int:
        if name not in self.known:
            self.known[name] = partition_of(name, self.partitions)
        return self.known[name]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read at once and how often a silent partition is told the time."""

    rows_max: int = ROWS_MAX
    linger_s: float = 0.05
    heartbeat_s: float = 1.0


class Framer:
    """Turns what was read into Kafka records: frames, heartbeats and dead letters. Pure."""

    def __init__(self, site: str, stream: str, collector: str, row: Row, partitions: int, heartbeat_s: float) -> None:
        self._site, self._stream, self._row, self._heartbeat_s = site, stream, row, heartbeat_s
        self.source = f"{site}/{stream}/{collector}"
        self.topic = topics.stream(site, stream)
        self.partitioner = Partitioner(partitions)
        self._told_s = [float("-inf")] * partitions
        self._told = [TIME_MIN] * partitions  # watermarks

    def frames(self, batch: Batch, watermark: int, now_s: float) -> list[Record]:
        """Frames for each partition that has rows, and a heartbeat for each that was told nothing for a while."""
        records = [r for p, rows in self.partitioner.split(batch) for r in self._records(p, rows, watermark, now_s)]
        due = [p for p, told_s in enumerate(self._told_s) if now_s - told_s >= self._heartbeat_s]
        if due and watermark > TIME_MIN:
            none = self._whole(batch.take(slice(0)))
            records += [self._record(p, none, watermark, now_s) for p in due]
        return records

    def last(self, empty: Batch, watermark: int) -> list[Record]:
        """A heartbeat for every partition."""
        none = self._whole(empty)
        return [self._record(p, none, watermark, float("inf")) for p in range(self.partitioner.partitions)]

    def dead(self, letter: DeadLetter) -> Record:
        """A dead letter."""
        return Record(topics.dead(self._site), 0, letter.payload, letter.headers("collect"))

    def wish(self, nodes: Sequence[str]) -> Record:
        """Who has to be born again."""
        wish = Wish(self._stream, tuple(nodes)).encode()
        return Record(topics.rebirths(self._site), 0, wish, key=self.source.encode())

    def _records(self, partition: int, batch: Batch, watermark: int, now_s: float) -> list[Record]:
        """Only the last has the new watermark: rows that follow may be older than it."""
        before, (*first, last) = self._told[partition], self._cut(batch)
        records = [self._record(partition, frame, before, now_s) for frame in first]
        return [*records, self._record(partition, last, watermark, now_s)]

    def _cut(self, batch: Batch) -> list[tuple[int, bytes]]:
        """Rows in frames that are not too long, each as (number, bytes)."""
        whole = self._whole(batch)
        if len(whole[1]) <= FRAME_BYTES_MAX or len(batch) == 1:
            return [whole]
        half = len(batch) // 2
        return [*self._cut(batch.take(slice(half))), *self._cut(batch.take(slice(half, None)))]

    def _whole(self, batch: Batch) -> tuple[int, bytes]:
        return len(batch), encode(batch, self._row)

    def _record(self, partition: int, frame: tuple[int, bytes], watermark: int, now_s: float) -> Record:
        self._told_s[partition], self._told[partition] = now_s, watermark
        rows, value = frame
        return Record(
            self.topic, partition, value, FrameInfo(self.source, watermark, rows, self._row.fingerprint).headers()
        )


class Collector:
    """One source from its devices to Kafka, until it is stopped or the source ends."""

    def __init__(
        self,
        source: Readable[Any],
        reader: Reader,
        outlet: Outlet,
        framer: Framer,
        site: str,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._reader, self._outlet, self._framer, self._clock, self._limits = reader, outlet, framer, clock, limits
        self._progress = Progress(source.speed, duration_s(source.silence))
        self._promised = TIME_MIN  # our newest watermark
        self._intake = Intake(source, site)
        self._reads = 0
        self._owed = Owed()
        self.stream = source.stream
        self.connected = self.ended = False
        self._up_since_s = 0.0
        self._site = site
        self._metrics = {"site": site, "stream": source.stream}

    @property
    def kafka_up(self) -> bool:
        """Whether Kafka takes what is sent, as far as is known."""
        return not self._outlet.failing

    async def run(self, stop: asyncio.Event) -> None:
        """Collect; every failure but the end of the input is logged, counted and survived."""
        backoff = Backoff()
        await self._resume()
        while not stop.is_set() and not self.ended:
            try:
                await self._reader.connect()
                self._link(up=True)
                await self._pump(stop)
            except EndOfInput:
                self.ended = await self._finish()
            except Unavailable as e:
                self._failed("not_connected" if isinstance(e, NotConnected) else "unavailable", e)
            except SitestreamError as e:
                self._failed("config", e)
            except Exception as e:  # one source's bug does not stop the others
                log.exception("%s", self.stream)
                self._failed("bug", e)
            finally:
                if self.connected and self._clock.monotonic_s() - self._up_since_s > STABLE_S:
                    backoff.reset()
                self._link(up=False)
                await self._settle()
                await self._reader.close()
            if not self.ended:
                await backoff.wait(stop)
        await self._outlet.close()

    async def _resume(self) -> None:
        """Go on from our last watermark, so that windows close even if the whole fleet is silent after a restart."""
        framer = self._framer
        newest = await self._outlet.resume(framer.topic, framer.partitioner.partitions, framer.source)
        if newest > TIME_MIN:
            self._progress.saw(newest, self._clock.monotonic_s())

    async def _pump(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            got = await self._reader.read(rows_max=self._limits.rows_max, linger_s=self._limits.linger_s)
            now_s = self._clock.monotonic_s()
            if len(got.batch):
                self._progress.saw(int(got.batch.time.max()), now_s)
            else:
                self._progress.silent(now_s)
            self._reads += 1
            batch = self._intake.take(
                got.batch,
                self._reads,
                watermark=self._progress.watermark,
                now_s=now_s,
                now_ns=self._clock.now_ns(),
            )
            beside = [self._framer.dead(letter) for letter in got.rejects]
            beside += [self._framer.wish(got.births_wanted)] if got.births_wanted else []
            await self._send(self._framer.frames(batch, self._watermark(), now_s) + beside)
            self._count(got)
            rows = len(got.batch) + len(got.rejects)
            await self._owed.add(self._reads, rows, got.ack, oldest_held=self._intake.oldest_read, now_s=now_s)

    def _watermark(self) -> int:
        """How far the source has come, but for what is held back."""
        self._promised = max(self._promised, min(self._progress.watermark, self._intake.oldest_held))
        return self._promised

    async def _send(self, records: list[Record]) -> None:
        try:
            if records:
                await self._outlet.send(records)
        except BaseException:  # the devices' side will deliver again what Kafka has not: it must not seem reported
            self._intake.forget()
            self._owed.forget()
            raise

    async def _settle(self) -> bool:
        """Pass on and acknowledge what is held back, because the link or the process ends; whether Kafka has it."""
        try:
            for batch in self._intake.release():
                await self._send(self._framer.frames(batch, self._watermark(), self._clock.monotonic_s()))
            await self._owed.settle(self._intake.oldest_read)
        except Exception as e:  # it is not acknowledged, so it will come again
            self._failed("unavailable" if isinstance(e, Unavailable) else "bug", e)
            return False
        return True

    async def _finish(self) -> bool:
        if not await self._settle():
            return False
        self._progress.ended()
        try:
            await self._send(self._framer.last(self._intake.empty, self._progress.watermark))
        except Unavailable as e:
            self._failed("unavailable", e)
            return False
        log.info("%s: all has been read", self.stream)
        return True

    def _link(self, *, up: bool) -> None:
        if up and not self.connected:
            log.info("%s: connected", self.stream)
            self._up_since_s = self._clock.monotonic_s()
            self._progress.link_up(self._up_since_s)
            self._intake.link_up(self._up_since_s)
        self.connected = up
        metrics.source_connected.labels(**self._metrics).set(up)

    def _failed(self, reason: str, error: Exception) -> None:
        log.warning("%s: %s", self.stream, error)
        metrics.source_errors.labels(**self._metrics, reason=reason).inc()

    def _count(self, got: Read) -> None:
        if len(got.batch):
            metrics.source_records.labels(**self._metrics).inc(len(got.batch))
            metrics.source_last_record.labels(**self._metrics).set(self._clock.now_ns() / 1e9)
            metrics.source_devices.labels(**self._metrics).set(len(self._framer.partitioner.known))
        for letter in got.rejects:
            metrics.source_errors.labels(**self._metrics, reason=letter.reason).inc()
            metrics.dead_letters.labels(site=self._site, service="collect", reason=letter.reason).inc()
