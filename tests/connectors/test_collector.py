"""What a collector makes of what it reads: partitions, frames, heartbeats, acknowledgements and survival."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner

from connectors import simulator
from connectors.backoff import BACKOFF_S_MAX, BACKOFF_S_MIN, Backoff
from connectors.base import EndOfInput, Read
from connectors.collector import FRAME_BYTES_MAX, KEYS_CACHED_MAX, Collector, Framer, Limits, Partitioner
from connectors.outlet import Outlet, Record
from connectors.simulator import SignalSource
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.clock import ManualClock
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError, NotConnected, Unavailable
from pipelines.schema import Row
from pipelines.wire import FrameInfo, decode
from tests.connectors.schemas import Vibration

ROW = Vibration.measured()
PARTITIONS = 4
NOTHING = Vibration.batch(time=[], device=[], rms=[])
BAD = DeadLetter(b"x", "not_json", "t: no", "t")


def batch(*keys: str, start: int = 10**18) -> Batch:
    return Vibration.batch(time=np.arange(len(keys)) + start, device=list(keys), rms=np.arange(float(len(keys))))


def info(record: Record) -> FrameInfo:
    return FrameInfo.of(record.headers)


def framer(row: Row = ROW) -> Framer:
    return Framer("plant", "vibration", "1", row, PARTITIONS, heartbeat_s=1)


def test_devices_are_partitioned_as_kafka_does() -> None:
    keys = [f"press-{i}" for i in range(100)] + ["Öfen", "a b"]
    partitions = list(range(PARTITIONS))
    for partition, rows in Partitioner(PARTITIONS).split(batch(*keys)):
        for key in rows.keys:
            assert DefaultPartitioner()(key.encode(), partitions, partitions) == partition


def test_each_row_goes_to_one_partition_in_its_order() -> None:
    keys = [f"d{i % 7}" for i in range(50)]
    whole = batch(*keys)
    parts = dict(Partitioner(PARTITIONS).split(whole))
    assert sorted(t for p in parts.values() for t in p.time.tolist()) == whole.time.tolist()
    assert all((np.diff(p.time) > 0).all() for p in parts.values())
    of_time = dict(zip(whole.time.tolist(), keys, strict=True))
    assert all(of_time[t] == k for p in parts.values() for t, k in zip(p.time.tolist(), p.keys, strict=True))


def test_known_devices_are_limited() -> None:
    partitioner = Partitioner(PARTITIONS)
    partitioner.known = dict.fromkeys(map(str, range(KEYS_CACHED_MAX + 1)), 0)
    list(partitioner.split(batch("a")))
    assert list(partitioner.known) == ["a"]


def test_frames_say_who_wrote_them_and_how_far_it_is() -> None:
    records = framer().frames(batch("a", "b", "c", "d"), 10**18 + 3, 0)
    assert sorted(r.partition for r in records) == [0, 1, 2, 3]  # those without rows get a heartbeat
    assert {r.topic for r in records} == {"plant.vibration"}
    assert {(info(r).source, info(r).watermark, info(r).schema) for r in records} == {
        ("plant/vibration/1", 10**18 + 3, ROW.fingerprint)
    }
    rows = [decode(r.value, ROW) for r in records]
    assert [len(b) for b in rows] == [info(r).rows for r in records]
    assert sorted(k for b in rows for k in b.keys) == ["a", "b", "c", "d"]


def test_what_is_too_long_for_kafka_is_cut_and_only_its_end_has_the_new_watermark() -> None:
    made = framer()
    made.frames(batch("a"), 7, 0)
    many = batch(*["a"] * 200_000)
    records = [r for r in made.frames(many, 9, 0.5) if info(r).rows]
    assert len(records) > 3
    assert all(len(r.value) <= FRAME_BYTES_MAX for r in records)
    assert [info(r).watermark for r in records] == [7] * (len(records) - 1) + [9]
    assert np.concatenate([decode(r.value, ROW).time for r in records]).tolist() == many.time.tolist()


def test_a_partition_without_frames_gets_a_heartbeat_once_a_second() -> None:
    made = framer()
    made.frames(batch("a"), 1, 0)
    (own,) = (p for p, _ in Partitioner(PARTITIONS).split(batch("a")))
    assert made.frames(NOTHING, 2, 0.9) == []
    assert [r.partition for r in made.frames(batch("a"), 3, 0.95)] == [own]
    assert sorted(r.partition for r in made.frames(NOTHING, 4, 1.0)) == [p for p in range(PARTITIONS) if p != own]
    assert [r.partition for r in made.frames(NOTHING, 5, 1.95)] == [own]


def test_nothing_is_promised_before_anything_was_seen() -> None:
    assert framer().frames(NOTHING, TIME_MIN, 100) == []


# A source and a Kafka in which faults can be forced


@dataclass
class Script:
    """A reader that does as it is told: a Read, an error to raise, or a number of seconds that pass in silence."""

    clock: ManualClock
    steps: list[Any]
    stop: asyncio.Event
    log: list[str] = field(default_factory=list)

    async def connect(self) -> None:
        self.log.append("connect")
        if self.steps and self.steps[0] == "refuse":
            self.steps.pop(0)
            raise NotConnected("no")

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        await asyncio.sleep(0)
        if not self.steps:
            self.stop.set()
            return Read(NOTHING, (), self._ack)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, (int, float)):
            self.clock.advance(step)
            step = NOTHING
        batch, rejects = step if isinstance(step, tuple) else (step, ())
        self.log.append(f"read {len(batch)}")
        return Read(batch, rejects, self._ack)

    async def _ack(self) -> None:
        self.log.append("ack")

    async def close(self) -> None:
        self.log.append("close")


class Kafka(Outlet):
    """Takes records, unless it is told to fail."""

    def __init__(self, stop: asyncio.Event, log: list[str]) -> None:
        super().__init__("nowhere:9092", stop)
        self.log, self.fails, self.resumed = log, 0, TIME_MIN
        self.taken: list[Record] = []

    async def resume(self, topic: str, partitions: int, source: str) -> int:
        assert (topic, partitions, source) == ("plant.vibration", PARTITIONS, "plant/vibration/1")
        return self.resumed

    async def send(self, records: Sequence[Record]) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("stopped")
        self.log.append(f"sent {sum(info(r).rows for r in records if r.topic == 'plant.vibration')}")
        self.taken += records


class World:
    def __init__(self, *steps: Any, speed: float = 1.0, source: SignalSource[Any] | None = None) -> None:
        self.clock, self.stop = ManualClock(10**18), asyncio.Event()
        self.log: list[str] = []
        reader = Script(self.clock, list(steps), self.stop, self.log)
        self.kafka = Kafka(self.stop, self.log)
        source = source or simulator.source(Vibration, speed=speed)
        cut = framer(source.schema.measured())
        self.collector = Collector(source, reader, self.kafka, cut, "plant", self.clock, Limits())

    async def run(self) -> None:
        async with asyncio.timeout(5):
            await self.collector.run(self.stop)

    def watermarks(self, partition: int) -> list[int]:
        return [
            info(r).watermark for r in self.kafka.taken if r.topic == "plant.vibration" and r.partition == partition
        ]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.backoff.BACKOFF_S_MIN", 0.001)


async def test_acknowledged_is_what_kafka_has() -> None:
    world = World(batch("a", "b"), (NOTHING, (BAD,)), batch("a"))
    await world.run()
    assert world.log == [
        "connect",
        "read 2",
        "sent 2",
        "ack",
        "read 0",
        "sent 0",
        "ack",
        "read 1",
        "sent 1",
        "ack",
        "ack",
        "close",
    ]
    (letter,) = (r for r in world.kafka.taken if r.topic == "plant.dead")
    assert (letter.value, dict(letter.headers)["reason"], dict(letter.headers)["origin"]) == (b"x", b"not_json", b"t")


async def test_what_kafka_did_not_take_is_not_acknowledged() -> None:
    world = World(batch("a"), batch("a"))
    world.kafka.fails = 1
    await world.run()
    assert world.log == ["connect", "read 1", "close", "connect", "read 1", "sent 1", "ack", "ack", "close"]


async def test_a_broken_link_is_made_again() -> None:
    world = World("refuse", "refuse", batch("a"), NotConnected("gone"), batch("b"))
    await world.run()
    assert world.log.count("connect") == 4
    assert [entry for entry in world.log if entry.startswith("sent")] == ["sent 1", "sent 1"]


@pytest.mark.parametrize("error", [ConfigError("no such file"), ZeroDivisionError("a bug")])
async def test_no_error_ends_a_collector(error: Exception) -> None:
    world = World(error, batch("a"))
    await world.run()
    assert "sent 1" in world.log


async def test_in_silence_the_watermark_goes_on() -> None:
    world = World(batch("a", start=100), 1, 1, 1, 1, 1, speed=10)
    await world.run()
    for partition in range(PARTITIONS):
        marks = world.watermarks(partition)
        assert marks == sorted(marks)
        assert marks[-1] == 100 + 3 * 10 * 10**9  # five seconds of silence, of which two are nothing unusual


async def test_after_a_restart_it_goes_on_from_the_last_watermark() -> None:
    world = World(1, 1, 1, batch("a", start=50))
    world.kafka.resumed = 100
    await world.run()
    assert world.watermarks(0) == sorted(world.watermarks(0))
    assert (world.watermarks(0)[0], world.watermarks(0)[-1]) == (100, 100 + 10**9)


async def test_behind_a_broken_link_the_watermark_stands() -> None:
    world = World(batch("a", start=100), 100, NotConnected("gone"), 1, 1)
    await world.run()
    assert {m for p in range(PARTITIONS) for m in world.watermarks(p)} == {100, 100 + 98 * 10**9}


async def test_the_end_of_the_input_closes_every_window() -> None:
    world = World(batch("a"), EndOfInput())
    await world.run()
    assert world.collector.ended
    assert not world.stop.is_set()
    assert [world.watermarks(p)[-1] for p in range(PARTITIONS)] == [TIME_MAX] * PARTITIONS


async def test_the_end_is_told_even_if_kafka_is_away_at_first() -> None:
    world = World(EndOfInput(), EndOfInput())
    world.kafka.fails = 1
    await world.run()
    assert [world.watermarks(p) for p in range(PARTITIONS)] == [[TIME_MAX]] * PARTITIONS


def test_delays_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.backoff.BACKOFF_S_MIN", BACKOFF_S_MIN)
    backoff = Backoff(seed=1)
    delays = [backoff.delay_s() for _ in range(12)]
    for i, delay in enumerate(delays):
        full = min(BACKOFF_S_MIN * 2**i, BACKOFF_S_MAX)
        assert full / 2 <= delay <= full
    backoff.reset()
    assert backoff.delay_s() <= BACKOFF_S_MIN
    assert [Backoff(seed=2).delay_s()] != [Backoff(seed=3).delay_s()]
