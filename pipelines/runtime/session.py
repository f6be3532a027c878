"""Session: one partition number from its recovery to the first failure or to its revocation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from pipelines import metrics
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.errors import Unavailable
from pipelines.ports import Lacking, Received
from pipelines.runtime import checkpoint as cp
from pipelines.runtime import frames, kafka, transaction
from pipelines.runtime.inbox import Inbox
from pipelines.runtime.job import Job
from pipelines.runtime.meter import Meter
from pipelines.runtime.restore import Restored
from pipelines.task import Emitted

COMMIT_S_MAX = 1.0  # how long progress without results may stay uncommitted: losing it costs only a replay
PENDING_CALLS_MAX = 4  # computed while a transaction is under way
FETCH_S_MIN, FETCH_S_MAX = 0.5, 30.0  # between attempts to fetch what decoding needs
log = logging.getLogger(__name__)


@dataclass
class _Pending:
    """What was computed since the last transaction began."""

    emitted: list[Emitted] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    records: int = 0  # of all inputs
    heartbeats: int = 0  # those without rows
    calls: int = 0
    since_s: float = 0.0
    newest_ms: int = 0  # when the broker took in the newest reading

    @property
    def visible(self) -> bool:
        return bool(self.emitted or self.dead)


@dataclass(frozen=True, slots=True)
class _Held:
    """Records for one call, by topic, and their bytes."""

    batch: dict[str, list[Received]]
    nbytes: int


class Session:
    """A task and its producer. Computes the next batch while the transaction of the last one is under way."""

    def __init__(
        self,
        job: Job,
        partition: int,
        producer: kafka.Client,
        restored: Restored,
        *,
        meter: Meter,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a transaction ends."""
        self._job, self._partition, self._producer = job, partition, producer
        self._meter, self._clock, self._wake = meter, clock, wake
        self.inbox = Inbox(restored.offsets, apart=job.exchanged)
        self.task, self._offsets = restored.task, dict(restored.offsets)
        self.committed: dict[str, int] = {}  # offsets in the newest transaction
        self._snapshot = restored.checkpoint.snapshot if restored.checkpoint else None
        self._calls = [list(c) for c in restored.checkpoint.calls] if restored.checkpoint else []
        self._snapshot_bytes, self._cost = restored.snapshot_bytes, restored.replay_cost
        self._replaced = restored.replaced
        self._pending = _Pending()
        self._transaction: asyncio.Task[None] | None = None
        self._held: _Held | None = None  # taken from the inbox, and not decoded yet
        self._fetching: asyncio.Task[None] | None = None

    @property
    def lacking(self) -> bool:
        """Whether what is next cannot be decoded before something has been fetched."""
        return self._fetching is not None

    @property
    def offsets(self) -> dict[str, int]:
        """Of the next record of each input to compute."""
        return self._offsets

    def compute(self, ended: Collection[str]) -> bool:
        """Give the task what waits in the inbox, without I/O; False if there is nothing, or if it is better to wait.

        `ended`: inputs that have no more for the time being. `LimitExceeded` from the task.
        """
        if self._fetching is not None:
            if not self._fetching.done():
                return False
            self._fetching.result()
            self._fetching = None
        held = self._held or self._take(ended)
        if held is None:
            return False
        batch, start = held.batch, self._clock.monotonic_s()
        try:
            read = {topic: self._job.read(topic, records) for topic, records in batch.items()}
        except Lacking as lacking:
            self._held, self._fetching = held, asyncio.create_task(self._fetch(lacking))
            self._fetching.add_done_callback(lambda _: self._wake())
            return False
        self._held = None
        inputs = {}
        for topic, (found, dead) in read.items():
            inputs[self._job.streams[topic]] = found
            self._pending.dead += dead
            foreign = topic in self._job.decoders
            self._pending.records += len(batch[topic])
            self._pending.heartbeats += 0 if foreign else sum(f.info.rows == 0 for f in found)
            self._cost += cp.replay_cost(len(found), 0)
        self._cost += cp.replay_cost(0, held.nbytes)
        self._pending.emitted += self.task.process(inputs)
        self._advance({topic: records[-1].offset + 1 for topic, records in batch.items()})
        self._pending.newest_ms = max(r[-1].timestamp for r in batch.values())
        self._meter.computed(inputs, self._clock.monotonic_s() - start)
        return True

    def _take(self, ended: Collection[str]) -> _Held | None:
        waiting = self.inbox.bytes
        batch = self.inbox.take(ended)
        return _Held(batch, waiting - self.inbox.bytes) if batch else None

    async def _fetch(self, lacking: Lacking) -> None:
        """Until it is there: what was computed before is committed meanwhile, and nothing is passed over."""
        wait_s, name = FETCH_S_MIN, f"{self._job.plan.pipeline}[{self._partition}]"
        while True:
            try:
                await lacking.fetch()
            except Unavailable as e:
                log.warning("%s: waiting: %s; asking again in %.1f s", name, e, wait_s)
                metrics.errors.labels(self._job.site, frames.SERVICE, "schema").inc()
                await self._clock.sleep(wait_s)
                wait_s = min(2 * wait_s, FETCH_S_MAX)
            else:
                return

    def _advance(self, upto: dict[str, int]) -> None:
        if not self._pending.calls:
            self._pending.since_s = self._clock.monotonic_s()
        self._pending.calls += 1
        after = self._offsets | upto
        if self._job.ordered:
            self._calls.append(cp.call_of(self._offsets, after))
        self._offsets = after

    @property
    def due(self) -> bool:
        """Whether it is time to commit: there are results, or progress without any has waited long enough.

        While a transaction is under way the next calls are computed, but not too many of them.
        """
        p = self._pending
        ready = p.visible or (p.calls and self._clock.monotonic_s() - p.since_s >= COMMIT_S_MAX)
        return bool(ready) and (self.settled or p.calls >= PENDING_CALLS_MAX)

    async def commit(self, *, snapshot: bool = False) -> None:
        """Wait for the transaction before, then start the next; its errors come out of the next call or of `settle`."""
        await self.settle()
        pending, self._pending = self._pending, _Pending()
        chunks: list[bytes] = []
        if snapshot or self._snapshot is None or cp.snapshot_due(self._cost, self._snapshot_bytes, self._calls):
            data = self.task.snapshot()
            chunks, digest = cp.split(data), cp.checksum(data)
            self._calls, self._cost, self._snapshot_bytes = [], 0, len(data)
        offsets, calls = dict(self._offsets), list(self._calls)

        def checkpoint(first: int) -> cp.Checkpoint:
            at = self._snapshot
            if chunks:
                at = cp.Snapshot(first=first, chunks=len(chunks), sha256=digest, offsets=offsets)
            assert at is not None
            plan, replaced = self._job.plan.fingerprint, self._replaced
            return cp.Checkpoint(
                plan=plan,
                versions=self._job.plan.versions,
                offsets=offsets,
                snapshot=at,
                calls=calls,
                replaced=replaced,
            )

        self._transaction = asyncio.create_task(self._transact(pending, chunks, checkpoint))
        self._transaction.add_done_callback(lambda _: self._wake())

    async def _transact(
        self, pending: _Pending, chunks: list[bytes], checkpoint: Callable[[int], cp.Checkpoint]
    ) -> None:
        start = self._clock.monotonic_s()
        plan, site, partition = self._job.plan, self._job.site, self._partition
        outs = [out for e in pending.emitted for out in frames.write(e, plan, site, partition, self._job.partitions)]
        outs += [frames.bury(letter, site) for letter in pending.dead]
        done = await transaction.commit(self._producer, self._job.state(partition), outs, chunks, checkpoint)
        self._snapshot, self.committed = done.snapshot, done.offsets
        self._meter.taken(pending.records, pending.heartbeats)
        self._meter.committed(self.task, pending.emitted, pending.dead, self._clock.monotonic_s() - start)
        if pending.emitted:
            self._meter.emitted_after(self._clock.now_ns() / 1e9 - pending.newest_ms / 1e3)
        for letter in pending.dead:
            log.warning("%s went to %s.dead: %s", letter.origin, site, letter.message)

    async def settle(self) -> None:
        """Wait for the transaction under way and raise what it raised."""
        if self._transaction is not None:
            under_way, self._transaction = self._transaction, None
            await under_way

    @property
    def settled(self) -> bool:
        """Whether no transaction is under way, or it ended and must be asked for its error."""
        return self._transaction is None or self._transaction.done()

    async def finish(self) -> None:
        """Commit what was computed, with a snapshot if there is anything to replay without it."""
        await self.settle()
        if self._pending.calls or self._cost:
            await self.commit(snapshot=True)
            await self.settle()

    async def abandon(self) -> None:
        """Drop everything that is not committed."""
        under_way = [task for task in (self._transaction, self._fetching) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await kafka.discarded(self._producer)
