"""`python -m benchmarks.peers`: the same windows by Sitestream and by other stream processors, on the same topics.

Every system has core 0 for itself, the broker core 1. The clock runs from the first reading that a system takes to the last
result that a reader of committed data sees; every result is compared with numpy's.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.measure import BROKER_CORE, WORKER_CORE, arguments, pinned, progress
from benchmarks.peers import job as jobs
from benchmarks.peers import ours
from benchmarks.peers.systems import System, ended, java, python
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.batch import WINDOW_START, Batch
from pipelines.runtime import kafka
from pipelines.runtime.log import LogReader
from pipelines.wire import FrameInfo, decode, encode

FRAME_TIMES = 8  # of all sensors of a partition: 2,000 rows
WAIT_S_MAX = 240.0
FRAMES = "Sitestream, frames"
Result = dict[tuple[str, int], tuple[int, float, float, float]]


def _self(*words: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", "benchmarks.peers.ours", *words]


SYSTEMS = [
    System("limit: read", _self("read"), ours=True),
    System("limit: read, parse, add up", _self("parse"), ours=True),
    System(FRAMES, _self("frames"), share=8.0, ours=True),  # else it is over before it has begun
    System("Sitestream, JSON", _self("json"), ours=True),
    System("Kafka Streams, exactly once", java, environment={"GUARANTEE": "exactly_once_v2"}),
    System("Kafka Streams, at least once", java, environment={"GUARANTEE": "at_least_once"}),
    System("Bytewax", python("bytewax", "bytewax>=0.21", "confluent-kafka")),
    System("Quix Streams", python("quix", "quixstreams>=3.28"), share=0.2),
    System("Faust", python("faust", "faust-streaming>=0.11"), share=0.1),
]


async def fill(brokers: str, readings: int) -> str:
    """Write the JSON topic of so many readings."""
    name = f"json-{readings}"
    await kafka.ensure(brokers, [topics.Topic(name, jobs.PARTITIONS, (("retention.ms", "-1"),))])
    producer = await kafka.producer(brokers, linger_ms=20)
    for partition in range(jobs.PARTITIONS):
        for key, value in jobs.messages(partition, readings):
            await producer.send(name, value, key=key, partition=partition)
    await producer.flush()
    await producer.stop()
    return name


async def fill_frames(brokers: str, readings: int) -> None:
    """Write the same as frames."""
    row = ours.Reading.measured()
    stream = topics.stream(ours.SITE, "frames")
    await kafka.ensure(brokers, [topics.data(stream, jobs.PARTITIONS)])
    producer = await kafka.producer(brokers, linger_ms=5)
    for partition in range(jobs.PARTITIONS):
        names, x = [jobs.sensor(partition, n) for n in range(jobs.HERE)], jobs.values(partition, readings)
        for at in range(0, len(x), FRAME_TIMES):
            some = x[at : at + FRAME_TIMES]
            when = (jobs.BEGIN_MS + (at + np.arange(len(some))) * jobs.EVERY_MS) * 10**6
            batch = Batch.of_keys(names * len(some), np.repeat(when, jobs.HERE), {"Reading.value": some.ravel()})
            info = FrameInfo("bench", int(when[-1]), len(batch), row.fingerprint)
            await producer.send(stream, encode(batch, row), partition=partition, headers=info.headers())
        later = FrameInfo("bench", (jobs.BEGIN_MS + jobs.LATER_MS) * 10**6, 0, row.fingerprint)
        nothing = encode(ours.Reading.batch(time=[], sensor=[], value=[]), row)
        await producer.send(stream, nothing, partition=partition, headers=later.headers())
    await producer.flush()
    await producer.stop()


def run(system: System, brokers: str, source: str, name: str, readings: int) -> dict[str, float]:
    """One run: readings a second, MB, and how many windows were missing or wrong."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | system.environment
        environment |= {"BROKERS": brokers, "TOPIC": source, "OUT": f"out-{name}", "NAME": name, "FOLDER": folder}
        words = system.start()
        count = jobs.times(readings) * jobs.SENSORS
        if system.ours:
            with pinned(WORKER_CORE):
                words = [*words, *([] if "limit" in system.name else [name])]
                done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment)
            figures = json.loads(done.stdout)
            wrong = 0 if "limit" in system.name else _wrong(asyncio.run(_frames(brokers, name)), readings)
            return {"rate": count / figures["seconds"], "rss_mb": figures["rss_mb"], "wrong": wrong}
        asyncio.run(kafka.ensure(brokers, [topics.Topic(f"out-{name}", jobs.PARTITIONS)]))
        with pinned(WORKER_CORE):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            seconds, found = asyncio.run(_results(process, brokers, f"out-{name}", len(jobs.truth(readings))))
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            ended(process)
        rss_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        return {"rate": count / seconds, "rss_mb": rss_mb, "wrong": _wrong(found, readings)}


