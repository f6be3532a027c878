"""Runner: a member of the pipeline's consumer group. Fetches, hands out, follows rebalances, tells how it is.

aiokafka rebalances in a background task, so partitions come and go while a fetch is being handed out, and it sends no
heartbeats while its listener is busy. Hence the listener only starts and closes `PartitionWorker`s: recovery happens in them,
and each takes only records that begin where its task is. The offsets that count are in the checkpoints; those of the group are
committed now and then for lag displays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable

from pipelines import metrics
from pipelines.clock import Clock, SystemClock
from pipelines.runtime import kafka
from pipelines.runtime.frames import SERVICE
from pipelines.runtime.job import Job
from pipelines.runtime.partition import CLOSE_S_MAX, PartitionWorker
from pipelines.runtime.serve import Health

POLL_MS = 500
INBOX_BYTES_MAX = 64 * 2**20  # fetched and not yet computed, over all partitions; then fetching waits
WATCH_S = 2.0
BROKER_ANSWER_S_MAX = 3.0
GROUP_OFFSETS_S = 10.0
CONDITIONS = ("connected", "assigned", "restored", "schemas")
log = logging.getLogger(__name__)


class Runner(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Runs a job until it is told to stop."""

    def __init__(self, job: Job, health: Health | None = None, clock: Clock | None = None) -> None:
        self._job, self._health, self._clock = job, health or Health(), clock or SystemClock()
        self._consumer: kafka.Client = None
        self._workers: dict[int, tuple[PartitionWorker, asyncio.Task[None]]] = {}
        self._rebalance, self._stopping = asyncio.Lock(), False
        self._room = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish, snapshot, commit and leave the group.

        `Unavailable` if no broker answers at the start; later its absence is waited out. `StateError` and `LimitExceeded` are
        for good: they are raised after the other partitions were closed in order.
        """
        self._health.set(**dict.fromkeys(CONDITIONS, False))
        self._consumer = await kafka.consumer(self._job.brokers, group=self._job.group)
        self._consumer.subscribe(topics=list(self._job.streams), listener=self)
        running = [asyncio.create_task(self._fetch()), asyncio.create_task(self._watch())]
        stopped = asyncio.create_task(_set(stop))
        try:
            await asyncio.wait([*running, stopped, self._failed], return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                if task.done():
                    task.result()
            if self._failed.done():
                self._failed.result()
        finally:
            for task in (*running, stopped):
                task.cancel()
            await asyncio.gather(*running, stopped, return_exceptions=True)
            await self._shut_down()

    @property
    def offsets(self) -> dict[kafka.Place, int]:
        """How far the inputs of the open partitions were computed: the offsets of their next records."""
        return {p: o for worker, _ in self._workers.values() for p, o in worker.offsets.items()}

    @property
    def committed(self) -> dict[kafka.Place, int]:
        """How far they were committed."""
        return {p: o for worker, _ in self._workers.values() for p, o in worker.committed.items()}

    async def _shut_down(self) -> None:
        self._stopping = True
        await self._close(self._workers.keys())
        await kafka.stopped(self._consumer)
        self._health.set(**dict.fromkeys(CONDITIONS, False))

    # group membership

    async def on_partitions_revoked(self, revoked: Iterable[kafka.Place]) -> None:
        """Finish and commit before the group hands the partitions to others."""
        await self._close({place.partition for place in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[kafka.Place]) -> None:
        """Start recovering; fetching waits until then."""
        places = list(assigned)
        count = Counter(place.partition for place in places)
        async with self._rebalance:
            if self._stopping:
                return
            self._consumer.pause(*places)
            for partition in sorted(count):
                if count[partition] < len(self._job.streams):  # workers of two versions are in the group for a while
                    log.warning("%s[%d]: assigned without all its inputs; waiting", self._job.plan.pipeline, partition)
                elif partition not in self._workers:
                    self._start(partition)
        metrics.rebalances.labels(self._job.site, self._job.plan.pipeline).inc()
        self._health.set(assigned=True, restored=self._restored, schemas=self._decodable)
        log.info("%s: assigned partitions %s", self._job.plan.pipeline, sorted(count) or "none")

    def _start(self, partition: int) -> None:
        worker = PartitionWorker(self._job, partition, self._consumer, self._clock, freed=self._room.set)
        task = asyncio.create_task(worker.run())
        task.add_done_callback(self._ended)
        self._workers[partition] = (worker, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    async def _close(self, partitions: Iterable[int]) -> None:
        async with self._rebalance:
            closing = [self._workers.pop(p) for p in list(partitions) if p in self._workers]
            for worker, _ in closing:
                worker.close()
            if not closing:
                return
            tasks = [task for _, task in closing]
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # data

    async def _fetch(self) -> None:
        while True:
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
            except kafka.KafkaError as e:
                kafka.raise_refusal(e)
                log.warning("%s: cannot fetch: %s: %s", self._job.plan.pipeline, type(e).__name__, e)
                metrics.errors.labels(self._job.site, SERVICE, "fetch").inc()
                await self._clock.sleep(1)
                continue
            for place, records in fetched.items():
                if place.partition in self._workers:
                    self._workers[place.partition][0].accept(place, records)
            await asyncio.sleep(0)
            while sum(worker.waiting_bytes for worker, _ in self._workers.values()) > INBOX_BYTES_MAX:
                self._room.clear()
                await self._room.wait()

    # health

    @property
    def _restored(self) -> bool:
        return all(worker.open for worker, _ in self._workers.values())

    @property
    def _decodable(self) -> bool:
        return not any(worker.lacking for worker, _ in self._workers.values())

    async def _watch(self) -> None:
        committed_s, connected = self._clock.monotonic_s(), True
        while True:
            was, connected = connected, await self._broker_answers()
            if was and not connected:
                log.warning("no Kafka broker answers at %s any more: waiting for it", self._job.brokers)
            elif connected and not was:
                log.info("the Kafka broker at %s answers again", self._job.brokers)
            self._health.set(connected=connected, restored=self._restored, schemas=self._decodable)
            for worker, _ in self._workers.values():
                worker.tell_lag()
            if connected and self._clock.monotonic_s() - committed_s > GROUP_OFFSETS_S:
                await self._commit_group_offsets()
                committed_s = self._clock.monotonic_s()
            await self._clock.sleep(WATCH_S)

    async def _broker_answers(self) -> bool:
        try:
            async with asyncio.timeout(BROKER_ANSWER_S_MAX):
                await self._consumer.topics()
        except (kafka.KafkaError, TimeoutError):
            return False
        return True

    async def _commit_group_offsets(self) -> None:
        offsets = self.committed
        with contextlib.suppress(kafka.KafkaError, TimeoutError):  # a display; the next one will do
            if offsets:
                async with asyncio.timeout(BROKER_ANSWER_S_MAX):
                    await self._consumer.commit(offsets)


async def _set(event: asyncio.Event) -> None:
    await event.wait()
