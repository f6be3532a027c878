"""Recovery of a task: the newest committed snapshot, then a silent replay of the inputs up to the committed offsets."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pipelines import metrics
from pipelines.runtime import checkpoint as cp
from pipelines.runtime import frames, kafka
from pipelines.runtime.job import Job
from pipelines.runtime.log import LogReader
from pipelines.task import Task
from pipelines.versions import compare

TAIL_RECORDS = 16  # first step back from the end of the state topic; each further one is 16 times as long
log = logging.getLogger(__name__)


@dataclass
class Restored:
    """A task, ready for the records from `offsets` on."""

    task: Task
    offsets: dict[str, int]
    checkpoint: cp.Checkpoint | None  # None: nothing of it can be built upon, the next transaction needs a snapshot
    snapshot_bytes: int = 0
    replay_cost: int = 0
    replaced: list[str] = field(default_factory=list)  # see `checkpoint.replaced_by`


async def restore(job: Job, partition: int) -> Restored:
    """Rebuild the task of a partition number.

    The caller has opened the transactional producer: from then on no other writer can commit, and the transactions of those
    before are complete. (A commit is acknowledged before readers see it; what is read earlier may miss the last one.)
    `StateError` if the state cannot be used, `Unavailable` if the broker does not give it, or a registry a schema for the replay.
    """
    consumer = await kafka.consumer(job.brokers)
    try:
        return await _restore(job, partition, consumer)
    finally:
        await kafka.stopped(consumer)


async def _restore(job: Job, partition: int, consumer: kafka.Client) -> Restored:
    inputs, place = job.inputs(partition), job.state(partition)
    where = f"{place.topic}[{place.partition}]"
    consumer.assign([*inputs, place])  # so that it learns of them all at once
    begins = {p.topic: o for p, o in (await consumer.beginning_offsets(inputs)).items()}
    ends = {p.topic: o for p, o in (await consumer.end_offsets(inputs)).items()}
    newest = await _newest_checkpoint(consumer, place)
    replaced = cp.replaced_by(newest, job.plan.fingerprint, discard=job.discard_state)
    if newest is None:
        return Restored(job.task(), begins, None, replaced=replaced)
    cp.check_inputs(newest, ends, where)
    offsets = begins | {t: max(o, begins[t]) for t, o in newest.offsets.items() if t in begins}
    _tell_lost(job, partition, newest, begins)
    plan = job.plan
    if not cp.check_plan(newest, plan.fingerprint, plan.versions, discard=job.discard_state, where=where):
        log.warning("%s: the state of version %s is discarded; windows begin empty", where, newest.plan)
        return Restored(job.task(), offsets, None, replaced=replaced)
    data = await _snapshot(consumer, place, newest.snapshot, where)
    restored = Restored(job.task(), offsets, newest, len(data), replaced=replaced)
    restored.task.restore(data, partly=True)
    await _replay(job, partition, consumer, restored, newest)
    if newest.plan != plan.fingerprint:
        for verdict in compare(newest.versions, plan.versions):
            log.info("%s: state of version %s: %s", where, newest.plan, verdict)
        restored.checkpoint = None  # the next transaction carries a snapshot of this version
    return restored


def _tell_lost(job: Job, partition: int, newest: cp.Checkpoint, begins: cp.Offsets) -> None:
    """Retention may have removed what is still needed: that must be loud, but must not stop the site for ever."""
    for topic, needed in newest.snapshot.offsets.items():
        if needed < (begin := begins.get(topic, needed)):
            metrics.errors.labels(job.site, frames.SERVICE, "retention").inc()
            log.error(
                "%s[%d]: retention removed offsets %d to %d, which open windows still need: results lack them. "
                "Raise `retention.bytes` of the topic",
                topic, partition, needed, begin - 1,
            )  # fmt: skip


async def _newest_checkpoint(consumer: kafka.Client, place: kafka.Place) -> cp.Checkpoint | None:
    """Read backwards in growing steps: the newest checkpoint is near the end of its topic, however long that is."""
    begin = (await consumer.beginning_offsets([place]))[place]
    end = (await consumer.end_offsets([place]))[place]
    back = TAIL_RECORDS
    while end > begin:
        start = max(begin, end - back)
        records = (await LogReader(consumer, {place: start}).upto({place: end}))[place]
        if found := [r for r in records if r.key == cp.CHECKPOINT_KEY]:
            return cp.decode(found[-1].value, f"{place.topic}[{place.partition}]@{found[-1].offset}")
        end, back = start, back * 16
    return None


async def _snapshot(consumer: kafka.Client, place: kafka.Place, snapshot: cp.Snapshot, where: str) -> bytes:
    chunks: dict[bytes, bytes] = {}
    reader = LogReader(consumer, {place: snapshot.first})
    end = (await consumer.end_offsets([place]))[place]
    for target in (
        min(end, snapshot.first + snapshot.chunks),
        end,
    ):  # chunks follow each other, unless a write was repeated
        records = (await reader.upto({place: target}))[place]
        chunks |= {r.key: r.value for r in records if r.key != cp.CHECKPOINT_KEY}
        if len(chunks) >= snapshot.chunks:
            break
    return cp.join(snapshot, chunks, where)


async def _replay(job: Job, partition: int, consumer: kafka.Client, restored: Restored, newest: cp.Checkpoint) -> None:
    """Give the task what it got since the snapshot, call by call, and drop what it emits: that was sent and committed."""
    places = {topic: kafka.Place(topic, partition) for topic in newest.snapshot.offsets}
    reader = LogReader(consumer, {places[t]: o for t, o in newest.snapshot.offsets.items()})
    for boundary in cp.boundaries(newest):
        records = await reader.upto({places[t]: o for t, o in boundary.items()})
        inputs = {
            stream: await job.read_all(topic, records[places[topic]])
            for topic, stream in job.streams.items()
            if topic in places
        }
        restored.task.process(inputs)
        size = sum(len(r.value or b"") for several in records.values() for r in several)
        restored.replay_cost += cp.replay_cost(sum(map(len, inputs.values())), size)
