"""What every reader must do. A test class per reader inherits `Conformance` and says how to drive its outside world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

import pytest

from connectors.base import QUALITY, EndOfInput, Read, Reader
from pipelines.errors import NotConnected
from pipelines.expr import Array

LINGER_S = 0.05


@dataclass
class World:
    """One source and its outside world. The n-th reading ever offered has the value n."""

    reader: Callable[[], Reader]  # the same source again: a stateful one is the same object
    offer: Callable[[int], Awaitable[None]]  # so many more good readings
    offer_bad: Callable[[], Awaitable[str]] | None  # one that is unusable; its origin
    ends: bool  # whether it ends after what was offered


def measured(got: Read) -> Array:
    """The values, without their quality."""
    (column,) = (c for name, c in got.batch.columns.items() if name != QUALITY)
    return column


async def read_all(reader: Reader, count: int, *, ack: bool = True) -> list[float]:
    """Values of the next `count` readings, in order; more than that is an error."""
    values: list[float] = []
    deadline = monotonic() + 5
    while len(values) < count and monotonic() < deadline:
        got = await reader.read(rows_max=1_000, linger_s=LINGER_S)
        assert not got.rejects
        column = measured(got)
        values += column.tolist()
        if ack:
            await got.ack()
    assert len(values) == count
    return values


async def nothing(reader: Reader, world: World) -> None:
    """There is nothing to read now."""
    if world.ends:
        with pytest.raises(EndOfInput):
            await reader.read(rows_max=10, linger_s=LINGER_S)
    else:
        got = await reader.read(rows_max=10, linger_s=LINGER_S)
        assert (len(got.batch), got.rejects) == (0, ())


class Conformance:
    """The suite."""

    async def test_readings_come_in_order_and_whole(self, world: World) -> None:
        await world.offer(5)
        reader = world.reader()
        await reader.connect()
        got = await reader.read(rows_max=1_000, linger_s=1)
        column = measured(got)
        assert len(got.batch) == len(got.batch.time) == len(got.batch.codes) == len(column)
        assert (got.batch.time > 0).all()
        assert all(got.batch.keys)
        await got.ack()
        rest = await read_all(reader, 5 - len(got.batch))
        assert column.tolist() + rest == [1, 2, 3, 4, 5]
        await reader.close()

    async def test_what_was_not_acknowledged_comes_again(self, world: World) -> None:
        await world.offer(3)
        reader = world.reader()
        await reader.connect()
        assert await read_all(reader, 3, ack=False) == [1, 2, 3]
        await reader.close()
        reader = world.reader()
        await reader.connect()
        assert await read_all(reader, 3) == [1, 2, 3]
        await reader.close()

    async def test_what_was_acknowledged_does_not(self, world: World) -> None:
        await world.offer(3)
        reader = world.reader()
        await reader.connect()
        assert await read_all(reader, 3) == [1, 2, 3]
        await reader.close()
        await world.offer(2)
        reader = world.reader()
        await reader.connect()
        assert await read_all(reader, 2) == [4, 5]
        await nothing(reader, world)
        await reader.close()

    async def test_acknowledging_some(self, world: World) -> None:
        await world.offer(5)
        reader = world.reader()
        await reader.connect()
        first = await reader.read(rows_max=2, linger_s=1)
        assert 1 <= len(first.batch) <= 2
        await reader.read(rows_max=2, linger_s=1)
        await first.ack()
        await reader.close()
        reader = world.reader()
        await reader.connect()
        values = await read_all(reader, 5 - len(first.batch))
        assert values == list(range(1 + len(first.batch), 6))
        await reader.close()

    async def test_silence_or_the_end(self, world: World) -> None:
        await world.offer(1)
        reader = world.reader()
        await reader.connect()
        await read_all(reader, 1)
        start = monotonic()
        await nothing(reader, world)
        await nothing(reader, world)
        assert monotonic() - start < 10 * LINGER_S
        await reader.close()

    async def test_what_is_unusable_is_a_dead_letter_and_acknowledged_like_a_reading(self, world: World) -> None:
        if world.offer_bad is None:
            return  # everything that this source gives is usable
        await world.offer(1)
        origin = await world.offer_bad()
        await world.offer(1)
        reader = world.reader()
        await reader.connect()
        reads: list[Read] = []
        while sum(len(r.batch) + len(r.rejects) for r in reads) < 3:
            reads.append(await reader.read(rows_max=1_000, linger_s=LINGER_S))
        values = [v for r in reads for v in measured(r).tolist()]
        (letter,) = (letter for r in reads for letter in r.rejects)
        assert values == [1, 2]
        assert letter.origin == origin
        assert letter.message.startswith(origin)
        assert letter.payload
        assert letter.reason.isidentifier()
        for read in reads:
            await read.ack()
        await reader.close()
        reader = world.reader()
        await reader.connect()
        await nothing(reader, world)
        await reader.close()

    async def test_a_device_that_talks_nonsense_does_not_stop_the_others(self, world: World) -> None:
        if world.offer_bad is None:
            return
        for _ in range(5):
            await world.offer_bad()
            await world.offer(2)
        reader = world.reader()
        await reader.connect()
        values: list[float] = []
        letters = 0
        deadline = monotonic() + 5
        while len(values) + letters < 15 and monotonic() < deadline:
            got = await reader.read(rows_max=4, linger_s=LINGER_S)
            values += measured(got).tolist()
            letters += len(got.rejects)
            await got.ack()
        assert (values, letters) == ([float(i) for i in range(1, 11)], 5)
        await reader.close()

    async def test_reading_before_connecting(self, world: World) -> None:
        with pytest.raises(NotConnected, match=r"connected|open"):
            await world.reader().read(rows_max=1, linger_s=LINGER_S)

    async def test_closing_never_raises(self, world: World) -> None:
        reader = world.reader()
        await reader.close()
        await world.offer(1)
        await reader.connect()
        got = await reader.read(rows_max=1, linger_s=LINGER_S)
        await reader.close()
        await reader.close()
        await got.ack()
