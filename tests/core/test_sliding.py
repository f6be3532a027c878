"""Sliding windows against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import sliding
from pipelines.testing import run
from pipelines.windows import Sliding
from tests.core import reference
from tests.core.grouping import assert_grouping_changes_no_bit, assert_late, assert_results, batch, frames
from tests.core.programs import windowed

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
