"""The buffer of readers whose devices push."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from connectors.buffer import Buffer
from pipelines.clock import ManualClock


def dropped(stream: str, reason: str) -> float:
    labels = {"site": "s", "stream": stream, "reason": reason}
    return REGISTRY.get_sample_value("sitestream_collect_dropped_rows_total", labels) or 0.0


def buffer(stream: str = "b", rows_max: int = 10, bytes_max: int = 1000) -> Buffer[str]:
    return Buffer("s", stream, ManualClock(), rows_max=rows_max, bytes_max=bytes_max)


async def test_items_come_in_order_up_to_so_many_rows() -> None:
    made = buffer()
    for item, rows in (("a", 1), ("b", 2), ("c", 3), ("d", 1)):
        made.put(item, rows=rows, nbytes=10)
    assert (len(made), made.rows, made.nbytes) == (4, 7, 40)
    assert await made.get(3, 0.01) == ["a", "b"]
    assert await made.get(2, 0.01) == ["c"]  # it has more rows than that, so it comes alone
    assert await made.get(9, 0.01) == ["d"]
    assert await made.get(9, 0.01) == []
    assert (made.rows, made.nbytes, made.dropped) == (0, 0, 0)


@pytest.mark.parametrize(("rows", "nbytes", "reason"), [(4, 0, "rows"), (1, 400, "bytes")])
async def test_at_a_limit_the_oldest_go_are_counted_and_told_once_a_minute(
    rows: int, nbytes: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(10**18)
    made: Buffer[int] = Buffer("s", f"full-{reason}", clock, rows_max=10, bytes_max=1000)
    with caplog.at_level(logging.WARNING):
        for i in range(7):
            made.put(i, rows=rows, nbytes=nbytes)
        clock.advance(61)
        made.put(7, rows=rows, nbytes=nbytes)
    assert await made.get(100, 0) == [6, 7]
    assert made.dropped == 6 * rows == dropped(f"full-{reason}", reason)
    assert [r.getMessage().split(":")[1].split()[0] for r in caplog.records] == [str(rows), str(5 * rows)]
    assert caplog.records[0].getMessage().endswith(f"(limit: {reason})")


async def test_an_item_beyond_the_limits_is_dropped_itself() -> None:
    made = buffer("huge")
    made.put("a", rows=11)
    assert (len(made), made.rows, dropped("huge", "rows")) == (0, 0, 11)


async def test_it_waits_for_the_first_and_as_long_again_for_more() -> None:
    made, loop = buffer(), asyncio.get_running_loop()
    loop.call_later(0.02, made.put, "a")
    loop.call_later(0.04, made.put, "b")
    assert await made.get(2, 5) == ["a", "b"]
    start = loop.time()
    loop.call_later(0.02, made.put, "c")
    assert await made.get(2, 0.1) == ["c"]
    assert 0.1 < loop.time() - start < 0.5


async def test_a_broken_link_ends_the_waiting() -> None:
    made, loop = buffer(), asyncio.get_running_loop()
    start = loop.time()
    loop.call_later(0.02, made.wake)
    assert await made.get(2, 5) == []
    assert loop.time() - start < 1
    made.put("a")
    made.clear()
    assert (len(made), made.rows, made.nbytes) == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=60), st.integers(1, 10))
def test_it_never_exceeds_its_limits_and_keeps_the_newest(items: list[tuple[int, int]], rows_max: int) -> None:
    made: Buffer[int] = Buffer("s", "any", ManualClock(), rows_max=rows_max, bytes_max=100)
    for i, (rows, nbytes) in enumerate(items):
        made.put(i, rows=rows, nbytes=nbytes)
        assert made.rows <= rows_max
        assert made.nbytes <= 100
    kept = [item for item, _, _ in made._items]
    assert kept == list(range(len(items) - len(kept), len(items)))
    oldest = len(items) - len(kept) - 1
    if oldest >= 0:  # it had to go
        too_many = sum(r for r, _ in items[oldest:]) > rows_max or sum(b for _, b in items[oldest:]) > 100
        assert too_many
