"""Recovery of one partition number: the same state, whatever was committed how; and nobody else may write."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from msgspec.structs import replace

from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.clock import SystemClock
from pipelines.errors import StateError
from pipelines.runtime import checkpoint as cp
from pipelines.runtime import kafka as client
from pipelines.runtime import transaction
from pipelines.runtime.meter import Meter
from pipelines.runtime.restore import restore
from pipelines.runtime.session import Session
from tests.bed.waiting import until
from tests.runtime.plant import Setting, compared
from tests.runtime.site import Site, closed, story


@pytest.fixture
async def site(kafka: EmbeddedKafka, unique: str) -> Site:
    return await Site(unique, kafka.bootstrap, partitions=1).create()


@asynccontextmanager
async def session(site: Site) -> AsyncIterator[Session]:
    """An open partition 0, driven by hand; dropped without a word at the end, as by a crash."""
    producer = await client.producer(site.brokers, transactional_id=site.job.transactional_id(0))
    meter = Meter(site.job, 0)
    opened = Session(
        site.job, 0, producer, await restore(site.job, 0), meter=meter, clock=SystemClock(), wake=lambda: None
    )
    try:
        yield opened
    finally:
        await opened.abandon()
        meter.forget()


async def feed(site: Site, to: Session, stream: str, start: int, stop: int) -> None:
    """Let the task compute the records [start, stop) of a stream in one call."""
    topic = topics.stream(site.name, stream)
    records = (await site.log(topic))[0][start:stop]
    assert to.inbox.accept(topic, records) is None
    assert to.compute(ended=list(to.offsets))


async def test_the_state_after_a_crash_is_the_committed_one(site: Site) -> None:
    frames = story(40)
    await site.send(frames)
    async with session(site) as first:
        await feed(site, first, "readings", 0, 13)
        await first.commit()  # with the first snapshot
        await feed(site, first, "readings", 13, 24)
        await first.commit()
        await first.settle()
        committed = first.task.snapshot()
        await feed(site, first, "readings", 24, 37)  # lost
        assert first.task.snapshot() != committed
    restored = await site.recover()
    assert restored.task.snapshot() == committed
    assert restored.offsets == {topics.stream(site.name, "readings"): 24}
    async with session(site) as second:
        await feed(site, second, "readings", 24, 40)
        await second.finish()
    await site.wait_for_windows(closed(frames, 30))
    assert (await site.recover()).replay_cost == 0  # `finish` left a snapshot


async def test_several_inputs_are_replayed_call_by_call(kafka: EmbeddedKafka, unique: str) -> None:
    """A join with a table does not wait for it: what a reading finds depends on the order of the calls."""
    site = await Site(unique, kafka.bootstrap, compared, partitions=1).create()
    await site.send([[("d0-0", t, 100.0 * t)] for t in range(0, 40, 10)], schema=Setting, column="base")
    await site.send(story(40, devices=1))
    async with session(site) as first:
        await feed(site, first, "settings", 0, 1)
        await first.commit()
        calls: list[tuple[str, int, int]] = [
            ("readings", 0, 8),
            ("readings", 8, 15),
            ("settings", 1, 2),
            ("readings", 15, 31),
            ("settings", 2, 4),
            ("readings", 31, 33),
        ]
        for stream, start, stop in calls:
            await feed(site, first, stream, start, stop)
        await first.commit()
        await first.settle()
        committed = first.task.snapshot()
        emitted = await until(lambda: site.batches("excess"))  # a commit is acknowledged before readers see it
    restored = await site.recover()
    assert restored.checkpoint is not None
    assert len(restored.checkpoint.calls) == len(calls)
    assert restored.task.snapshot() == committed
    seen = {int(t // 10**9): v for b in emitted for t, v in zip(b.time, b.columns["Excess.over"], strict=True)}
    assert [seen[t] for t in (5, 12, 20, 32)] == [7 * 5, 7 * 12, 7 * 20 - 1000, 7 * 32 - 3000]


async def test_snapshots_in_many_chunks_replace_each_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cp, "CHUNK_BYTES_MAX", 100)
    monkeypatch.setattr(cp, "REPLAY_BYTES_MAX", 1)
    monkeypatch.setattr(cp, "REPLAY_SNAPSHOTS_MAX", 0)
    await site.send(story(30, devices=50))
    async with session(site) as first:
        for start in range(0, 30, 5):
            await feed(site, first, "readings", start, start + 5)
            await first.commit()
        await first.settle()
        committed = first.task.snapshot()
    restored = await site.recover()
    assert restored.checkpoint is not None
    assert restored.checkpoint.snapshot.chunks > 10
    assert restored.checkpoint.snapshot.first > 10
    assert restored.task.snapshot() == committed


async def test_many_calls_of_several_inputs_force_a_snapshot(
    kafka: EmbeddedKafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cp, "CALLS_MAX", 3)
    site = await Site(unique, kafka.bootstrap, compared, partitions=1).create()
    await site.send(story(8, devices=1))
    async with session(site) as first:
        for i in range(8):
            await feed(site, first, "readings", i, i + 1)
            await first.commit()
        await first.settle()
    records = (await site.log(site.job.state(0).topic))[0]
    checkpoints = [cp.decode(r.value or b"", "") for r in records if r.key == cp.CHECKPOINT_KEY]
    assert [len(c.calls) for c in checkpoints] == [0, 1, 2, 0, 1, 2, 0, 1]


async def test_a_zombie_is_fenced(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that slept while another took over its partition wakes up and goes on: nothing of it may be seen."""
    frames = story(40)
    await site.send(frames)
    async with AsyncExitStack() as stack:
        zombie = await stack.enter_async_context(session(site))
        await feed(site, zombie, "readings", 0, 15)
        await zombie.commit()
        await zombie.settle()
        await feed(site, zombie, "readings", 15, 25)
        owner = await stack.enter_async_context(session(site))
        await zombie.commit()
        with pytest.raises(client.ProducerFenced):
            await zombie.settle()
        await feed(site, owner, "readings", 15, 40)
        await owner.finish()
    gc.collect()
    assert not [r for r in caplog.records if r.name == "asyncio"]  # failed futures do not fill the log with traces
    await site.wait_for_windows(closed(frames, 30))


async def test_an_input_that_was_created_anew_is_refused(site: Site) -> None:
    await site.send(story(15))
    async with session(site) as first:
        await feed(site, first, "readings", 0, 15)
        await first.finish()
    checkpoint = (await site.recover()).checkpoint
    assert checkpoint is not None
    ahead = replace(checkpoint, offsets=dict.fromkeys(checkpoint.offsets, 99))
    producer = await client.producer(site.brokers, transactional_id=site.job.transactional_id(0))
    await transaction.commit(producer, site.job.state(0), [], [], lambda _: ahead)
    await client.discarded(producer)
    with pytest.raises(
        StateError, match=r"processed up to offset 99, but it ends at 15: the topic was deleted or truncated"
    ):
        await site.recover()
