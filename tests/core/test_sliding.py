"""Sliding windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import sliding
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Sliding
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
from tests.core.programs import Stats, windowed

SLIDINGS = [sliding("3s", late="0s"), sliding("10s", late="5s"), sliding("500ms", late="60s")]


@pytest.mark.parametrize("over", SLIDINGS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(over: Sliding, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.sliding(frames, over)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("over", SLIDINGS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Sliding, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)


def test_rows_older_than_what_the_end_emitted_are_late_and_others_see_what_was_before() -> None:
    def rows(*seconds: int) -> list[reference.Reading]:
        return [reference.Reading("a", s * SECOND, 1.0, 1) for s in seconds]

    task = Task(windowed(sliding("10s", late="60s"))[0].plan())
    (first,) = task.process({"reading": [frame(rows(3, 9), 9 * SECOND), END]})
    assert first.batch[Stats.n].tolist() == [1, 2]
    out = {e.step: e.batch for e in task.process({"reading": [frame(rows(8, 9, 14), 14 * SECOND), END]})}
    assert out["stats"][Stats.n].tolist() == [3, 3]
    assert out["stats-late"].time.tolist() == [8 * SECOND]


def test_a_reading_is_told_when_the_watermark_has_reached_it() -> None:
    task = Task(windowed(sliding("10s", late="2s"))[0].plan())

    def told(seconds: int) -> list[int]:
        out = task.process({"reading": [frame([reference.Reading("a", seconds * SECOND, 1.0, 1)], seconds * SECOND)]})
        return [t // SECOND for e in out for t in e.batch.time.tolist()]

    assert [told(t) for t in (5, 6, 7, 20)] == [[], [], [5], [6, 7]]
