"""A site with one table on a real broker: frames in, the service as a process or in this one, and what its store holds."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import obstore
import pyarrow.parquet as pq
from obstore.store import LocalStore
from prometheus_client import REGISTRY

from connectors.parquet import manifest
from connectors.parquet.segment import Manifest
from connectors.upload.service import CONDITIONS, main
from pipelines import topics
from pipelines.batch import TIME_MIN, Batch
from pipelines.runtime import kafka
from pipelines.runtime.serve import Health
from pipelines.settings import Settings, load
from pipelines.wire import FrameInfo, encode
from tests.bed import free_port, until
from tests.bed.s3 import S3
from tests.upload.world import ROW

ROOT = Path(__file__).parents[2]
TABLE = "press/raw"
PIPELINE = """
from connectors import parquet, simulator
from pipelines import Pipeline
from tests.upload.world import Reading

press = Pipeline("press")
press.read(simulator.source(Reading, stream="readings")).to(parquet.dataset("press/raw", {options}))
"""


@dataclass
class Site:
    """One site; its store is a bucket's prefix if `s3` is given, else a folder."""

    name: str
    brokers: str
    folder: Path
    sink: str = 'every="300ms"'
    s3: S3 | None = None
    partitions: int = 2
    options: dict[str, str] = field(default_factory=dict)
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        pipeline, secrets = self.folder / "press.py", self.folder / "secrets"
        pipeline.write_text(PIPELINE.format(options=self.sink))
        secrets.mkdir(exist_ok=True)
        self.data_dir = self.data_dir or self.folder / "data"
        options, store = dict(self.options), f"file://{self.folder}/store"
        if self.s3:
            (secrets / "s3_access_key").write_text(self.s3.access_key + "\n")
            (secrets / "s3_secret_key").write_text(self.s3.secret_key + "\n")
            options |= {"s3_endpoint": self.s3.endpoint, "s3_region": self.s3.region}
            store = f"s3://{self.s3.bucket}/{self.name}"
        settings = {
            "site": self.name, "brokers": self.brokers, "pipeline": str(pipeline), "partitions": self.partitions,
            "data_dir": str(self.data_dir), "store": store, "secrets_dir": str(secrets), "options": options,
            "metrics_port": free_port(),
        }  # fmt: skip
        self.config, self.log = self.folder / "upload.json", self.folder / "upload.log"
        self.config.write_text(json.dumps(settings))

    @property
    def settings(self) -> Settings:
        """As the service reads them."""
        return load(self.config)

    @property
    def topic(self) -> str:
        """Where the readings are."""
        return topics.stream(self.name, "readings")

    @property
    def spool(self) -> Path:
        """The service's spool."""
        assert self.data_dir
        return self.data_dir / "spool"

    @property
    def store(self) -> obstore.store.ObjectStore:
        """What the service writes to."""
        if self.s3:
            return self.s3.store(prefix=self.name)
        return LocalStore(self.folder / "store", mkdir=True)

    async def create(self) -> Site:
        """Create the topics."""
        wanted = [topics.data(self.topic, self.partitions), topics.data(topics.dead(self.name), 1)]
        await kafka.ensure(self.brokers, wanted)
        return self

    async def send(self, batches: Iterable[Batch], *, partition: int = 0, abort: bool = False) -> None:
        """Send frames in one transaction, which may be aborted."""
        producer = await kafka.producer(self.brokers, transactional_id=f"{self.name}.{partition}.{abort}")
        await producer.begin_transaction()
        for rows in batches:
            await post(producer, self.topic, rows, partition)
        await (producer.abort_transaction() if abort else producer.commit_transaction())
        await kafka.stopped(producer)

    async def raw(self, value: bytes, headers: list[tuple[str, bytes]], *, partition: int = 0) -> None:
        """Send one record as it is."""
        producer = await kafka.producer(self.brokers)
        await producer.send_and_wait(self.topic, value, partition=partition, headers=headers)
        await kafka.stopped(producer)

    def process(self) -> subprocess.Popen[bytes]:
        """Start the service as a process."""
        with self.log.open("ab") as out:
            words = [sys.executable, "-m", "connectors.upload", "--config", str(self.config)]
            return subprocess.Popen(words, cwd=ROOT, stderr=out)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Health]:
        """The service in this process; stopped as by SIGTERM at the end."""
        health, stop = Health(dict.fromkeys(CONDITIONS, False)), asyncio.Event()
        task = asyncio.create_task(main(self.settings, health, stop))
        waiting = asyncio.create_task(until(lambda: health.ok, 20, "health"))
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            task.result()
        try:
            yield health
        finally:
            stop.set()
            await task

    def manifests(self) -> list[Manifest]:
        """Of the table; none if the store is not there yet."""
        return manifest.manifests(self.store, TABLE)

    def numbers(self) -> list[int]:
        """Column n of every row that the manifests reach, sorted."""
        numbers: list[int] = []
        for file in manifest.files(self.store, TABLE):
            numbers += pq.read_table(io.BytesIO(bytes(obstore.get(self.store, file.path).bytes())))["n"].to_pylist()
        return sorted(numbers)

    async def uploaded(self, n: int, timeout_s: float = 20) -> list[int]:
        """Wait until the manifests have `n` rows; the numbers."""
        await until(lambda: sum(m.rows for m in self.manifests()) >= n, timeout_s, f"{n} rows in the store")
        return self.numbers()

    async def committed(self, partition: int = 0) -> int | None:
        """The group's offset."""
        consumer = await kafka.consumer(self.brokers, group=f"{self.name}.press.upload")
        place = kafka.Place(self.topic, partition)
        consumer.assign([place])
        found: int | None = await consumer.committed(place)
        await kafka.stopped(consumer)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """A sample of a service in this process, 0 if there is none."""
        return REGISTRY.get_sample_value(f"sitestream_{name}", {"site": self.name, **labels}) or 0.0


async def post(producer: kafka.Client, topic: str, rows: Batch, partition: int) -> None:
    """Send a frame and wait for it."""
    info = FrameInfo("test", TIME_MIN, len(rows), ROW.fingerprint)
    await producer.send_and_wait(topic, encode(rows, ROW), partition=partition, headers=info.headers())


def killed(process: subprocess.Popen[bytes]) -> None:
    """Kill -9."""
    process.send_signal(signal.SIGKILL)
    process.wait()
