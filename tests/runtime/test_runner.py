"""Workers on a real broker: results, hand-over between them, damaged frames, state of another version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.errors import StateError, Unavailable
from pipelines.runtime import kafka as client
from pipelines.runtime.runner import Runner
from pipelines.wire import FrameInfo
from tests.bed.waiting import until
from tests.runtime.plant import Reading, Setting, compared, plant_changed, plant_grown
from tests.runtime.site import Site, story, truth


@pytest.fixture
async def site(kafka: EmbeddedKafka, unique: str) -> Site:
    return await Site(unique, kafka.bootstrap).create()


async def test_windows_are_exact_and_each_comes_once(site: Site) -> None:
    stories = [story(60, partition=p) for p in range(2)]
    for p in range(2):
        await site.send(stories[p], partition=p)
    await site.close_windows()
    async with site.running():
        await site.wait_for_windows(truth(stories[0] + stories[1]))


async def test_a_second_worker_shares_the_partitions_and_takes_over_those_of_one_that_leaves(site: Site) -> None:
    stories = [story(90, partition=p) for p in range(2)]

    async def send(start: int) -> None:
        for p in range(2):
            await site.send(stories[p][start : start + 30], partition=p)

    async with site.running() as second:
        async with site.running() as first:
            await until(lambda: len(first.offsets) == len(second.offsets) == 1, what="a partition for each worker")
            await send(0)
            await until(lambda: sum([*first.committed.values(), *second.committed.values()]) == 60, what="both halves")
            await send(30)
        await send(60)
        await site.close_windows()
        await site.wait_for_windows(truth(stories[0] + stories[1]))
        assert len(second.offsets) == 2


async def test_partitions_of_several_inputs_stay_together(kafka: EmbeddedKafka, unique: str) -> None:
    site = await Site(unique, kafka.bootstrap, compared, partitions=3).create()
    async with site.running() as first, site.running() as second:
        await until(lambda: first.offsets and second.offsets, what="partitions for both workers")
        await until(lambda: len(first.offsets) + len(second.offsets) == 2 * site.partitions, what="both inputs of each")
        assert {p.partition for p in first.offsets}.isdisjoint(p.partition for p in second.offsets)


async def test_an_input_that_is_silent_does_not_hold_up_the_others(kafka: EmbeddedKafka, unique: str) -> None:
    site = await Site(unique, kafka.bootstrap, compared).create()

    async def rows(number: int) -> bool:
        return sum(len(b) for b in await site.batches("excess")) == number

    def probe(number: int) -> Callable[[], bool | Awaitable[bool]]:
        return lambda: rows(number)

    await site.send([[("d0-0", -1, 5.0), ("d1-0", -1, 6.0)]], schema=Setting, column="base")
    async with site.running():
        await site.send(story(20))
        await until(probe(40), what="readings of the two devices that have a setting")
        await site.send(story(5, start=20))
        await until(probe(50), what="more of them, while no setting comes")


async def test_the_offsets_of_the_group_are_only_for_display(site: Site) -> None:
    frames = story(30)
    await site.send(frames)
    await site.close_windows()
    consumer = await client.consumer(site.brokers, group=site.job.group)
    place = client.Place(topics.stream(site.name, "readings"), 0)
    consumer.assign([place])
    await consumer.commit({place: 31})
    await client.stopped(consumer)
    async with site.running():
        await site.wait_for_windows(truth(frames))


async def test_what_is_not_a_frame_goes_to_the_dead_letters_and_the_stream_goes_on(site: Site) -> None:
    frames, row, topic = story(30), Reading.measured(), topics.stream(site.name, "readings")
    await site.send(frames[:15])
    producer = await client.producer(site.brokers)
    info = FrameInfo("test", 0, 1, row.fingerprint)
    await producer.send_and_wait(topic, b"garbage", partition=0, headers=info.headers())
    await producer.send_and_wait(topic, b'{"x": 1}', partition=0)
    await producer.send_and_wait(topic, None, key=b"tombstone", partition=0, headers=info.headers())
    await client.stopped(producer)
    await site.send(frames[15:])
    await site.close_windows()
    async with site.running():
        await site.wait_for_windows(truth(frames))
    letters = (await site.log(topics.dead(site.name)))[0]
    seen = [(r.value, *(dict(r.headers)[n].decode() for n in ("service", "reason", "origin"))) for r in letters]
    assert seen == [
        (b"garbage", "process", "not_arrow", f"{topic}[0]@15"),
        (b'{"x": 1}', "process", "headers", f"{topic}[0]@16"),
        (b"", "process", "not_arrow", f"{topic}[0]@17"),
    ]
    labels = {"site": site.name, "service": "process"}
    counted = {
        kind: REGISTRY.get_sample_value("sitestream_consumed_records_total", {**labels, "kind": kind})
        for kind in ("data", "heartbeat")
    }
    assert counted == {"data": 33, "heartbeat": site.partitions}


async def test_state_of_another_version_is_refused_until_it_is_given_up(site: Site) -> None:
    frames = story(45)
    await site.send(frames[:25])
    async with site.running() as runner:
        await until(lambda: sum(runner.committed.values()) == 25)
    changed = replace(site.job, plan=plant_changed.plan())
    old = site.job.plan.fingerprint
    with pytest.raises(
        StateError, match=f'version {old} .* deploy the old version again, or set .* `discard_state` = "{old}"'
    ):
        await asyncio.wait_for(Runner(changed).run(asyncio.Event()), 10)
    await site.send(frames[25:])
    await site.close_windows()
    async with site.running(replace(changed, discard_state=old)):
        before, after = (
            truth(frames[:20]),
            truth(frames[25:], 20),
        )  # the old version had closed two windows of ten seconds
        await site.wait_for_windows(before | after)
    async with site.running() as back:  # the version that was given up may take over again: a deploy can be undone
        await until(lambda: len(back.offsets) == site.partitions)


async def test_a_pipeline_that_grew_keeps_its_open_windows_and_so_does_the_way_back(site: Site) -> None:
    frames = story(75)
    grown = replace(site.job, plan=plant_grown.plan())
    await client.ensure(site.brokers, grown.plan.topics(site.name, site.partitions))
    for job, begin, upto in ((site.job, 0, 25), (grown, 25, 47), (site.job, 47, 75)):  # each in the middle of a window
        await site.send(frames[begin:upto])
        async with site.running(job) as runner:
            await until(lambda runner=runner, upto=upto: sum(runner.committed.values()) >= upto)  # type: ignore[misc]
    await site.close_windows()
    async with site.running():
        await site.wait_for_windows(truth(frames))


async def test_metrics_of_a_partition_vanish_with_it(site: Site) -> None:
    labels = {"site": site.name, "pipeline": "plant", "partition": "0"}
    await site.send(story(12))
    async with site.running() as runner:
        await until(lambda: sum(runner.committed.values()) == 12)
        assert REGISTRY.get_sample_value("sitestream_windows_open", labels) == 1
        watermark = REGISTRY.get_sample_value(
            "sitestream_watermark_timestamp_seconds", {**labels, "stream": "readings"}
        )
        assert watermark == pytest.approx(11.2)
    assert REGISTRY.get_sample_value("sitestream_windows_open", labels) is None
    assert REGISTRY.get_sample_value("sitestream_watermark_timestamp_seconds", {**labels, "stream": "readings"}) is None


async def test_a_broker_that_is_not_there_is_said_so(unique: str) -> None:
    site = Site(unique, "127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"no Kafka broker answers at 127\.0\.0\.1:1: .* correct `brokers`"):
        await Runner(site.job).run(asyncio.Event())


async def test_it_ends_although_the_broker_answers_at_that_moment(unique: str) -> None:
    """A refusal often comes in the same read as the answer to another question, whose waiting is then cancelled."""
    runner = Runner(Site(unique, "127.0.0.1:1").job)
    asked, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    class Consumer:
        async def topics(self) -> set[str]:
            asked.set()
            found: set[str] = await answer
            return found

    runner._consumer = Consumer()
    watch = asyncio.create_task(runner._watch())
    await asked.wait()
    answer.set_result(set())
    await asyncio.sleep(0)  # its reader runs and is done; who waits for that is not yet told
    watch.cancel()
    done, _ = await asyncio.wait([watch], timeout=1)
    assert done
    watch.cancel()
