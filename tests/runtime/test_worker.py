"""The `process` service as an operator sees it: exit codes, one line for what went wrong, and a broker that comes and goes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from containers.embedded import EmbeddedKafka
from pipelines.errors import ConfigError
from pipelines.runtime.kafka import READY_POLL_S
from pipelines.runtime.worker import job_of
from pipelines.settings import Settings
from tests.bed.waiting import wait_until
from tests.runtime.site import Site, closed, story


async def test_sigterm_drains_commits_and_leaves_a_snapshot(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    site = Site(unique, kafka.bootstrap)
    worker = site.worker(tmp_path).start()
    await asyncio.to_thread(wait_until, lambda: "recovered" in worker.text, 20, "the worker to be ready")
    await site.send(story(25))
    await site.wait_for_windows(closed(story(25), 20))
    assert worker.stop() == 0
    restored = await site.recover()
    assert sum(restored.offsets.values()) == 25
    assert restored.replay_cost == 0
    assert "Traceback" not in worker.text


def test_it_starts_before_its_broker_says_so_once_and_waits(unique: str, tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "kafka").start()
    broker.stop()
    worker = Site(unique, broker.bootstrap).worker(tmp_path).start()
    said = f"no Kafka broker answers at {broker.bootstrap}: start it, or correct `brokers` in the site file; waiting"
    wait_until(lambda: said in worker.text, 20, "the worker to miss its broker")
    time.sleep(3 * READY_POLL_S)
    assert len(worker.text.splitlines()) == 1
    with broker:
        wait_until(lambda: "recovered" in worker.text, 30, "the worker to be ready")
        assert worker.stop() == 0


def test_it_ends_at_once_while_it_waits_for_a_broker(unique: str, tmp_path: Path) -> None:
    worker = Site(unique, "127.0.0.1:1").worker(tmp_path).start()
    wait_until(lambda: "; waiting" in worker.text, 20, "the worker to miss its broker")
    assert worker.stop() == 0


async def test_a_state_that_outgrows_its_limit_stops_the_worker(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    site = await Site(unique, kafka.bootstrap).create()
    await site.send(story(2))
    worker = site.worker(tmp_path, state_bytes_max="10").start()
    assert await asyncio.to_thread(worker.wait) == 1
    assert worker.text.splitlines()[-1].startswith("process: pipeline plant: it holds ")
    assert "more than the limit of 10" in worker.text
    assert "Traceback" not in worker.text


def test_a_limit_that_is_no_number_is_refused() -> None:
    settings = Settings(site="s", brokers="b", pipeline="examples/press.py", options={"state_bytes_max": "256MB"})
    with pytest.raises(ConfigError, match=r"state_bytes_max = '256MB': write a number of bytes, such as 268435456"):
        job_of(settings)
