"""The watermark of a partition with several writers."""

from __future__ import annotations

from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.watermark import IDLE_NS, SOURCES_MAX, WatermarkTracker


def test_it_is_the_minimum_of_the_sources_and_never_goes_back() -> None:
    t = WatermarkTracker()
    assert [t.advance("a", 10), t.advance("b", 5), t.advance("b", 20), t.advance("a", 8)] == [10, 10, 10, 10]
    assert t.advance("a", 15) == 15


def test_a_source_far_behind_is_left_out_until_it_returns() -> None:
    t = WatermarkTracker()
    t.advance("slow", 0)
    assert t.advance("fast", IDLE_NS) == 0
    assert t.advance("fast", IDLE_NS + 1) == IDLE_NS + 1
    t.advance("slow", IDLE_NS + 1)
    assert t.advance("fast", IDLE_NS + 50) == IDLE_NS + 1


def test_when_all_have_ended_it_is_the_end_once() -> None:
    t = WatermarkTracker()
    t.advance("a", 3)
    t.advance("b", 5)
    assert t.advance("a", TIME_MAX) == 5
    assert t.advance("b", TIME_MAX) == TIME_MAX
    assert t.current == 5
    assert t.advance("a", 7) == 7


def test_a_heartbeat_that_knows_nothing_changes_nothing() -> None:
    t = WatermarkTracker()
    assert t.advance("a", TIME_MIN) == TIME_MIN
    assert t.advance("b", 4) == 4


def test_endlessly_many_sources_do_not_fill_the_memory() -> None:
    t = WatermarkTracker()
    for i in range(SOURCES_MAX + 50):
        t.advance(f"s{i}", i)
    assert len(t.sources) == SOURCES_MAX
