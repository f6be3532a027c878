"""PartitionWorker: one partition number for as long as the group assigns it to us; opens it again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from pipelines.clock import Clock
from pipelines.errors import Unavailable
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.meter import Meter
from pipelines.runtime.restore import restore
from pipelines.runtime.session import COMMIT_S_MAX, Session

RETRY_S_MIN, RETRY_S_MAX = 0.5, 5.0
FENCED_S = kafka.SESSION_TIMEOUT_MS / 1000  # by then the group has told us if the partition went elsewhere
CLOSE_S_MAX = 10.0  # to finish, snapshot and commit when the partition is revoked
ORDER_WAIT_S = 2 * kafka.FETCH_WAIT_MS / 1000  # for another input, before looking again
log = logging.getLogger(__name__)


class PartitionWorker:
    """Recovers the task, feeds it, commits. A transient error costs a recovery from the log, never data."""

    def __init__(
        self, job: Job, partition: int, consumer: kafka.Client, clock: Clock, *, freed: Callable[[], None]
    ) -> None:
        """`freed` is called when `waiting_bytes` has fallen."""
        self._job, self.partition, self._consumer, self._clock, self._freed = job, partition, consumer, clock, freed
        self._name = f"{job.plan.pipeline}[{partition}]"
        self._meter = Meter(job, partition)
        self._session: Session | None = None
        self._arrived, self._closing = asyncio.Event(), asyncio.Event()
        self._retry_s = RETRY_S_MIN

    @property
    def open(self) -> bool:
        """Whether the task is recovered."""
        return self._session is not None

    @property
    def lacking(self) -> bool:
        """Whether a schema must come before anything can be computed."""
        return self._session is not None and self._session.lacking

    @property
    def waiting_bytes(self) -> int:
        """Fetched and not yet computed."""
        return self._session.inbox.bytes if self._session else 0

    @property
    def offsets(self) -> dict[kafka.Place, int]:
        """How far the inputs were computed; empty before the recovery."""
        return self._places(self._session.offsets) if self._session else {}

    @property
    def committed(self) -> dict[kafka.Place, int]:
        """How far they were committed by this worker; empty before its first transaction."""
        return self._places(self._session.committed) if self._session else {}

    def _places(self, offsets: Mapping[str, int]) -> dict[kafka.Place, int]:
        return {kafka.Place(topic, self.partition): offset for topic, offset in offsets.items()}

    def tell_lag(self) -> None:
        """Show how many records wait in each input."""
        for place, offset in self.offsets.items():
            if place in self._consumer.assignment() and (end := self._consumer.last_stable_offset(place)) is not None:
                self._meter.lag(place.topic, max(0, end - offset))

    def accept(self, place: kafka.Place, records: Sequence[kafka.Record]) -> None:
        """Take in what was fetched. What the task does not expect is fetched again from where it is."""
        if self._session is None:
            return  # opening it seeks
        seek_to = self._session.inbox.accept(place.topic, records)
        if seek_to is None:
            self._arrived.set()
        elif place in self._consumer.assignment():
            self._consumer.seek(place, seek_to)

    async def run(self) -> None:
        """Work until `close`. Raises only what is for good, such as `StateError`, `LimitExceeded` and a refusal of the broker."""
        while not self._closing.is_set():
            try:
                await self._open()
                await self._work()
            except kafka.ProducerFenced:
                log.warning("%s: another worker has this partition now", self._name)
                await self._pause("fenced", FENCED_S)
            except (kafka.KafkaError, Unavailable, TimeoutError, OSError) as e:
                kafka.raise_refusal(e)
                log.warning(
                    "%s: %s: %s; recovering from the log in %.1f s", self._name, type(e).__name__, e, self._retry_s
                )
                await self._pause("broker", self._retry_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
                self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
            finally:
                await self._release()

    def close(self) -> None:
        """Let `run` finish: it commits what was computed, with a snapshot, and returns."""
        self._closing.set()
        self._arrived.set()

    async def _open(self) -> None:
        start = self._clock.monotonic_s()
        producer = await kafka.producer(self._job.brokers, transactional_id=self._job.transactional_id(self.partition))
        try:
            restored = await restore(self._job, self.partition)  # only now: no transaction of others can end any more
        except BaseException:
            await kafka.discarded(producer)
            raise
        self._session = Session(
            self._job, self.partition, producer, restored, meter=self._meter, clock=self._clock, wake=self._arrived.set
        )
        for place, offset in self.offsets.items():
            if place in self._consumer.assignment():
                self._consumer.seek(place, offset)
                self._consumer.resume(place)
        seconds = self._clock.monotonic_s() - start
        self._meter.recovered(seconds)
        log.info("%s: recovered in %.2f s, goes on at %s", self._name, seconds, restored.offsets)

    async def _work(self) -> None:
        session = self._session
        assert session is not None
        while not self._closing.is_set():
            if session.compute(await self._ended()):
                self._freed()
                await asyncio.sleep(0)
            else:
                await self._wait(ORDER_WAIT_S if session.inbox else COMMIT_S_MAX)
            if session.due:
                await session.commit()
            elif session.settled:
                await session.settle()
            if session.committed:
                self._retry_s = RETRY_S_MIN
        async with asyncio.timeout(CLOSE_S_MAX):
            await session.finish()

    async def _wait(self, seconds: float) -> None:
        self._arrived.clear()
        if not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()

    async def _ended(self) -> list[str]:
        """Inputs whose newest record has been fetched; of interest only where inputs must be kept in step."""
        places = self._job.inputs(self.partition)
        return [p.topic for p in places if await kafka.at_end(self._consumer, p)] if len(places) > 1 else []

    async def _pause(self, reason: str, seconds: float) -> None:
        self._meter.failed(reason)
        await self._release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _release(self) -> None:
        session, self._session = self._session, None
        self._freed()
        if session is not None:
            await session.abandon()
        self._meter.forget()
