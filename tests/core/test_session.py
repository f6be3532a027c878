"""Sessions against the slow reference: any order, any grouping into frames and calls, restarts at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import session
from pipelines.testing import run
from pipelines.windows import Session
from tests.core import reference
from tests.core.grouping import assert_grouping_changes_no_bit, assert_late, assert_results, batch, frames
from tests.core.programs import windowed

SESSIONS = [session("3s", late="0s"), session("2s", late="5s"), session("500ms", late="2s"), session("7s", late="60s")]


@pytest.mark.parametrize("over", SESSIONS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(over: Session, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.sessions(frames, over)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("over", SESSIONS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Session, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)
