"""`python -m benchmarks.latency`: from the end of a window to the moment when a reader has its committed result, live.

Readings come at their time, as JSON messages every 10 ms; 1 s windows of event time. Beside Sitestream: Kafka Streams and Quix
Streams, each exactly once (commits every 100 ms) and at least once (a reader sees results that may be taken back). Sitestream
reads the same messages exactly once, and once more frames, as `collect` makes them by default (linger 50 ms). The system has
core 0; broker, devices and reader core 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import BROKER_CORE, WORKER_CORE, arguments, pinned, progress
from benchmarks.peers import ours
from benchmarks.peers.systems import System, ended, java, python
from connectors import simulator
from connectors.base import Read
from connectors.collector import Collector, Framer, Limits
from connectors.outlet import Outlet
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.batch import WINDOW_START, Batch
from pipelines.clock import SystemClock
from pipelines.expr import Array
from pipelines.runtime import kafka
from pipelines.schema import Row
from pipelines.wire import decode

PARTITIONS, WINDOW_MS, TICK_MS = 4, 1_000, 10
SENSORS_MAX = 1_000
START_S_MAX, WARM_WINDOWS, LAST_S = 60, 8, 3
FRAMES = "Sitestream, through collect"
Figures = dict[str, float]
Found = dict[tuple[str, int], tuple[float, ...]]

_SELF = partial(System, start=lambda: [sys.executable, "-m", "benchmarks.peers.ours", "live"], ours=True)
QUIX = {"CLOSING": "partition"}  # by the time of the partition, as everywhere else here
_QUIX = partial(System, start=python("quix", "quixstreams>=3.28"))
SYSTEMS = [
    _SELF("Sitestream, JSON"),
    _SELF(FRAMES),
    System("Kafka Streams, exactly once", java, environment={"GUARANTEE": "exactly_once_v2"}),
    System("Kafka Streams, at least once", java, environment={"GUARANTEE": "at_least_once"}),
    _QUIX("Quix Streams, exactly once", environment=QUIX | {"GUARANTEE": "exactly-once", "COMMIT_S": "0.1"}),
    _QUIX("Quix Streams, at least once", environment=QUIX),
]


@dataclass(frozen=True)
class Plant:
    """Sensors that read in turn: in every tick a share of them, so many that together they give `rate` readings a second."""

    rate: int
    begin_ms: int

    @property
    def sensors(self) -> int:
        """How many."""
        return min(SENSORS_MAX, self.rate // 10)

    @property
    def every_ms(self) -> int:
        """Between two readings of a sensor."""
        return 1000 * self.sensors // self.rate

    @property
    def names(self) -> list[str]:
        """Of each sensor."""
        return [f"s-{i}" for i in range(self.sensors)]

    def due(self, first: int, until: int) -> tuple[Array, Array, Array]:
        """Sensor, time in ms and value of the readings of the ticks from `first` to before `until`."""
        sensor = np.arange(self.sensors)
        found = [
            (sensor[here], np.full(here.sum(), tick * TICK_MS))
            for tick in range(first, until)
            for here in [(tick * TICK_MS - sensor * TICK_MS) % self.every_ms == 0]
        ]
        who, when = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return who, self.begin_ms + when, self.value(who, when)

    def value(self, sensor: Array, after_ms: Array) -> Array:
        """In thousandths, so that the text is exact."""
        return np.asarray((sensor * 7919 + after_ms * 31) % 50_000 / 1000)

    def mean(self, sensor: int, start_ms: int) -> float:
        """Of a sensor's window, in floating point as numpy would."""
        first = start_ms - self.begin_ms
        when = np.arange(first, first + WINDOW_MS)
        when = when[(when - sensor * TICK_MS) % self.every_ms == 0]
        return float(self.value(np.full(len(when), sensor), when).mean())


async def ticks(plant: Plant) -> AsyncIterator[tuple[int, int]]:
    """(first, until) of the ticks whose time has come, for ever."""
    done = 0
    while True:
        until = int(time.time() * 1000 - plant.begin_ms) // TICK_MS + 1
        if until > done:
            yield done, until
        done = max(done, until)
        await asyncio.sleep(max(0.0, (plant.begin_ms + done * TICK_MS) / 1000 - time.time()))


