"""A backfill of what `upload` stored gives what `process` gave live, on a real broker."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import numpy as np

from connectors.backfill.job import Limits
from connectors.parquet import manifest
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.batch import TIME_MAX, Batch
from pipelines.load import load
from pipelines.runtime import kafka as client
from pipelines.runtime.kafka import partition_of
from pipelines.wire import FrameInfo, encode
from tests.backfill import kit
from tests.backfill.kit import ONE
from tests.bed import until
from tests.bed.services import Services

PARTITIONS = 2
TABLES = ("tens", "minute", "hop", "run", "hundred", "trail", "day", "own", "over", "smooth", "moved")


async def send(brokers: str, site: str, batch: Batch, file: str) -> None:
    """Frames of 500 readings, split by partition, and the end."""
    row = load(file).plan().sources["readings"].schema.measured()
    producer = await client.producer(brokers)
    partition = np.array([partition_of(k, PARTITIONS) for k in batch.names.to_pylist()])[batch.codes]
    parts = [batch.take(slice(i, i + 500)) for i in range(0, len(batch), 500)]
    for i, part in enumerate([*parts, batch.take(slice(0, 0))]):
        watermark = int(part.time[-1]) if len(part) else TIME_MAX
        for p in range(PARTITIONS):
            own = part.take(partition[i * 500 : (i + 1) * 500] == p)
            headers = FrameInfo("test", watermark, len(own), row.fingerprint).headers()
            await producer.send_and_wait(
                topics.stream(site, "readings"), encode(own, row), partition=p, headers=headers
            )
    await client.stopped(producer)


async def test_history_gives_what_the_stream_gave(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    text = re.sub(r"(parquet\.dataset\(.*?)\)", r'\1, every="1s")', ONE)
    file = kit.program(tmp_path / "p", text)
    store, batch = tmp_path / "store", kit.readings(20_000, 12)
    await client.ensure(kafka.bootstrap, load(file).plan().topics(unique, PARTITIONS))
    settings = {
        "site": unique, "brokers": kafka.bootstrap, "pipeline": file, "partitions": PARTITIONS, "store": f"file://{store}",
    }  # fmt: skip
    services = Services(tmp_path, settings)
    try:
        for name in ("process", "upload"):
            await asyncio.to_thread(services.start, name)
        await send(kafka.bootstrap, unique, batch, file)

        def rows(place: Path, table: str) -> int:
            return sum(f.rows for f in manifest.files(f"file://{place}", f"t/{table}"))

        def complete(table: str, want: int) -> bool:
            return rows(store, table) >= want > 0

        await until(lambda: store.exists() and rows(store, "raw") == len(batch), 30, "all readings in the store")
        kit.backfill(file, {"readings": store / "t/raw"}, tmp_path / "out", limits=Limits())
        for table in TABLES:
            want = rows(tmp_path / "out", table)
            await until(partial(complete, table, want), 30, f"all of {table} in the store")
    finally:
        for child in services.children.values():
            await asyncio.to_thread(child.stop, 25)
    for table in TABLES:
        assert kit.stored(tmp_path / "out", f"t/{table}") == kit.stored(store, f"t/{table}"), table
