"""A topic that other programs write: JSON on a real broker, read by `process` itself."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from connectors import kafka as foreign
from containers.embedded import EmbeddedKafka
from pipelines import Pipeline, tumbling
from pipelines.errors import ConfigError
from pipelines.runtime import kafka
from tests.bed.topics import create_topic
from tests.core.programs import Shelf
from tests.runtime.plant import Reading, Tens, plant_foreign
from tests.runtime.site import Rows, Site, story, truth

BEGIN_S = 1_700_000_000  # readings of 1970 are refused
PARTITIONS = 4
KILLS = 4


def message(device: str, time_s: float, x: object) -> bytes:
    return json.dumps({"device": device, "ms": round(time_s * 1000), "x": x, "other": [1]}).encode()


def messages(frames: Iterable[Rows]) -> list[bytes]:
    return [message(*row) for rows in frames for row in rows]


async def send(brokers: str, topic: str, values: Iterable[bytes], partition: int = 0) -> None:
    producer = await kafka.producer(brokers)
    for value in values:
        await producer.send(topic, value, partition=partition)
    await producer.flush()
    await kafka.stopped(producer)


async def test_kills_leave_the_results_exact(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    topic = await create_topic(kafka.bootstrap, "others.readings", PARTITIONS)
    site = await Site(unique, kafka.bootstrap, plant_foreign, partitions=PARTITIONS).create()
    workers = [site.worker(tmp_path, number, "plant_foreign") for number in range(2)]
    sent: list[Rows] = []
    try:
        for worker in workers:
            worker.start()
        done = asyncio.Event()
        producing = asyncio.create_task(_produce(kafka.bootstrap, topic, sent, done))
        rng = random.Random(7)
        await asyncio.sleep(3)
        for _ in range(KILLS):
            victim = rng.choice(workers)
            victim.kill()
            await asyncio.sleep(rng.uniform(0, 1))
            victim.start()
            await asyncio.sleep(rng.uniform(0.5, 3))
        done.set()
        await producing
        for partition in range(PARTITIONS):
            await send(kafka.bootstrap, topic, [message(f"end-{partition}", BEGIN_S + 10**6, 0.0)], partition)
        assert len(sent) > 1000
        await site.wait_for_windows(truth(sent), timeout_s=25)
    finally:
        for worker in workers:
            worker.kill()


async def _produce(brokers: str, topic: str, sent: list[Rows], done: asyncio.Event) -> None:
    producer = await kafka.producer(brokers)
    second = BEGIN_S
    while not done.is_set():
        for partition in range(PARTITIONS):
            frames = story(5, partition=partition, start=second)
            for value in messages(frames):
                await producer.send(topic, value, partition=partition)
            sent += frames
        await producer.flush()
        second += 5
        await asyncio.sleep(0.1)
    await kafka.stopped(producer)


def program(topic: str, **options: Any) -> Pipeline:
    flow = Pipeline("plant")
    source = foreign.source(Reading, topic=topic, stream="readings", time="ms", time_unit="ms", **options)
    flow.read(source).window(tumbling("10s", late="0s"), Tens).to(Shelf())
    return flow


async def test_what_is_no_reading_goes_to_the_dead_letters_and_the_stream_goes_on(
    kafka: EmbeddedKafka, unique: str
) -> None:
    topic = await create_topic(kafka.bootstrap, f"{unique}.raw", 2)
    site = await Site(unique, kafka.bootstrap, program(topic)).create()
    frames = story(15, start=BEGIN_S)
    bad = [b"{", message("d0-0", BEGIN_S + 14, "high"), b'{"device": "d0-0", "x": 1.5}']
    await send(kafka.bootstrap, topic, [*messages(frames)[:20], *bad[:2], *messages(frames)[20:]])
    await send(kafka.bootstrap, topic, [message("end", BEGIN_S + 100, 0.0)])
    async with site.running():
        await site.wait_for_windows(truth(frames))
    (letters,) = (await site.log(f"{unique}.dead")).values()
    said = [dict(r.headers)["message"].decode() for r in letters]
    assert [r.value for r in letters] == bad[:2]
    assert said[0].startswith(f"{topic}[0]@20: the payload is not JSON")
    assert said[1] == f"{topic}[0]@21: x is 'high': a number is needed"


async def test_a_reading_without_a_time_has_that_of_its_record(kafka: EmbeddedKafka, unique: str) -> None:
    topic = await create_topic(kafka.bootstrap, f"{unique}.raw", 2)
    site = await Site(unique, kafka.bootstrap, program(topic)).create()
    producer = await kafka_producer(kafka)
    for second in (3, 4, 25):
        await producer.send(topic, b'{"device": "d", "x": 2.5}', partition=0, timestamp_ms=(BEGIN_S + second) * 1000)
    await producer.flush()
    await producer.stop()
    async with site.running():
        await site.wait_for_windows({("d", BEGIN_S * 10**9): (2, 5.0, 2.5, 2.5)})


async def kafka_producer(broker: EmbeddedKafka) -> kafka.Client:
    return await kafka.producer(broker.bootstrap)


async def test_a_topic_that_is_not_there_or_has_other_partitions_is_named(kafka: EmbeddedKafka, unique: str) -> None:
    site = Site(unique, kafka.bootstrap, program(f"{unique}.raw"))
    says = rf"topic {unique}\.raw does not exist, and it is not ours to make: create it with 2 partitions, or correct topic="
    with pytest.raises(ConfigError, match=says):
        await site.create()
    await create_topic(kafka.bootstrap, f"{unique}.raw", 3)
    with pytest.raises(ConfigError, match=rf"topic {unique}\.raw has 3 partitions, the site wants 2"):
        await site.create()
