"""The spine of a site: frames from Kafka, a 10 s window, results and checkpoints back to Kafka in transactions.

Beside it, in the same run and from the same topic, the physical limit: consume, decode, and one `bincount` a batch. The broker
has one core, the worker the other. Results are compared with numpy's.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import BROKER_CORE, Figures, arguments, medians, pinned, progress, report, run_alone, show
from containers.embedded import EmbeddedKafka
from pipelines import Col, Key, Pipeline, Schema, agg, topics, tumbling
from pipelines.batch import WINDOW_START, Batch
from pipelines.expr import Array
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.log import LogReader
from pipelines.runtime.runner import Runner
from pipelines.runtime.service import set_up_logging
from pipelines.schema import Row
from pipelines.wire import FrameInfo, decode, encode

SITE, PARTITIONS, KEYS = "bench", 4, 1_000
FRAME_ROWS = 2_000
FRAMES = 2_400  # of each partition
HZ = 10  # readings a second of each key
WINDOW_S, SECOND = 10, 10**9
KEYS_HERE = KEYS // PARTITIONS
FAR = 2**60


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")


class Tens(Schema):
    n = agg.count()
    mean = agg.mean(Reading.x)
    low = agg.min(Reading.x)
    high = agg.max(Reading.x)
    std = agg.std(Reading.x)


@dataclass(frozen=True)
class Feed:
    """The topic that is filled beforehand."""

    schema: type[Reading] = Reading
    stream: str = "readings"

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {}


@dataclass(frozen=True)
class Result:
    """No sink but the result topic."""

    kind: str = "result"

    def check(self, row: Row) -> None:
        """See `Sink.check`."""

    def describe(self) -> dict[str, str]:
        """See `Sink.describe`."""
        return {}


def job(name: str, brokers: str) -> Job:
    """A pipeline under a name of its own, so that each run begins at the beginning."""
    pipeline = Pipeline(name)
    pipeline.read(Feed()).window(tumbling(f"{WINDOW_S}s", late="0s"), Tens).to(Result())
    return Job(pipeline.plan(), SITE, brokers, PARTITIONS)


def values(partition: int) -> Array:
    """Every reading of a partition, shape `(readings of a key, keys)`: the rows of its frames, in order."""
    rng = np.random.default_rng(partition)
    return rng.normal(10, 3, (FRAMES * FRAME_ROWS // KEYS_HERE, KEYS_HERE))


def frames(partition: int) -> list[tuple[bytes, FrameInfo]]:
    """The frames of a partition, and a heartbeat that closes the last window."""
    row = Reading.measured()
    names = [f"press-{partition}-{k}" for k in range(KEYS_HERE)]
    x = values(partition).reshape(FRAMES, FRAME_ROWS)
    step = np.arange(FRAME_ROWS) // KEYS_HERE
    made = []
    for i in range(FRAMES):
        when = (i * FRAME_ROWS // KEYS_HERE + step) * (SECOND // HZ)
        batch = Batch.of_keys(names * (FRAME_ROWS // KEYS_HERE), when, {"Reading.x": x[i]})
        made.append((encode(batch, row), FrameInfo("bench", int(when[-1]), FRAME_ROWS, row.fingerprint)))
    nothing = Reading.batch(time=[], device=[], x=[])
    return [*made, (encode(nothing, row), FrameInfo("bench", FAR, 0, row.fingerprint))]


async def fill(brokers: str) -> None:
    """Write the input topic."""
    await kafka.ensure(brokers, job("fill", brokers).plan.topics(SITE, PARTITIONS))
    producer = await kafka.producer(brokers, linger_ms=5)
    for partition in range(PARTITIONS):
        for value, info in frames(partition):
            await producer.send(topics.stream(SITE, "readings"), value, partition=partition, headers=info.headers())
    await producer.flush()
    await producer.stop()


async def process(brokers: str, name: str) -> None:
    """One run of the real runner, from the first fetch to the commit of the last result."""
    set_up_logging("WARNING")
    what = job(name, brokers)
    await kafka.ensure(brokers, what.plan.topics(SITE, PARTITIONS))
    stop, runner = asyncio.Event(), Runner(what)
    running = asyncio.create_task(runner.run(stop))
    await until(lambda: running.done() or len(runner.offsets) == PARTITIONS)
    start = time.perf_counter()
    await until(lambda: running.done() or list(runner.committed.values()) == PARTITIONS * [FRAMES + 1])
    seconds = time.perf_counter() - start
    stop.set()
    await running
    report(rows_per_s=PARTITIONS * FRAMES * FRAME_ROWS / seconds)


async def until(true: Callable[[], bool]) -> None:
    """Look every two milliseconds."""
    while not true():  # noqa: ASYNC110 - there is nothing to wait for: the runner does not know when a benchmark is over
        await asyncio.sleep(0.002)


async def limit(brokers: str) -> None:
    """What no program with this client and this format can beat."""
    row = Reading.measured()
    consumer = await kafka.consumer(brokers)
    places = [kafka.Place(topics.stream(SITE, "readings"), p) for p in range(PARTITIONS)]
    consumer.assign(places)
    for place in places:
        consumer.seek(place, 0)
    rows, start = 0, time.perf_counter()
    while rows < PARTITIONS * FRAMES * FRAME_ROWS:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            batches = [decode(r.value, row) for r in records]
            codes = np.concatenate([b.codes for b in batches])
            np.bincount(codes, np.concatenate([b.columns["Reading.x"] for b in batches]))
            rows += len(codes)
    seconds = time.perf_counter() - start
    await consumer.stop()
    report(limit_rows_per_s=rows / seconds)


async def check(brokers: str, name: str) -> None:
    """Compare every result of a run with numpy's."""
    plan = job(name, brokers).plan
    consumer = await kafka.consumer(brokers)
    places = [kafka.Place(plan.topic(SITE, "tens"), p) for p in range(PARTITIONS)]
    logs = await LogReader(consumer, dict.fromkeys(places, 0)).upto(await consumer.end_offsets(places))
    await consumer.stop()
    per_window = WINDOW_S * HZ
    for place, records in logs.items():
        batches = [decode(r.value or b"", plan.by_name["tens"].row) for r in records]
        got = {
            c: np.concatenate([b.columns[f"Tens.{c}"] for b in batches]) for c in ("n", "mean", "low", "high", "std")
        }
        keys = np.array([int(key.rpartition("-")[2]) for b in batches for key in b.keys])
        order = np.lexsort((keys, np.concatenate([b.columns[WINDOW_START] for b in batches])))
        x = values(place.partition).reshape(-1, per_window, KEYS_HERE)
        want = {
            "mean": x.mean(1),
            "low": x.min(1),
            "high": x.max(1),
            "std": x.std(1),
            "n": 0 * x.min(1) + per_window,
        }
        for column, expected in want.items():
            np.testing.assert_allclose(got[column][order], expected.ravel(), rtol=1e-9, err_msg=f"{name} {column}")


