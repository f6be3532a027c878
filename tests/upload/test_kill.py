"""kill -9 of the real service at random moments, with a real broker and a real S3 server."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from pathlib import Path

import pytest

from connectors.parquet import manifest
from containers.embedded import EmbeddedKafka
from pipelines.runtime import kafka as clients
from tests.bed import until
from tests.bed.s3 import S3
from tests.upload.plant import TABLE, Site, killed, post
from tests.upload.world import batch

FRAME = 20


async def produce(site: Site, stop: asyncio.Event) -> int:
    """Frames of consecutive numbers to both partitions until told to stop; how many numbers."""
    producer, n = await clients.producer(site.brokers), 0
    while not stop.is_set():
        await post(producer, site.topic, batch(range(n, n + FRAME), step=60 * 10**9), n // FRAME % site.partitions)
        n += FRAME
        await asyncio.sleep(0.01)
    await clients.stopped(producer)
    return n


@pytest.mark.parametrize("disk_too", [False, True])
async def test_every_row_once_over_many_kills(
    kafka: EmbeddedKafka, s3: S3, tmp_path: Path, unique: str, disk_too: bool
) -> None:
    rng, stop = random.Random(7 + disk_too), asyncio.Event()
    site = await Site(unique, kafka.bootstrap, tmp_path, 'every="30ms"', s3).create()
    producing = asyncio.create_task(produce(site, stop))
    for _ in range(5):
        before = len(site.manifests())
        process = site.process()
        await until(lambda n=before: len(site.manifests()) > n, 20, "progress")  # type: ignore[misc]
        await asyncio.sleep(rng.random() * 0.5)
        killed(process)
        if disk_too:
            shutil.rmtree(site.spool)
    stop.set()
    sent = await producing
    process = site.process()
    assert await site.uploaded(sent) == list(range(sent))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, site.log.read_text()
    assert manifest.verify(site.store, TABLE) == []
    assert [p for p in site.spool.iterdir() if p.suffix not in (".mark", "") or p.name == "probe"] == []
