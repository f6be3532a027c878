"""A broker that is killed and comes back: nothing is lost, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.runtime import kafka as client
from pipelines.runtime import runner, transaction
from pipelines.runtime.serve import Health
from tests.bed.waiting import until
from tests.runtime.site import Site, story, truth


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One that may be killed."""
    with EmbeddedKafka(tmp_path_factory.mktemp("mortal")) as started:
        yield started


async def test_a_broker_that_dies_and_comes_back_loses_nothing(
    broker: EmbeddedKafka, unique: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transaction, "TRANSACTION_S_MAX", 1.0)  # so that the broker is away for longer than that
    monkeypatch.setattr(runner, "WATCH_S", 0.2)
    site = await Site(unique, broker.bootstrap).create()
    frames, health = story(90), Health()
    async with site.running(health=health) as worker:
        await site.send(frames[:45])
        await until(lambda: sum(worker.committed.values()) == 45)
        await site.send(frames[45:48])  # no window closes: it will be committed a second later
        await until(lambda: sum(worker.offsets.values()) == 48)
        broker.kill9()
        await until(lambda: not health.ok, what="the worker to say that it is not well")
        await until(lambda: "recovering from the log" in caplog.text, what="a transaction to be given up")
        await asyncio.to_thread(broker.start)
        await site.send(frames[48:])
        await site.close_windows()
        await site.wait_for_windows(truth(frames), timeout_s=40)
        await until(lambda: health.ok, what="the worker to be well again")


async def test_clients_whose_broker_is_gone_stop_quickly_and_leave_nothing(broker: EmbeddedKafka, unique: str) -> None:
    await client.ensure(broker.bootstrap, [topics.data(unique, 1)])
    plain = await client.producer(broker.bootstrap)
    transactional = await client.producer(broker.bootstrap, transactional_id=unique)
    consumer = await client.consumer(broker.bootstrap, unique, group=unique)
    before = asyncio.all_tasks()
    await transactional.begin_transaction()
    for producer in (plain, transactional):
        await producer.send_and_wait(unique, b"before", partition=0)
    broker.kill9()
    sent = [await producer.send(unique, b"after", partition=0) for producer in (plain, transactional)]
    start = time.monotonic()
    await client.discarded(transactional)
    assert time.monotonic() - start < 1
    await client.stopped(plain)
    await client.stopped(consumer)
    assert time.monotonic() - start < 3 * client.STOP_S_MAX
    await asyncio.gather(*sent, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() <= before
