"""Sessions against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import session
from pipelines.batch import WINDOW_START
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Session
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
from tests.core.programs import windowed

SESSIONS = [session("3s", late="0s"), session("2s", late="5s"), session("500ms", late="2s"), session("7s", late="60s")]


@pytest.mark.parametrize("over", SESSIONS, ids=str)
@given(frames=frames)
@settings(max_examples=80, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(over: Session, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.sessions(frames, over)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("over", SESSIONS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=80, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Session, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)


def rows(device: str, *seconds: float) -> list[reference.Reading]:
    return [reference.Reading(device, int(s * SECOND), 1.0, 1) for s in seconds]


def test_a_session_is_told_as_soon_as_the_watermark_is_past_its_gap() -> None:
    task = Task(windowed(session("10s", late="5s"))[0].plan())

    def told(watermark: float, *seconds: float) -> list[list[int]]:
        out = task.process({"reading": [frame(rows("a", *seconds), int(watermark * SECOND))]})
        return [[t // SECOND for t in (*e.batch.columns[WINDOW_START].tolist(), *e.batch.time.tolist())] for e in out]

    assert told(9, 3, 9) == []
    assert told(24, 12) == []
    assert told(27) == []
    assert told(27.5) == [[3, 12]]
    assert told(39, 24) == []
    assert told(40, 34.5) == [[24, 24]]
    assert told(49.4) == []
    assert told(50) == [[34, 34]]


def test_a_session_without_end_needs_no_more_memory() -> None:
    task, sizes = Task(windowed(session("10s", late="0s"))[0].plan()), []
    for t in range(0, 5000, 3):
        assert task.process({"reading": [frame(rows("a", t), t * SECOND)]}) == []
        sizes.append(task.state_bytes)
    assert max(sizes[100:]) == max(sizes[:100])


def test_a_backlog_in_one_call_needs_no_more_memory_than_frame_by_frame() -> None:
    keys = [reference.Reading(f"d{i}", 0, 1.0, 1) for i in range(5000)]
    backlog = [frame(keys, 0), *(frame(rows("d1", t), t * SECOND) for t in range(5, 3000, 5))]
    task = Task(windowed(session("1s", late="0s"))[0].plan(), state_bytes_max=2**24)
    assert sum(len(e.batch) for e in task.process({"reading": backlog})) == 5000 + 598


def test_rows_older_than_what_the_end_closed_are_late() -> None:
    task = Task(windowed(session("10s", late="60s"))[0].plan())
    out = task.process({"reading": [frame(rows("a", 3, 9), 9 * SECOND), END]})
    assert [e.step for e in out] == ["stats"]
    out = task.process({"reading": [frame(rows("a", 8, 9, 12), 12 * SECOND), END]})
    assert {e.step: [t // SECOND for t in e.batch.time.tolist()] for e in out} == {"stats": [12], "stats-late": [8]}
