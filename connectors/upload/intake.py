"""Kafka's side: every partition of every topic with a table, read from where the store, the journal or the group left off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from connectors.backoff import Backoff
from connectors.parquet.segment import Origin
from connectors.upload.frames import read
from connectors.upload.options import Table
from connectors.upload.resume import Known, adopted, start_of
from connectors.upload.segments import Segments
from connectors.upload.spool import Journal
from connectors.upload.store import Store
from pipelines import metrics, topics
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.errors import StateError, Unavailable
from pipelines.runtime import kafka
from pipelines.runtime.serve import Health

POLL_MS, POLL_RECORDS_MAX = 100, 500
WATCH_S = 2.0  # between looks at whether Kafka is there, and how far it is
COMMIT_S_MAX = 10.0
T = TypeVar("T")
Trouble = Callable[[Origin, Exception], None]
log = logging.getLogger("upload")


class Intake:
    """Takes records into `segments`; a log whose start cannot be settled is reported and left alone."""

    def __init__(
        self, site: str, brokers: str, group: str, tables: Mapping[str, Table], partitions: int, segments: Segments, store: Store,
        health: Health, clock: Clock,
    ) -> None:  # fmt: skip
        self._site, self._brokers, self._group, self._tables = site, brokers, group, tables
        self._partitions, self._segments, self._store = partitions, segments, store
        self._health, self._clock = health, clock
        self._consumer: kafka.Client = None
        self._producer: kafka.Client = None
        self._origins: dict[kafka.Place, Origin] = {}
        self._committed: dict[Origin, int] = {}
        self._placed = asyncio.Event()  # the partitions are assigned

    async def run(self, log_id: str, journal: Journal, trouble: Trouble, stop: asyncio.Event) -> None:
        """Read until `stop` is set; the consumer stays for `commit` until `close`."""
        self._consumer = await self._insist(self._subscribe, stop)
        places = [kafka.Place(topic, p) for topic in self._tables for p in range(self._partitions)]
        self._consumer.assign(places)
        self._consumer.pause(*places)
        self._origins = {place: Origin(place.topic, place.partition, log_id) for place in places}
        self._placed.set()
        tasks = [asyncio.create_task(self._begin(p, o, journal, trouble, stop)) for p, o in self._origins.items()]
        tasks.append(asyncio.create_task(self._watch(stop)))
        try:
            while not stop.is_set():
                self._segments.close_due(self._clock.monotonic_s())
                if self._segments.blocked:
                    await asyncio.sleep(POLL_MS / 1000)
                    continue
                got = await self._insist(self._poll, stop)
                for place, records in got.items():
                    await self._take(place, records, stop)
                for task in [t for t in tasks if t.done()]:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def commit(self, origin: Origin, end: int) -> None:
        """Commit the group's offset of a log, forwards only; those of other clusters and pipelines have none."""
        async with asyncio.timeout(COMMIT_S_MAX):
            await self._placed.wait()
            place = kafka.Place(origin.topic, origin.partition)
            if self._origins.get(place) != origin:
                return
            if origin not in self._committed:
                raise Unavailable(f"Kafka has not said yet how far {place.topic}[{place.partition}] is committed")
            if end > self._committed[origin]:
                await self._consumer.commit({place: end})
                self._committed[origin] = end

    def halt(self, origin: Origin) -> None:
        """Take no more of a log."""
        place = kafka.Place(origin.topic, origin.partition)
        if self._origins.get(place) == origin:
            self._consumer.pause(place)

    async def close(self) -> None:
        """Leave Kafka."""
        for client in (self._consumer, self._producer):
            if client is not None:
                await kafka.stopped(client)

    async def _poll(self) -> dict[kafka.Place, list[kafka.Record]]:
        got: dict[kafka.Place, list[kafka.Record]] = await self._consumer.getmany(
            timeout_ms=POLL_MS, max_records=POLL_RECORDS_MAX
        )
        return got

    async def _subscribe(self) -> kafka.Client:
        return await kafka.consumer(self._brokers, group=self._group)

    async def _begin(
        self, place: kafka.Place, origin: Origin, journal: Journal, trouble: Trouble, stop: asyncio.Event
    ) -> None:
        """Settle where a log goes on, and let it go."""

        async def settle() -> tuple[int, int | None]:
            known = await self._known(place)
            self._committed.setdefault(origin, -1 if known.committed is None else known.committed)
            start = start_of(origin, journal, known)
            if start.lost:
                self._lost(origin, start.offset - start.lost, start.offset)
            if not start.ask_store:
                return start.offset, start.until
            table = self._tables[place.topic].sink.table
            return await adopted(self._store, table, self._site, origin, start.offset), None

        try:
            offset, until = await self._insist(settle, stop)
        except StateError as e:
            trouble(origin, e)
            return
        except Unavailable:  # stopped before
            return
        self._segments.begin(origin, offset, until)
        self._consumer.seek(place, offset)
        self._consumer.resume(place)

    async def _known(self, place: kafka.Place) -> Known:
        committed = await self._consumer.committed(place)
        starts = await self._consumer.beginning_offsets([place])
        ends = await self._consumer.end_offsets([place])
        return Known(committed, starts[place], ends[place])

    async def _take(self, place: kafka.Place, records: Sequence[kafka.Record], stop: asyncio.Event) -> None:
        origin = self._origins[place]
        if origin not in self._segments.open:
            return
        if records[0].offset > (expected := self._segments.open[origin].end):  # a transaction's mark, or the retention
            first = (await self._insist(lambda: self._consumer.beginning_offsets([place]), stop))[place]
            if first > expected:
                self._lost(origin, expected, first)
                self._segments.skip(origin, first)
        taken, dead = read(records, self._tables[place.topic].row)
        if dead:
            await self._insist(lambda: self._bury(dead), stop)
        data = sum(t.batch is not None for t in taken) + len(dead)
        metrics.consumed.labels(self._site, "upload", "data").inc(data)
        metrics.consumed.labels(self._site, "upload", "heartbeat").inc(len(records) - data)
        if origin in self._segments.open:
            self._segments.add(origin, taken, self._clock.monotonic_s())

    async def _bury(self, dead: Sequence[DeadLetter]) -> None:
        if self._producer is None:
            self._producer = await kafka.producer(self._brokers)
        for letter in dead:
            await self._producer.send_and_wait(
                topics.dead(self._site), letter.payload, headers=letter.headers("upload")
            )
            metrics.dead_letters.labels(self._site, "upload", letter.reason).inc()
            log.warning("%s went to %s: %s", letter.origin, topics.dead(self._site), letter.message)

    def _lost(self, origin: Origin, start: int, end: int) -> None:
        metrics.errors.labels(self._site, "upload", "retention").inc()
        log.error(
            "%s[%d]: Kafka's retention deleted offsets [%d, %d) before they were uploaded: give the topic more retention.bytes, "
            "or the spool more spool_bytes_max", origin.topic, origin.partition, start, end,
        )  # fmt: skip

    async def _watch(self, stop: asyncio.Event) -> None:
        """Show the lag, and whether Kafka is there."""
        while not stop.is_set():
            try:
                ends = await self._consumer.end_offsets(list(self._origins))
            except (kafka.KafkaError, OSError) as e:
                log.warning("Kafka at %s does not answer: %s", self._brokers, e or type(e).__name__)
                self._health.set(kafka=False)
                ends = {}
            else:
                self._health.set(kafka=True)
            for place, end in ends.items():
                if segment := self._segments.open.get(self._origins[place]):
                    metrics.lag.labels(self._site, place.topic, str(place.partition)).set(max(end - segment.end, 0))
            await asyncio.sleep(WATCH_S)

    async def _insist(self, work: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Try until it works; `Unavailable` once `stop` is set."""
        backoff = Backoff()
        while True:
            try:
                return await work()
            except (Unavailable, kafka.KafkaError, OSError) as e:
                kafka.raise_refusal(e)
                log.warning("trying again: %s", e or type(e).__name__)
                await backoff.wait(stop)
                if stop.is_set():
                    raise Unavailable(f"stopped while waiting: {e}") from e
