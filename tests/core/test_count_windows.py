"""Count windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Schema, agg, count, tumbling
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Count
from tests.core import reference
from tests.core.grouping import SECOND, assert_grouping_changes_no_bit, assert_results, batch, frame, frames
from tests.core.programs import Shelf, Stats, windowed

COUNTS = [count(3), count(1), count(4, every=2), count(5, every=3), count(6, every=1)]


@pytest.mark.parametrize("over", COUNTS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_results_are_those_of_the_reference(over: Count, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, _ = reference.counts(frames, over)
    assert_results(out[stats], kept)


@pytest.mark.parametrize("over", COUNTS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Count, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)


class Sum(Schema):
    n = agg.sum(Stats.n)


@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_whether_a_result_is_late_for_the_next_window_its_last_reading_says(
    frames: reference.Frames, data: st.DataObject
) -> None:
    program, _, stats = windowed(count(3, every=2))
    sums = stats.window(tumbling("5s", late="1s"), Sum)
    sums.to(Shelf())
    sums.late.to(Shelf())
    assert_grouping_changes_no_bit(program.plan(), frames, data)


def test_a_result_of_late_readings_is_late() -> None:
    program, _, stats = windowed(count(2))
    sums = stats.window(tumbling("10s", late="0s"), Sum)
    sums.to(Shelf())
    sums.late.to(Shelf())
    a, b = reference.Reading("a", SECOND, 1.0, 1), reference.Reading("b", 99 * SECOND, 1.0, 1)
    out = Task(program.plan()).process(
        {"reading": [frame([a], SECOND), frame([b], 99 * SECOND), frame([a], 99 * SECOND)]}
    )
    assert [e.step for e in out] == ["stats", "sum-late"]
