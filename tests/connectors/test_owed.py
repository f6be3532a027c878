"""Acknowledgements that wait, and an other side that waits for them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from connectors import simulator
from connectors.base import Read
from connectors.collector import Collector, Limits
from connectors.conditions import swinging_door
from connectors.owed import READS_MAX, ROWS_MAX, Owed
from pipelines.batch import TIME_MAX, Batch
from pipelines.clock import ManualClock
from tests.connectors.schemas import Vibration
from tests.connectors.test_collector import Kafka, framer

S = 10**9


class Acks:
    def __init__(self) -> None:
        self.owed, self.done, self.number = Owed(), list[int](), 0

    async def add(self, rows: int, *, held: int = TIME_MAX, now_s: float = 0.0) -> None:
        self.number += 1
        number = self.number

        async def ack() -> None:
            self.done.append(number)

        await self.owed.add(number, rows, ack, oldest_held=held, now_s=now_s)


async def test_what_is_read_before_the_oldest_that_is_held_is_acknowledged_in_order() -> None:
    made = Acks()
    await made.add(1)
    await made.add(1, held=2)
    await made.add(1, held=2)
    assert made.done == [1]
    await made.owed.settle(3)
    assert made.done == [1, 2]
    made.owed.forget()
    await made.owed.settle(TIME_MAX)
    assert (made.done, made.owed.rows) == ([1, 2], 0)


async def test_not_more_than_so_much_waits() -> None:
    made = Acks()
    await made.add(ROWS_MAX, held=1)
    assert made.done == []
    await made.add(1, held=1)
    assert made.done == [1]
    for _ in range(READS_MAX - 1):
        await made.add(0, held=1)
    assert made.done == [1]
    await made.add(0, held=1)
    assert made.done == [1, 2]


async def test_in_silence_one_is_acknowledged_to_see() -> None:
    made = Acks()
    for _ in range(20):
        await made.add(1, held=1)
    await made.add(0, held=1, now_s=0.9)
    assert made.done == []
    await made.add(0, held=1, now_s=1.0)
    assert made.done == [1]
    await made.add(1, held=1, now_s=1.1)  # it had waited for us
    assert made.owed.rows_max == 10
    assert made.owed.rows == 10


async def test_a_fleet_that_is_silent_by_itself_is_asked_once() -> None:
    made = Acks()
    made.owed.rows_max = 100
    for _ in range(3):
        await made.add(1, held=1)
    for now_s in range(1, 60):
        await made.add(0, held=1, now_s=now_s)
    assert made.done == [1]
    assert made.owed.rows_max == 200
    await made.add(1, held=1, now_s=60)
    assert (made.done, made.owed.rows_max) == ([1], 200)


async def test_a_broker_with_few_messages_in_flight_does_not_stand_still() -> None:
    """100 devices, a reading a second each, of which 20 may be unacknowledged."""
    clock, stop, flight_max, seconds, devices = ManualClock(10**18), asyncio.Event(), 20, 60, 100
    names = [f"d{i}" for i in range(devices)]
    given = acknowledged = 0

    class Broker:
        async def connect(self) -> None: ...

        async def close(self) -> None: ...

        async def read(self, *, rows_max: int, linger_s: float) -> Read:
            nonlocal given
            await asyncio.sleep(0)
            due = min(int((clock.now_ns() - 10**18) / S * devices), seconds * devices)
            count = min(due - given, flight_max - (given - acknowledged))
            if given == seconds * devices or clock.now_ns() > 10**18 + 600 * S:
                stop.set()
            if count == 0:
                clock.advance(linger_s)
            number = np.arange(given, given + count)
            given += count
            upto = given

            async def ack() -> None:
                nonlocal acknowledged
                acknowledged = max(acknowledged, upto)

            rms = {"Vibration.rms": np.zeros(count)}
            times = 10**18 + number // devices * S
            return Read(Batch.of_keys([names[i % devices] for i in number], times, rms), (), ack)

    source: Any = simulator.source(Vibration, conditions=[swinging_door(Vibration.rms, deviation=1, hold="30s")])
    kafka = Kafka(stop, [])
    collector = Collector(source, Broker(), kafka, framer(), "plant", clock, Limits())
    await collector.run(stop)
    assert given == acknowledged == seconds * devices
    assert (clock.now_ns() - 10**18) / S < seconds + 5