async def send_json(plant: Plant, topic: str, producer: kafka.Client) -> None:
    """As devices whose gateway writes one message for each reading."""
    names = [name.encode() for name in plant.names]
    home = np.array([kafka.partition_of(name, PARTITIONS) for name in plant.names])
    async for first, until in ticks(plant):
        who, when, value = plant.due(first, until)
        for p in range(PARTITIONS):
            here = home[who] == p
            batch, count = producer.create_batch(), 0
            for s, ms, x in zip(who[here].tolist(), when[here].tolist(), value[here].tolist(), strict=True):
                text = b'{"sensor": "%b", "ts": %d, "value": %.3f}' % (names[s], ms, x)
                assert batch.append(key=names[s], value=text, timestamp=ms) is not None
                count += 1
            if count:
                await producer.send_batch(batch, topic, partition=p)


class Devices:
    """The same readings as a reader of `collect`."""

    def __init__(self, plant: Plant) -> None:
        self._plant, self._ticks = plant, ticks(plant)
        self._names = plant.names

    async def connect(self) -> None:
        """See `Reader.connect`."""

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        first, _ = await anext(self._ticks)
        await asyncio.sleep(linger_s)
        _, until = await anext(self._ticks)
        who, when, value = self._plant.due(first, until)
        names = [self._names[s] for s in who.tolist()]
        return Read(Batch.of_keys(names, when * 10**6, {"Reading.value": value}), (), self._nothing)

    async def _nothing(self) -> None:
        return

    async def close(self) -> None:
        """See `Reader.close`."""


async def send_frames(plant: Plant, brokers: str) -> None:
    """Through the collector itself."""
    stop, row = asyncio.Event(), ours.Reading.measured()
    framer = Framer(ours.SITE, "frames", "1", row, PARTITIONS, Limits().heartbeat_s)
    source = simulator.source(ours.Reading, stream="frames")
    outlet = Outlet(brokers, stop)
    try:
        await Collector(source, Devices(plant), outlet, framer, ours.SITE, SystemClock(), Limits()).run(stop)
    finally:
        await outlet.close()


async def results(consumer: kafka.Client, topic: str, row: Row | None, into: Found) -> None:
    """(arrival in ms, count, mean) of each window, by sensor and start in ms; the first of several counts."""
    consumer.assign([kafka.Place(topic, p) for p in range(PARTITIONS)])
    while True:
        for records in (await consumer.getmany(timeout_ms=50)).values():
            now_ms = time.time() * 1000
            for record in records:
                for sensor, start, count, mean in _rows(record.value, row):
                    into.setdefault((sensor, start), (now_ms, count, mean))


