"""Count windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import count
from pipelines.testing import run
from pipelines.windows import Count
from tests.core import reference
from tests.core.grouping import assert_grouping_changes_no_bit, assert_results, batch, frames
from tests.core.programs import windowed

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
