"""Readings as hypothesis makes them, and tasks that get them in any grouping into calls, with restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st

from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch
from pipelines.plan import Plan
from pipelines.task import Task
from pipelines.wire import Frame, FrameInfo
from tests.core import reference
from tests.core.programs import Reading, Stats

SECOND = 10**9
finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-30 else x)
readings = st.builds(
    reference.Reading,
    st.sampled_from("abc"),
    st.integers(-50, 100).map(lambda s: s * SECOND // 2),
    st.one_of(finite, st.just(math.nan)),
    st.integers(-(2**40), 2**40),
)
frames = st.lists(st.lists(readings, min_size=1, max_size=8), min_size=1, max_size=8)


def batch(rows: Sequence[reference.Reading]) -> Batch:
    """Readings as a batch."""
    return Reading.batch(
        device=[r.device for r in rows], time=[r.time for r in rows], x=[r.x for r in rows], k=[r.k for r in rows]
    )


def frame(rows: Sequence[reference.Reading], watermark: int) -> Frame:
    """A frame of one source."""
    return Frame(FrameInfo("one", watermark, len(rows)), batch(rows))


END = frame([], TIME_MAX)


def results(plan: Plan, wire: Sequence[Frame], groups: Sequence[int], *, restart: bool) -> list[tuple[str, ...]]:
    """All rows that come out, when the frames go in by groups; with `restart` a new task goes on after each.

    On the way: no row is older than the watermark that its step gave out before, but for late ones.
    """
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


def assert_grouping_changes_no_bit(
    plan: Plan, given: Sequence[Sequence[reference.Reading]], data: st.DataObject, *, ends: bool = True
) -> None:
    """Frames one by one, in groups, and in groups with restarts give the same; heartbeats and ends among them."""
    newest, wire = TIME_MIN, []
    for f in given:
        newest = max(newest, *(r.time for r in f))
        wire.append(frame(f, newest))
        if data.draw(st.integers(0, 4)) == 0:
            newest += data.draw(st.integers(0, 30)) * SECOND
            wire.append(frame([], newest))
        if ends and data.draw(st.integers(0, 4)) == 0:
            wire.append(END)  # all inputs end, and the next frame finds them started again
    wire.append(END)
    groups, left = [], len(wire)
    while left:
        groups.append(data.draw(st.integers(1, left)))
        left -= groups[-1]
    one_by_one = results(plan, wire, [1] * len(wire), restart=False)
    assert results(plan, wire, groups, restart=False) == one_by_one
    assert results(plan, wire, groups, restart=True) == one_by_one


def assert_results(found: Batch, expected: Sequence[reference.Result]) -> None:
    """Rows of `Stats` against the reference, NaN, rounding and the error of quantiles allowed for."""
    names = list(Stats.columns())
    columns = [found.columns[f"Stats.{n}"].tolist() for n in names]
    rows = list(zip(found.keys, found.columns[WINDOW_START].tolist(), found.time.tolist(), *columns, strict=True))
    rows.sort(key=lambda row: row[:4])  # stable: of equal ones in the order in which they came
    wanted = sorted(expected, key=lambda r: (r.device, r.start, r.time, len(r.readings)))
    assert [row[:4] for row in rows] == [(r.device, r.start, r.time, len(r.readings)) for r in wanted]
    for row, r in zip(rows, wanted, strict=True):
        got = dict(zip(names, row[3:], strict=True))
        for name, value in reference.stats(r.readings).items():
            tolerance = 0.0101 * abs(value) if name == "median" else 1e-9 * 1e6
            assert got[name] == pytest.approx(value, abs=max(tolerance, 1e-9), rel=1e-9, nan_ok=True), (r, name)


def assert_late(found: Batch, expected: Sequence[reference.Reading]) -> None:
    """Late rows against the reference."""
    assert sorted(zip(found.keys, found.time.tolist(), strict=True)) == sorted((r.device, r.time) for r in expected)
