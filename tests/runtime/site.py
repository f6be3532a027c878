"""A site on a real broker: readings in, results out, workers as processes or in this one, and the results as they must be."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines import Pipeline, Schema, topics
from pipelines.batch import WINDOW_START, Batch
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.log import LogReader
from pipelines.runtime.restore import Restored, restore
from pipelines.runtime.runner import Runner
from pipelines.runtime.serve import Health
from pipelines.wire import FrameInfo, decode, encode
from tests.bed.waiting import until
from tests.runtime.plant import Reading, Tens, plant

REPOSITORY = Path(__file__).parents[2]
SECOND = 10**9
FAR = 10**6  # a time, in seconds, by which every window is closed
Window = tuple[str, int]  # device, start in ns
Stats = tuple[int, float, float, float]  # n, total, low, high
Rows = list[tuple[str, float, float]]  # device, event time in seconds, value


@dataclass
class Site:
    """A site and one pipeline on it."""

    name: str
    brokers: str
    pipeline: Pipeline = field(default_factory=lambda: plant)
    partitions: int = 2

    @property
    def job(self) -> Job:
        """For a `Runner`."""
        return Job(self.pipeline.plan(), self.name, self.brokers, self.partitions)

    async def create(self) -> Site:
        """Create the topics."""
        await kafka.ensure(self.brokers, self.job.plan.topics(self.name, self.partitions))
        return self

    async def send(
        self, frames: Iterable[Rows], *, partition: int = 0, schema: type[Schema] = Reading, column: str = "x"
    ) -> None:
        """Send frames of a schema; each carries the watermark of its newest row."""
        producer = await kafka.producer(self.brokers)
        stream = "readings" if schema is Reading else "settings"
        for rows in frames:
            batch = batch_of(rows, schema, column)
            await post(producer, topics.stream(self.name, stream), batch, schema, int(batch.time.max()), partition)
        await kafka.stopped(producer)

    async def close_windows(self) -> None:
        """Send heartbeats that close every window of every partition."""
        producer = await kafka.producer(self.brokers)
        nothing = batch_of([], Reading, "x")
        for partition in range(self.partitions):
            await post(producer, topics.stream(self.name, "readings"), nothing, Reading, FAR * SECOND, partition)
        await kafka.stopped(producer)

    async def log(self, topic: str) -> dict[int, list[kafka.Record]]:
        """All committed records of a topic, by partition."""
        consumer = await kafka.consumer(self.brokers)
        try:
            numbers = range(1 if topic == topics.dead(self.name) else self.partitions)
            places = [kafka.Place(topic, p) for p in numbers]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            records = await LogReader(consumer, dict.fromkeys(places, 0)).upto(ends)
        finally:
            await kafka.stopped(consumer)
        return {place.partition: found for place, found in records.items()}

    async def batches(self, step: str) -> list[Batch]:
        """All committed results of a step."""
        row = self.job.plan.by_name[step].row
        logs = await self.log(self.job.plan.topic(self.name, step))
        return [decode(r.value or b"", row) for records in logs.values() for r in records]

    async def windows(self, of: type[Schema] = Tens) -> dict[Window, list[Stats]]:
        """Committed results of `Tens` or the like: exactly one entry in each list if nothing was doubled."""
        found: dict[Window, list[Stats]] = defaultdict(list)
        for batch in await self.batches(topics.named_after(of.__name__)):
            columns = [batch.columns[f"{of.__name__}.{c}"] for c in ("n", "total", "low", "high")]
            for key, start, *values in zip(batch.keys, batch.columns[WINDOW_START], *columns, strict=True):
                n, total, low, high = (float(v) for v in values)
                found[key, int(start)].append((int(n), total, low, high))
        return dict(found)

    async def wait_for_windows(
        self, expected: Mapping[Window, Stats], timeout_s: float = 20, of: type[Schema] = Tens
    ) -> None:
        """Until as many windows as expected are there; then they must be the expected ones, each once."""

        async def there() -> bool:
            return len(await self.windows(of)) >= len(expected)

        probe: Callable[[], bool | Awaitable[bool]] = there
        await until(probe, timeout_s, f"{len(expected)} windows on {self.name}")
        assert await self.windows(of) == {window: [stats] for window, stats in expected.items()}

    async def recover(self, partition: int = 0) -> Restored:
        """What a worker that opens the partition now would begin with."""
        producer = await kafka.producer(self.brokers, transactional_id=self.job.transactional_id(partition))
        try:
            return await restore(self.job, partition)
        finally:
            await kafka.discarded(producer)

    @asynccontextmanager
    async def running(self, job: Job | None = None, health: Health | None = None) -> AsyncIterator[Runner]:
        """A worker in this process, healthy when it is given out, stopped gracefully at the end."""
        stop, health = asyncio.Event(), health or Health()
        runner = Runner(job or self.job, health)
        task = asyncio.create_task(runner.run(stop))
        try:
            await until(lambda: task.done() or health.ok, what="the worker to be healthy")
            yield runner
        finally:
            stop.set()
            await task

    def worker(self, folder: Path, number: int = 0, variable: str = "plant", **options: str) -> Worker:
        """A worker process, not yet started."""
        return Worker(self, folder / f"worker-{number}", options, variable)


@dataclass
class Worker:
    """`python -m pipelines.runtime.worker` as a process that can be killed and started again."""

    site: Site
    folder: Path
    options: Mapping[str, str]
    variable: str = "plant"
    process: subprocess.Popen[bytes] | None = None
    _said_before: int = 0  # characters of its log

    def start(self) -> Worker:
        """Start the process; its log goes on in the same file."""
        self.folder.mkdir(exist_ok=True)
        self._said_before = len(self.text)
        config = self.folder / "settings.json"
        config.write_text(json.dumps({
            "site": self.site.name, "brokers": self.site.brokers, "partitions": self.site.partitions, "metrics_port": 0,
            "pipeline": f"{Path(__file__).with_name('plant.py')}:{self.variable}", "options": dict(self.options),
        }))  # fmt: skip
        words = [sys.executable, "-m", "pipelines.runtime.worker", "--config", str(config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, cwd=REPOSITORY, stderr=log, stdout=log)
        return self

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, timeout_s: float = 20) -> int:
        """Until it ends by itself; the exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    @property
    def text(self) -> str:
        """Everything it wrote."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    @property
    def text_since_start(self) -> str:
        """What it wrote since it was started last."""
        return self.text[self._said_before :]


def batch_of(rows: Rows, schema: type[Schema], column: str) -> Batch:
    """Rows as columns."""
    time = np.array([t for _, t, _ in rows]) * SECOND
    return schema.batch(time=time.astype(np.int64), device=[d for d, _, _ in rows], **{column: [v for _, _, v in rows]})


async def post(
    producer: kafka.Client, topic: str, batch: Batch, schema: type[Schema], watermark: int, partition: int
) -> None:
    """Send one frame and wait until Kafka has it."""
    row = schema.measured()
    info = FrameInfo("test", watermark, len(batch), row.fingerprint)
    await producer.send_and_wait(topic, encode(batch, row), partition=partition, headers=info.headers())


def story(seconds: int, *, partition: int = 0, devices: int = 3, start: int = 0) -> list[Rows]:
    """A frame a second: a reading of each device, never late, values that tell every frame apart."""
    return [
        [(f"d{d}-{partition}", t + d / 10, float(7 * t + d)) for d in range(devices)]
        for t in range(start, start + seconds)
    ]


def closed(frames: Iterable[Rows], upto_s: int) -> dict[Window, Stats]:
    """Those windows of the truth that end at or before a time."""
    return {w: stats for w, stats in truth(frames).items() if w[1] + 10 * SECOND <= upto_s * SECOND}


def truth(frames: Iterable[Rows], size_s: int = 10) -> dict[Window, Stats]:
    """What `Tens` must be, slowly and obviously."""
    values: dict[Window, list[float]] = defaultdict(list)
    for rows in frames:
        for device, time, value in rows:
            values[device, int(time // size_s) * size_s * SECOND].append(value)
    return {w: (len(v), sum(v), min(v), max(v)) for w, v in values.items()}
