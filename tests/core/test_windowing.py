"""Windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Pipeline, Schema, agg, count, hopping, session, sliding, tumbling
from pipelines.batch import TIME_MAX, WINDOW_START
from pipelines.errors import LimitExceeded
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Count, Over, Window
from pipelines.wire import Frame, FrameInfo
from tests.core import reference
from tests.core.grouping import (
    END,
    SECOND,
    assert_grouping_changes_no_bit,
    assert_late,
    assert_results,
    batch,
    frame,
    frames,
)
from tests.core.programs import Feed, Reading, Shelf, Stats, windowed

WINDOWS = [
    tumbling("10s", late="0s"),
    tumbling("10s", late="7s"),
    hopping("10s", every="5s", late="3s"),
    hopping("10s", every="4s", late="0s"),
    hopping("7s", every="3s", late="20s"),
    tumbling("10s", late="2s", offset="3s"),
    hopping("30s", every="1s", late="4s"),
    hopping("10s", every="4s", late="1s", offset="1s"),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(
    window: Window, frames: list[list[reference.Reading]]
) -> None:
    program, source, stats = windowed(window)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.windows(frames, window)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(
    window: Window, frames: list[list[reference.Reading]], data: st.DataObject
) -> None:
    assert_grouping_changes_no_bit(windowed(window)[0].plan(), frames, data)


class Level(Schema):
    mean = agg.mean(Reading.x)


class Gap(Schema):
    gap = Reading.x - Level.mean


class Gaps(Schema):
    n = agg.count()
    total = agg.sum(Gap.gap)


@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit_behind_a_join(
    frames: list[list[reference.Reading]], data: st.DataObject
) -> None:
    program = Pipeline("test")
    source = program.read(Feed(Reading, "reading"))
    level = source.window(hopping("10s", every="5s", late="2s"), Level)
    gaps = source.join(level.latest(), how="left").select(Gap).window(tumbling("10s", late="3s"), Gaps)
    gaps.to(Shelf())
    gaps.late.to(Shelf())
    assert_grouping_changes_no_bit(program.plan(), frames, data)


class Sum(Schema):
    n = agg.sum(Stats.n)


@pytest.mark.parametrize("over", [*WINDOWS[:4], session("3s", late="2s"), sliding("4s", late="1s")], ids=str)
@given(frames=frames)
@settings(max_examples=30, deadline=None)
def test_results_are_never_late_for_the_next_window(over: Over, frames: list[list[reference.Reading]]) -> None:
    program, source, stats = windowed(over)
    sums = stats.window(tumbling("1s", late="0s"), Sum)
    out = run(program, {source: [batch(f) for f in frames]})
    assert out[sums][Sum.n].sum() == out[stats][Stats.n].sum()


OVERS = [*WINDOWS[:4], session("3s", late="2s"), sliding("4s", late="1s"), count(2)]


@pytest.mark.parametrize("over", OVERS, ids=str)
def test_windows_of_silent_keys_and_partitions_close_by_heartbeats_and_by_the_end(over: Over) -> None:
    plan = windowed(over)[0].plan()
    rows = [reference.Reading("a", SECOND, 1.0, 1), reference.Reading("b", 2 * SECOND, 1.0, 1)]
    beat, end = frame([], 500 * SECOND), END
    for last in [end] if isinstance(over, Count) else [beat, end]:
        task = Task(plan)
        first = sum(e.batch[Stats.n].sum() for e in task.process({"reading": [frame(rows, 2 * SECOND)]}))
        rest = task.process({"reading": [last]})
        assert first + sum(e.batch[Stats.n].sum() for e in rest) >= 2
        assert {k for e in rest for k in e.batch.keys} >= ({"b"} if first else {"a", "b"})
        assert task.windows_open == 0
        assert task.process({"reading": [last]}) == []


@pytest.mark.parametrize("over", OVERS, ids=str)
def test_state_does_not_grow_with_the_stream(over: Over) -> None:
    task, sizes = Task(windowed(over)[0].plan()), []
    for t in range(0, 3000, 7):
        rows = [reference.Reading(f"d{i}", t * SECOND, 1.0, 1) for i in range(20)]
        task.process({"reading": [frame(rows, t * SECOND)]})
        sizes.append(task.state_bytes)
    assert max(sizes[100:]) == max(sizes[:100])


def test_rows_after_the_end_are_late_for_what_it_closed_never_lost() -> None:
    plan = windowed(tumbling("1h", late="0s"))[0].plan()
    rows = [
        Frame(FrameInfo("one", t * SECOND, 1), batch([reference.Reading("a", t * SECOND, 1.0, 1)])) for t in range(50)
    ]
    task, out = Task(plan), []
    for call in (rows[:10], [END], rows[10:], [END]):
        out += task.process({"reading": call})
    assert [(e.step, len(e.batch)) for e in out] == [("stats", 1), ("stats-late", 40)]
    assert out[0].batch[Stats.n].tolist() == [10]


def test_a_backlog_in_one_call_needs_no_more_memory_than_frame_by_frame() -> None:
    plan = windowed(tumbling("1s", late="0s"))[0].plan()
    keys = [reference.Reading(f"d{i}", 0, 1.0, 1) for i in range(5000)]
    backlog = [Frame(FrameInfo("one", 0, 5000), batch(keys))]
    backlog += [
        Frame(FrameInfo("one", t * SECOND, 1), batch([reference.Reading("d1", t * SECOND, 1.0, 1)]))
        for t in range(1, 600)
    ]
    task = Task(plan, state_bytes_max=2**24)
    assert sum(len(e.batch) for e in task.process({"reading": backlog})) == 5000 + 598


def test_one_frame_with_too_many_windows_is_refused_before_the_memory_is_taken() -> None:
    task = Task(windowed(tumbling("1s", late="0s"))[0].plan())
    rows = [reference.Reading(f"d{i % 1000}", i * SECOND, 1.0, 1) for i in range(20_000)]
    with pytest.raises(LimitExceeded, match=r"open windows and keys need .* most of it in step 'stats'"):
        task.process({"reading": [Frame(FrameInfo("one", 0, len(rows)), batch(rows))]})


def test_a_long_window_that_hops_often_closes_quickly() -> None:
    window = hopping("1h", every="1s", late="0s")
    assert window.closing(np.arange(3600), 3599, 3600).tolist() == [3600]
    assert len(window.closing(np.arange(1), -(10**9), 10**9)) == 3600


def test_windows_close_as_the_watermark_passes_not_before() -> None:
    program, source, stats = windowed(tumbling("10s", late="5s"))
    rows = [reference.Reading("a", t * SECOND, 1.0, 1) for t in (1, 14, 15)]
    assert len(run(program, {source: [batch([r]) for r in rows[:2]]}, end=False)[stats]) == 0
    assert len(run(program, {source: [batch([r]) for r in rows]}, end=False)[stats]) == 1


def test_a_row_of_a_window_lies_in_its_last_nanosecond() -> None:
    program, source, stats = windowed(tumbling("10s", late="0s"))
    out = run(program, {source: batch([reference.Reading("a", 12 * SECOND, 1.0, 1)])})[stats]
    assert out.columns[WINDOW_START].tolist() == [10 * SECOND]
    assert out.time.tolist() == [20 * SECOND - 1]


def test_spread_is_stable_far_from_zero() -> None:
    program, source, stats = windowed(hopping("20s", every="10s", late="0s"))
    x = 1e9 + np.random.default_rng(7).normal(0, 1e-2, 1000)
    b = Reading.batch(device=["a"] * 1000, time=np.arange(1000) * SECOND // 50, x=x, k=[0] * 1000)
    out = run(program, {source: b})[stats]
    whole = out.take(out.columns[WINDOW_START] == 0)
    assert whole[Stats.std][0] == pytest.approx(np.std(x - 1e9), rel=1e-4)


def test_a_source_that_ended_and_starts_again_goes_on_from_where_it_stood() -> None:
    plan = windowed(tumbling("10s", late="0s"))[0].plan()
    task = Task(plan)

    def frame(t: int) -> Frame:
        return Frame(FrameInfo("one", t * SECOND, 1), batch([reference.Reading("a", t * SECOND, 1.0, 1)]))

    end = Frame(FrameInfo("one", TIME_MAX), batch([]))
    first = task.process({"reading": [frame(3), end]})
    second = task.process({"reading": [frame(12), end]})
    late = task.process({"reading": [frame(4)]})
    assert [e.batch.columns[WINDOW_START].tolist() for e in first + second] == [[0], [10 * SECOND]]
    assert [e.step for e in late] == ["stats-late"]
