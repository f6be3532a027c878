"""Windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Pipeline, Schema, agg, hopping, tumbling
from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch
from pipelines.errors import LimitExceeded
from pipelines.plan import Plan
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Window
from pipelines.wire import Frame, FrameInfo
from tests.core import reference
from tests.core.programs import Feed, Reading, Shelf, Stats, windowed

SECOND = 10**9
WINDOWS = [
    tumbling("10s", late="0s"),
    tumbling("10s", late="7s"),
    hopping("10s", every="5s", late="3s"),
    hopping("10s", every="4s", late="0s"),
    hopping("7s", every="3s", late="20s"),
]
finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-30 else x)
readings = st.builds(
    reference.Reading,
    st.sampled_from("abc"),
    st.integers(-50, 100).map(lambda s: s * SECOND // 2),
    st.one_of(finite, st.just(math.nan)),
    st.integers(-(2**40), 2**40),
)
frames = st.lists(st.lists(readings, min_size=1, max_size=8), min_size=1, max_size=8)


END = Frame(FrameInfo("one", TIME_MAX), Reading.batch(device=[], time=[], x=[], k=[]))


def batch(rows: list[reference.Reading]) -> Batch:
    return Reading.batch(
        device=[r.device for r in rows], time=[r.time for r in rows], x=[r.x for r in rows], k=[r.k for r in rows]
    )


def table(b: Batch) -> dict[tuple[str, int], dict[str, float]]:
    names = list(Stats.columns())
    rows = zip(
        b.keys, b.columns[WINDOW_START].tolist(), *(b.columns[f"Stats.{n}"].tolist() for n in names), strict=True
    )
    found = {(device, start): dict(zip(names, values, strict=True)) for device, start, *values in rows}
    assert len(found) == len(b), "a window was emitted twice"
    return found


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(frames=frames)
@settings(max_examples=60, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(
    window: Window, frames: list[list[reference.Reading]]
) -> None:
    program, source, stats = windowed(window)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.windows(frames, window)
    found = table(out[stats])
    assert found.keys() == kept.keys()
    for where, rows in kept.items():
        for name, value in reference.stats(rows).items():
            tolerance = 0.0101 * abs(value) if name == "median" else 1e-9 * 1e6
            assert found[where][name] == pytest.approx(value, abs=max(tolerance, 1e-9), rel=1e-9, nan_ok=True), (
                where,
                name,
            )
    gone = out[stats.late]
    assert sorted(zip(gone.keys, gone.time.tolist(), strict=True)) == sorted((r.device, r.time) for r in late)


def results(plan: Plan, wire: list[Frame], groups: list[int], *, restart: bool) -> list[tuple[str, ...]]:
    """All rows that come out, when the frames go in by groups; with `restart` a new task goes on after each."""
    task, at, out = Task(plan), 0, []
    for size in groups:
        emitted = task.process({"reading": wire[at : at + size]})
        at += size
        for e in emitted:
            columns = [e.batch.columns[c].tolist() for c in sorted(e.batch.columns)]
            out += [
                (e.step, *map(repr, row)) for row in zip(e.batch.keys, e.batch.time.tolist(), *columns, strict=True)
            ]
        if restart:
            saved, task = task.snapshot(), Task(plan)
            task.restore(saved)
    return sorted(out)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=60, deadline=None)
def test_grouping_and_restarts_change_no_bit(
    window: Window, frames: list[list[reference.Reading]], data: st.DataObject
) -> None:
    plan = windowed(window)[0].plan()
    newest, wire = TIME_MIN, []
    for f in frames:
        newest = max(newest, *(r.time for r in f))
        wire.append(Frame(FrameInfo("one", newest, len(f)), batch(f)))
        if data.draw(st.integers(0, 4)) == 0:
            wire.append(END)  # all inputs end, and the next frame finds them started again
    wire.append(END)

    groups, left = [], len(wire)
    while left:
        groups.append(data.draw(st.integers(1, left)))
        left -= groups[-1]
    one_by_one = results(plan, wire, [1] * len(wire), restart=False)
    assert results(plan, wire, groups, restart=False) == one_by_one
    assert results(plan, wire, groups, restart=True) == one_by_one


class Level(Schema):
    mean = agg.mean(Reading.x)


class Gap(Schema):
    gap = Reading.x - Level.mean


class Gaps(Schema):
    n = agg.count()
    total = agg.sum(Gap.gap)


@given(frames=frames, data=st.data())
@settings(max_examples=100, deadline=None)
def test_grouping_and_restarts_change_no_bit_behind_a_join(
    frames: list[list[reference.Reading]], data: st.DataObject
) -> None:
    program = Pipeline("test")
    source = program.read(Feed(Reading, "reading"))
    level = source.window(hopping("10s", every="5s", late="2s"), Level)
    gaps = source.join(level.latest(), how="left").select(Gap).window(tumbling("10s", late="3s"), Gaps)
    gaps.to(Shelf())
    gaps.late.to(Shelf())
    newest, wire = TIME_MIN, []
    for f in frames:
        newest = max(newest, *(r.time for r in f))
        wire += [Frame(FrameInfo("one", newest, len(f)), batch(f))] + [END] * (data.draw(st.integers(0, 4)) == 0)
    plan, size = program.plan(), data.draw(st.integers(1, len(wire)))
    groups = [size] * (len(wire) // size) + [len(wire) % size]
    one_by_one = results(plan, wire, [1] * len(wire), restart=False)
    assert results(plan, wire, groups, restart=False) == one_by_one
    assert results(plan, wire, groups, restart=True) == one_by_one


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
    slices = np.arange(3600) * SECOND
    assert window.closing(slices, 3599 * SECOND, 3600 * SECOND).tolist() == [3600 * SECOND]
    assert len(window.closing(slices[:1], TIME_MIN, TIME_MAX)) == 3600


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