async def _results(process: subprocess.Popen[str], brokers: str, topic: str, expected: int) -> tuple[float, Result]:
    """Seconds from the first reading to the last new result, and the results."""
    assert process.stdout is not None
    late = threading.Timer(WAIT_S_MAX, process.kill)
    late.start()
    line = "?"
    while line and "first" not in line:  # some greet before
        line = await asyncio.to_thread(process.stdout.readline)
    late.cancel()
    start = last = time.perf_counter()
    if not line:
        raise RuntimeError(f"it ended with {process.wait()} before its first reading")
    consumer = await kafka.consumer(brokers)
    consumer.assign([kafka.Place(topic, p) for p in range(jobs.PARTITIONS)])
    found: Result = {}
    while len(found) < expected and time.perf_counter() - last < WAIT_S_MAX / 8 and process.poll() is None:
        for records in (await consumer.getmany(timeout_ms=50)).values():
            for r in map(json.loads, (record.value for record in records)):
                if r["start"] < jobs.BEGIN_MS + jobs.LATER_MS // 2:
                    found[r["sensor"], r["start"]] = (r["count"], r["mean"], r["min"], r["max"])
            last = time.perf_counter()
    await kafka.stopped(consumer)
    return last - start, found


async def _frames(brokers: str, name: str) -> Result:
    plan = ours.job(brokers, name).plan
    consumer = await kafka.consumer(brokers)
    places = [kafka.Place(plan.topic(ours.SITE, "tens"), p) for p in range(jobs.PARTITIONS)]
    logs = await LogReader(consumer, dict.fromkeys(places, 0)).upto(await consumer.end_offsets(places))
    await kafka.stopped(consumer)
    found: Result = {}
    for record in (r for records in logs.values() for r in records):
        b = decode(record.value, plan.by_name["tens"].row)
        columns = [b.columns[f"Tens.{c}"].tolist() for c in ("count", "mean", "min", "max")]
        for key, start, *values in zip(b.keys, (b.columns[WINDOW_START] // 10**6).tolist(), *columns, strict=True):
            found[key, start] = (values[0], values[1], values[2], values[3])
    return found


def _wrong(found: Result, readings: int) -> int:
    """Windows that are missing or not what numpy says."""
    truth = jobs.truth(readings)
    return sum(not (key in found and np.allclose(found[key], value, rtol=1e-9)) for key, value in truth.items())


def main() -> None:
    """Run them in turn; print and write the medians."""
    parser = arguments("Readings a second on one core, beside other stream processors, from JSON messages.")
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--only", default="", metavar="TEXT,…", help="systems whose name has one of these in it")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rates")
    options = parser.parse_args()
    chosen = [s for s in SYSTEMS if any(text.lower() in s.name.lower() for text in options.only.split(","))]
    found: dict[str, list[dict[str, float]]] = {s.name: [] for s in chosen}
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-"))
        with pinned(BROKER_CORE):
            broker = stack.enter_context(EmbeddedKafka(Path(folder)))
        sizes = {s.name: int(options.readings * s.share) for s in chosen}
        progress(f"writing {options.readings:,} readings")
        sources = {
            size: asyncio.run(fill(broker.bootstrap, size)) for size in {s for n, s in sizes.items() if n != FRAMES}
        }
        if FRAMES in sizes:
            asyncio.run(fill_frames(broker.bootstrap, sizes[FRAMES]))
        for i in range(options.runs):
            for number, system in enumerate(chosen):
                size = sizes[system.name]
                try:
                    figures = run(system, broker.bootstrap, sources.get(size, ""), f"run{i}-{number}", size)
                except (OSError, RuntimeError, TimeoutError, subprocess.CalledProcessError) as e:
                    errors[system.name] = f"{type(e).__name__}: {e}"
                    progress(f"{system.name}: {errors[system.name]}")
                    continue
                found[system.name].append(figures)
                progress(f"{system.name}: {figures['rate']:,.0f}/s, {figures['wrong']:.0f} windows missing or wrong")
    _show({n: _median(runs) for n, runs in found.items() if runs}, errors, options.json, options.plot)


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    middle = {k: statistics.median(r[k] for r in runs) for k in ("rate", "rss_mb")}
    return {**middle, "wrong": max(r["wrong"] for r in runs)}


def _show(figures: dict[str, dict[str, float]], errors: dict[str, str], to: Path | None, plot: Path | None) -> None:
    own = figures.get("Sitestream, JSON", {}).get("rate", float("nan"))
    print(f"\n{'':<30}{'readings/s':>12}{'of ours':>9}{'MB':>7}{'missing or wrong':>18}")
    for name, f in figures.items():
        print(f"{name:<30}{f['rate']:>12,.0f}{f['rate'] / own:>9.2f}{f['rss_mb']:>7.0f}{f['wrong']:>18.0f}")
    for name, error in errors.items():
        print(f"{name:<30} {error}")
    if to is not None:
        to.write_text(json.dumps({"systems": figures, "errors": errors}, indent=2) + "\n")
    if plot is not None:
        _plot(figures, plot)


def _plot(figures: dict[str, dict[str, float]], to: Path) -> None:
    import matplotlib.pyplot as plt

    names = sorted(figures.keys() - {FRAMES, "limit: read"}, key=lambda n: figures[n]["rate"])
    colours = ["#0b6e4f" if n.startswith("Sitestream") else "#ced4da" if "limit" in n else "#5c677d" for n in names]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1))
    bars = axes.barh(names, [figures[n]["rate"] for n in names], color=colours)
    axes.bar_label(bars, [f" {figures[n]['rate']:,.0f}" for n in names])
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("JSON readings a second on one core")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(to, dpi=150)


if __name__ == "__main__":
    main()
