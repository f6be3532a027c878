"""Windows by a clock of each key, against the slow reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Pipeline, Schema, agg, calendar, hopping, tumbling
from pipelines.batch import TIME_MIN
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Window
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
from tests.core.programs import Feed, Reading, Shelf, windowed

WINDOWS = [
    tumbling("10s", late="0s").key_clock(idle="20s"),
    tumbling("5s", late="7s", offset="2s").key_clock(idle="1h"),
    hopping("10s", every="4s", late="3s").key_clock(idle="5s"),
    hopping("6s", every="2s", late="0s").key_clock(idle="15s"),
]


def rows(device: str, *seconds: float) -> list[reference.Reading]:
    return [reference.Reading(device, int(s * SECOND), 1.0, 1) for s in seconds]


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(over: Window, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.key_clock(frames, over)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Window, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)


def test_a_day_of_backlog_is_not_late_and_holds_nobody_up() -> None:
    plan = windowed(tumbling("1m", late="5s").key_clock(idle="1h"))[0].plan()
    task, day = Task(plan), 86_400
    task.process({"reading": [frame(rows("a", day) + rows("b", 0), day * SECOND)]})
    out = task.process({"reading": [frame(rows("b", *range(1, day, 30)), day * SECOND)]})
    assert sum(len(e.batch) for e in out if e.step == "stats") == day // 60 - 1  # the last minute is open
    out = task.process({"reading": [frame(rows("a", day + 70), (day + 70) * SECOND)]})
    assert [(e.batch.keys, e.batch.time.tolist()) for e in out] == [(["a"], [(day + 60) * SECOND - 1])]
    assert task.take_late_rows() == {"stats": 0}
    assert task.windows_open < 20


def test_the_windows_of_a_silent_key_close_by_heartbeats() -> None:
    task = Task(windowed(tumbling("10s", late="0s").key_clock(idle="30s"))[0].plan())
    task.process({"reading": [frame(rows("a", 3), 3 * SECOND)]})
    assert task.process({"reading": [frame([], 32 * SECOND)]}) == []
    (out,) = task.process({"reading": [frame([], 33 * SECOND)]})
    assert out.batch.time.tolist() == [10 * SECOND - 1]
    assert [e.step for e in task.process({"reading": [frame(rows("a", 4), 33 * SECOND)]})] == ["stats-late"]


def test_results_of_keys_that_keep_up_are_not_late_for_the_next_window() -> None:
    class Minutes(Schema):
        n = agg.count()

    class Hours(Schema):
        n = agg.sum(Minutes.n)

    program = Pipeline("test")
    minutes = program.read(Feed(Reading, "reading")).window(tumbling("1m", late="0s").key_clock(idle="10m"), Minutes)
    hours = minutes.window(tumbling("1h", late="0s"), Hours)
    hours.to(Shelf())
    hours.late.to(Shelf())
    task, out = Task(program.plan()), []
    for t in range(0, 8000, 10):  # b reports every two minutes
        some = rows("a", t) + (rows("b", t) if t % 120 == 0 else [])
        out += task.process({"reading": [frame(some, t * SECOND)]})
    out += task.process({"reading": [frame(rows("c", 100), 8000 * SECOND), END]})
    counts = {}
    for e in out:
        for key, time, n in zip(
            e.batch.keys,
            e.batch.time.tolist(),
            e.batch.columns[f"{'Minutes' if 'late' in e.step else 'Hours'}.n"].tolist(),
            strict=True,
        ):
            counts[e.step, key, time // (3600 * SECOND)] = n
    assert counts == {
        ("hours", "a", 0): 360, ("hours", "a", 1): 360, ("hours", "a", 2): 80,
        ("hours", "b", 0): 30, ("hours", "b", 1): 30, ("hours", "b", 2): 7,
        ("hours-late", "c", 0): 1,
    }  # fmt: skip


def test_before_any_watermark_nothing_is_silent() -> None:
    task = Task(windowed(calendar("day", tz="UTC", late="0s").key_clock(idle="1s"))[0].plan())
    for watermark in (TIME_MIN, 4 * SECOND):
        assert task.process({"reading": [frame(rows("a", 3) if watermark < 0 else [], watermark)]}) == []
    assert len(task.process({"reading": [frame([], 5 * SECOND)]})) == 1


def test_a_backlog_in_one_frame_needs_little_memory_however_many_keys_there_are() -> None:
    keys = [reference.Reading(f"d{i}", 86_400 * SECOND, 1.0, 1) for i in range(5000)]
    task = Task(windowed(tumbling("1m", late="0s").key_clock(idle="1h"))[0].plan(), state_bytes_max=2**27)
    task.process({"reading": [frame(keys, 86_400 * SECOND)]})
    out = task.process({"reading": [frame(rows("back", *range(0, 86_000, 60)), 86_400 * SECOND)]})
    assert sum(len(e.batch) for e in out) == 86_000 // 60