def main() -> None:
    """Start a broker, fill it, and run both kinds in turn."""
    options = arguments("Rows a second through `process` on one core, beside the physical limit.").parse_args()
    folder = Path(tempfile.mkdtemp(prefix="spine-"))
    spine: list[Figures] = []
    bound: list[Figures] = []
    try:
        with ExitStack() as stack:
            with pinned(BROKER_CORE):
                broker = stack.enter_context(EmbeddedKafka(folder))
            progress(f"writing {PARTITIONS * FRAMES * FRAME_ROWS:,} rows in frames of {FRAME_ROWS:,}")
            asyncio.run(fill(broker.bootstrap))
            for i in range(options.runs):
                bound.append(run_alone("benchmarks.spine", ["limit", broker.bootstrap]))
                spine.append(run_alone("benchmarks.spine", ["process", broker.bootstrap, f"run{i}"]))
                asyncio.run(check(broker.bootstrap, f"run{i}"))
                progress(
                    f"run {i + 1} of {options.runs}: {spine[-1]['rows_per_s']:,.0f} rows/s, "
                    f"limit {bound[-1]['limit_rows_per_s']:,.0f}, results right"
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = {**medians(bound), **medians(spine)}
    figures["ratio"] = figures["rows_per_s"] / figures["limit_rows_per_s"]
    shapes = {"rows_per_s": "{:,.0f}", "limit_rows_per_s": "{:,.0f}", "ratio": "{:.2f}", "rss_mb": "{:.0f}"}
    show(
        f"spine: {KEYS:,} keys, 10 s windows, transactions on, one core (medians of {options.runs})",
        figures,
        shapes,
        options.json,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["limit", brokers]:
            asyncio.run(limit(brokers))
        case ["process", brokers, name]:
            asyncio.run(process(brokers, name))
        case _:
            main()