def _rows(value: bytes, row: Row | None) -> list[tuple[str, int, int, float]]:
    if row is None:
        r = json.loads(value)
        return [(r["sensor"], r["start"], r["count"], r["mean"])]
    b = decode(value, row)
    starts = (b.columns[WINDOW_START] // 10**6).tolist()
    return list(zip(b.keys, starts, b.columns["Tens.count"].tolist(), b.columns["Tens.mean"].tolist(), strict=True))


async def run(system: System, brokers: str, name: str, rate: int, seconds: int) -> Figures:
    """One run of a system: p50 and p99 in ms, and how many windows were missing or wrong."""
    framed = system.name == FRAMES
    out, row = f"out-{name}", None
    source = topics.stream(ours.SITE, "frames") if framed else f"in-{name}"
    if system.ours:
        plan = ours.job(brokers, name, "" if framed else source, f"{WINDOW_MS}ms").plan
        out, row = plan.topic(ours.SITE, "tens"), plan.by_name["tens"].row
        await kafka.ensure(brokers, [t for t in plan.topics(ours.SITE, PARTITIONS) if not t.foreign])
    await kafka.ensure(brokers, [topics.Topic(t, PARTITIONS) for t in (source, out) if not (system.ours and framed)])
    plant = Plant(rate, (int(time.time()) + 2) * 1000)
    found: Found = {}
    consumer, producer = await kafka.consumer(brokers), await kafka.producer(brokers)
    with tempfile.TemporaryDirectory() as folder:
        environment = {"BROKERS": brokers, "TOPIC": "" if framed else source, "OUT": out, "NAME": name}
        environment |= {"FOLDER": folder, "WINDOW_MS": str(WINDOW_MS), **system.environment}
        sending = send_frames(plant, brokers) if framed else send_json(plant, source, producer)
        async with (
            _running(sending),
            _running(results(consumer, out, row, found)),
            _process(system, environment) as process,
        ):
            await _first_line(process)
            first = int(time.time()) + WARM_WINDOWS
            await asyncio.sleep(first + seconds + LAST_S - time.time())
    await kafka.stopped(consumer)
    await kafka.stopped(producer)
    return _figures(plant, found, [(first + i) * 1000 for i in range(seconds)])


@asynccontextmanager
async def _running(job: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(job)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _process(system: System, environment: dict[str, str]) -> AsyncIterator[subprocess.Popen[str]]:
    words = [*system.start(), *([environment["NAME"]] if system.ours else [])]
    with pinned(WORKER_CORE):
        process = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
            words, stdout=subprocess.PIPE, env=os.environ | environment, text=True
        )
    try:
        yield process
    finally:
        await asyncio.to_thread(ended, process)


async def _first_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = "?"
    async with asyncio.timeout(START_S_MAX):
        while line and "first" not in line:  # some greet before
            line = await asyncio.to_thread(process.stdout.readline)
    if not line:
        raise RuntimeError(f"it ended with {process.wait()} before its first reading")


def _figures(plant: Plant, found: Found, starts: list[int]) -> Figures:
    waits, wrong = [], 0
    for number, name in enumerate(plant.names):
        for start in starts:
            got = found.get((name, start))
            if got is None or got[1] != WINDOW_MS / plant.every_ms or not np.isclose(got[2], plant.mean(number, start)):
                wrong += 1
            else:
                waits.append(got[0] - start - WINDOW_MS)
    p50, p99 = np.percentile(waits, [50, 99]) if waits else (np.nan, np.nan)
    return {"p50_ms": float(p50), "p99_ms": float(p99), "wrong": wrong, "windows": len(waits) + wrong}


def main() -> None:
    """Run them in turn; print and write the medians."""
    parser = arguments("Milliseconds from the end of a window to its committed result, beside other stream processors.")
    parser.add_argument("--rates", default="1000,50000", metavar="N,…", help="readings a second")
    parser.add_argument("--seconds", type=int, default=20, help="of each run that count")
    parser.add_argument("--only", default="", metavar="TEXT,…", help="systems whose name has one of these in it")
    options = parser.parse_args()
    chosen = [s for s in SYSTEMS if any(text.lower() in s.name.lower() for text in options.only.split(","))]
    rates = [int(rate) for rate in options.rates.split(",")]
    found: dict[str, dict[str, list[Figures]]] = {str(rate): {s.name: [] for s in chosen} for rate in rates}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="latency-"))
        stack.enter_context(pinned(BROKER_CORE))
        broker = stack.enter_context(EmbeddedKafka(Path(folder)))
        for i in range(options.runs):
            for rate in rates:
                for number, system in enumerate(chosen):
                    name = f"run{i}-{rate}-{number}"
                    f = asyncio.run(run(system, broker.bootstrap, name, rate, options.seconds))
                    found[str(rate)][system.name].append(f)
                    progress(
                        f"{rate:,}/s {system.name}: p50 {f['p50_ms']:.0f}, p99 {f['p99_ms']:.0f} ms, wrong {f['wrong']}"
                    )
    _show(
        {rate: {name: _median(runs) for name, runs in systems.items()} for rate, systems in found.items()}, options.json
    )


def _median(runs: list[Figures]) -> Figures:
    return {key: float(np.median([r[key] for r in runs])) for key in runs[0]}


def _show(figures: dict[str, dict[str, Figures]], to: Path | None) -> None:
    for rate, systems in figures.items():
        print(f"\n{int(rate):,} readings/s, 1 s windows: from the end of a window to its committed result")
        print(f"{'':<30}{'p50 ms':>8}{'p99 ms':>8}{'windows':>10}{'missing or wrong':>18}")
        for name, f in systems.items():
            print(f"{name:<30}{f['p50_ms']:>8.0f}{f['p99_ms']:>8.0f}{f['windows']:>10.0f}{f['wrong']:>18.0f}")
    if to is not None:
        to.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
