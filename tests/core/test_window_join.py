"""Window joins: results of the same windows of two streams, key by key."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Pipeline, Schema, agg, calendar, hopping, session, tumbling
from pipelines.batch import TIME_MAX, WINDOW_START
from pipelines.errors import PlanError
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Over, Window
from pipelines.wire import Frame, FrameInfo
from tests.core import grouping, sides
from tests.core.programs import Feed, Reading, Shelf
from tests.core.sides import SECOND, Given, Load, Temp

How = Literal["inner", "left"]
WINDOWS = [
    tumbling("5s", late="1s"),
    hopping("6s", every="2s", late="0s"),
    calendar("day", tz="Europe/Berlin", late="0s"),
]


class Warm(Schema):
    mean = agg.mean(Temp.t)


class Used(Schema):
    n = agg.count()
    most = agg.max(Load.load)


class Both(Schema):
    mean = Warm.mean
    n = Used.n
    most = Used.most


def joined(left: Over, right: Over, how: How, wait: str = "1000h") -> tuple[Pipeline, Any]:
    program = Pipeline("join")
    warm = program.read(Feed(Temp, "temp")).window(left, Warm)
    used = program.read(Feed(Load, "load")).window(right, Used)
    both = warm.join_window(used, how=how, wait=wait)
    both.select(Both).to(Shelf())
    warm.to(Shelf())
    used.to(Shelf())
    return program, both


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(
    left=sides.frames, right=sides.frames, how=st.sampled_from(["inner", "left"]), restart=st.booleans(), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_equal_windows_meet(
    window: Window, left: Any, right: Any, how: How, restart: bool, data: st.DataObject
) -> None:
    program, _ = joined(window, window, how)
    wires = {"temp": sides.wired(left, Temp)[0], "load": sides.wired(right, Load)[0]}
    out = sides.run(program.plan(), sides.calls(wires, data), restart=restart)
    used = {(key, start): (n, most) for key, _, most, n, start in out["used"]}
    want = [(key, start, *used.get((key, start), (0, None)), mean) for key, _, mean, start in out["warm"]]
    if how == "inner":
        want = [row for row in want if (row[0], row[1]) in used]
    # columns by name: Both.mean, Both.most, Both.n, Used.most, Used.n, Warm.mean, window_start
    assert sorted((r[0], r[8], r[4], r[3], r[2]) for r in out["both"]) == sorted(want)
    assert len(out["both"]) == len(want)


class Low(Schema):
    low = agg.min(Reading.x)


class High(Schema):
    high = agg.max(Reading.x)
    final = agg.final()


class Last(Schema):
    high = agg.max(Reading.x)


class Range(Schema):
    range = Last.high - Low.low


@given(frames=grouping.frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_changes_no_bit_of_windows_of_one_stream(frames: Any, data: st.DataObject) -> None:
    program = Pipeline("test")
    source = program.read(Feed(Reading, "reading"))
    window = hopping("10s", every="5s", late="2s")
    last = source.where(Reading.k > 0).window(window, Last)
    source.window(window, Low).join_window(last, how="left").select(Range).to(Shelf())
    grouping.assert_grouping_changes_no_bit(program.plan(), frames, data)


def test_windows_from_different_sources_are_waited_for_although_watermarks_move_by_a_window() -> None:
    program, _ = joined(tumbling("10s", late="0s"), tumbling("10s", late="3s"), "left", wait="5s")
    task = Task(program.plan())

    def frame(schema: type[Schema], *seconds: int) -> list[Frame]:
        rows = [Given("a", s * SECOND, 1) for s in seconds]
        return [Frame(FrameInfo("one", seconds[-1] * SECOND, len(rows)), sides.batch(rows, schema))]

    assert [e.step for e in task.process({"temp": frame(Temp, 1, 10)})] == ["warm"]
    emitted = {e.step: e.batch for e in task.process({"load": frame(Load, 1, 13)})}
    assert emitted["both"][Both.n].tolist() == [1]
    assert [e.step for e in task.process({"temp": frame(Temp, 20)})] == ["warm"]
    emitted = {e.step: e.batch for e in task.process({"temp": frame(Temp, 30)})}  # 10 s of a window and 5 s of patience
    assert emitted["both"].columns[WINDOW_START].tolist() == [10 * SECOND]
    assert task.process({"temp": [Frame(FrameInfo("one", TIME_MAX), sides.batch([]))]})


def test_final_results_of_windows_with_early_ones_may_be_joined() -> None:
    program = Pipeline("p")
    source = program.read(Feed(Reading, "reading"))
    high = source.window(tumbling("10s", late="0s", early="2s"), High)
    low = source.window(tumbling("10s", late="0s"), Low)
    both = high.final().join_window(low, how="inner")
    b = Reading.batch(device=["a"] * 3, time=[0, 3 * SECOND, 12 * SECOND], x=[1.0, 2.0, 3.0], k=[0, 0, 0])
    out = run(program, {source: [b.take(slice(i, i + 1)) for i in range(3)]})[both]
    assert (out[Low.low].tolist(), out[High.high].tolist()) == ([1.0, 3.0], [2.0, 3.0])


def test_mistakes_are_named_with_their_cure() -> None:
    minute = tumbling("1m", late="0s")
    message = r"windows differ: warm has tumbling 1m, late 0s; used has tumbling 2m, late 0s\. Make them the same"
    with pytest.raises(PlanError, match=message):
        joined(minute, tumbling("2m", late="0s"), "inner")
    with pytest.raises(
        PlanError, match=r"used is session, gap 1m, late 0s: its windows differ from key to key; use join_within"
    ):
        joined(minute, session("1m", late="0s"), "inner")
    program = Pipeline("p")
    warm = program.read(Feed(Temp, "temp")).window(minute, Warm)
    with pytest.raises(PlanError, match=r"load has no windows: window it first, or use join_within"):
        warm.join_window(program.read(Feed(Load, "load")), how="inner")
    other = Pipeline("q").read(Feed(Load, "load")).window(minute, Used)
    with pytest.raises(PlanError, match=r"join_window\(used\): it belongs to pipeline 'q', this is 'p'"):
        warm.join_window(other, how="inner")
    with pytest.raises(PlanError, match=r"both sides have Warm.mean"):
        warm.join_window(warm, how="inner")
