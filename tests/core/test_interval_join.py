"""Interval joins against a slow reference: any order of the two topics, any grouping, restarts at any point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, agg, hopping, tumbling
from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.dsl import Joined
from pipelines.errors import LimitExceeded, PlanError
from pipelines.task import PASS_ROWS, Task
from pipelines.testing import run as run_pipeline
from pipelines.wire import Frame, FrameInfo
from tests.core import grouping, sides
from tests.core.programs import Feed, Reading, Shelf
from tests.core.sides import SECOND, Given, Load, Temp

How = Literal["inner", "left"]


class Both(Schema):
    t = Temp.t
    load = Load.load
    on = Load.on


class Other(Schema):
    machine = Key[str]()
    load = Col[float]("kW")


class Level(Schema):
    mean = agg.mean(Reading.x)


class Cold(Schema):
    cold = Temp.t


class Peak(Schema):
    load = agg.max(Load.load)


def joined(
    how: How, before: str = "2s", after: str = "1s", late: str = "0s", wait: str = "1000h"
) -> tuple[Pipeline, Joined[Temp, Load]]:
    program = Pipeline("join")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    both = temp.join_within(load, before=before, after=after, how=how, late=late, wait=wait)
    both.select(Both).to(Shelf())
    both.late.to(Shelf())
    both.late_right.to(Shelf())
    return program, both


def reference(
    left: Sequence[Given], right: Sequence[Given], how: str, before: int, after: int, late: int
) -> dict[str, list[tuple[Any, ...]]]:
    """All pairs, one by one."""

    def is_late(r: Given) -> bool:
        return r.seen > TIME_MIN and r.time < r.seen - late * SECOND

    pairs: list[tuple[Any, ...]] = []
    partners = sorted((r for r in right if not is_late(r)), key=lambda r: r.time)
    for row in sorted((r for r in left if not is_late(r)), key=lambda r: r.time):
        low, high = row.time - before * SECOND, row.time + after * SECOND
        found = [r for r in partners if r.device == row.device and low <= r.time <= high]
        pairs += [(row.device, row.time, float(r.value), True, float(row.value)) for r in found]
        if not found and how == "left":
            pairs.append((row.device, row.time, None, False, float(row.value)))
    return {
        "both": pairs,
        "temp-within-late": [(r.device, r.time, float(r.value)) for r in left if is_late(r)],
        "temp-within-late-right": [(r.device, r.time, float(r.value), True) for r in right if is_late(r)],
    }


@given(
    left=sides.frames, right=sides.frames, how=st.sampled_from(["inner", "left"]),
    before=st.integers(0, 6), after=st.integers(0, 6), late=st.integers(0, 5), restart=st.booleans(), data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_pair_once_in_order_whatever_is_read_first(
    left: Any, right: Any, how: How, before: int, after: int, late: int, restart: bool, data: st.DataObject
) -> None:
    program, _ = joined(how, f"{before}s", f"{after}s", f"{late}s")
    (temp, lefts), (load, rights) = sides.wired(left, Temp), sides.wired(right, Load)
    out = sides.run(program.plan(), sides.calls({"temp": temp, "load": load}, data), restart=restart)
    want = reference(lefts, rights, how, before, after, late)
    shown = sorted(program.steps["both"].scope, key=lambda f: f.qualified)
    at = [2 + [f.qualified for f in shown].index(n) for n in ("Both.load", "Both.on", "Both.t")]
    assert [(row[0], row[1], *(row[i] for i in at)) for row in out["both"]] == want["both"]
    assert out["temp-within-late"] == want["temp-within-late"]
    assert out["temp-within-late-right"] == want["temp-within-late-right"]


class Earlier(Schema):
    x = Reading.x


class Step(Schema):
    rise = Reading.x - Earlier.x


class Three(Schema):
    x = Reading.x
    gap = Earlier.x - Level.mean


class Rises(Schema):
    n = agg.count()
    total = agg.sum(Step.rise)


@pytest.mark.parametrize("how", ["inner", "left"])
@given(frames=grouping.frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_changes_no_bit_of_a_stream_joined_with_itself(frames: Any, how: How, data: st.DataObject) -> None:
    program = Pipeline("test")
    source = program.read(Feed(Reading, "reading"))
    steps = source.join_within(source.select(Earlier), before="4s", after="0s", how=how, late="1s")
    steps.late.to(Shelf())
    rises = steps.select(Step).to(Shelf(), name="step").window(hopping("10s", every="5s", late="3s"), Rises)
    rises.to(Shelf())
    grouping.assert_grouping_changes_no_bit(program.plan(), frames, data)


@given(frames=grouping.frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_three_streams_of_which_one_is_a_window_of_another(frames: Any, data: st.DataObject) -> None:
    program = Pipeline("test")
    source = program.read(Feed(Reading, "reading"))
    level = source.window(tumbling("5s", late="2s"), Level)
    near = source.join_within(level, before="0s", after="10s", how="left", late="2s")
    all_three = near.join_within(source.select(Earlier), before="2s", after="0s", how="inner", late="0s").select(Three)
    all_three.to(Shelf())
    plan = program.plan()
    assert [s.spec.value.wait for s in plan.steps if s.kind == "within"] == [None, None]  # all follow the same source
    grouping.assert_grouping_changes_no_bit(plan, frames, data)


def frame(rows: list[Given], schema: type[Schema], watermark: int | None = None) -> Frame:
    newest = max((r.time for r in rows), default=TIME_MIN)
    return Frame(FrameInfo("one", newest if watermark is None else watermark, len(rows)), sides.batch(rows, schema))


def at(second: int, value: int = 1) -> Given:
    return Given("a", second * SECOND, value)


def test_the_result_has_the_time_of_the_left_row_and_comes_when_no_partner_can() -> None:
    program, _ = joined("inner")
    task = Task(program.plan())
    assert task.process({"temp": [frame([at(10)], Temp, 11 * SECOND)], "load": [frame([at(9), at(11)], Load)]}) == []
    (emitted,) = task.process({"load": [frame([], Load, 11 * SECOND + 1)]})
    assert emitted.batch.time.tolist() == [10 * SECOND] * 2
    assert emitted.watermark == 10 * SECOND + 1


def test_streams_that_follow_the_same_sources_wait_for_each_other_as_long_as_it_takes() -> None:
    program = Pipeline("p")
    a, b = program.read(Feed(Temp, "a")), program.read(Feed(Temp, "b"))
    load = program.read(Feed(Load, "load"))
    both, peak = a.union(b), a.union(b).select(Cold).union(b.select(Cold))
    of_two = a.join_within(load, before="1s", after="1s", how="inner", late="0s")
    same = both.join_within(peak, before="1s", after="1s", how="inner", late="0s")
    other = of_two.join_within(peak, before="1s", after="1s", how="inner", late="0s", wait="2s")
    waits = {s: program.steps[s.step].spec.value.wait for s in (same, of_two, other)}
    assert list(waits.values()) == [None, 60 * SECOND, 2 * SECOND]


def test_one_side_waits_no_longer_than_told_and_what_comes_later_is_late() -> None:
    program, _ = joined("left", wait="5s")
    task = Task(program.plan())
    assert task.process({"temp": [frame([at(10)], Temp)]}) == []
    assert task.process({"temp": [frame([at(16)], Temp)]}) == []  # it is waited for rows up to 11 s
    (emitted,) = task.process({"temp": [frame([at(17)], Temp)]})
    assert (emitted.step, emitted.batch.time.tolist()) == ("both", [10 * SECOND])
    (late,) = task.process({"load": [frame([at(11), at(12)], Load)]})
    assert (late.step, late.batch.time.tolist()) == ("temp-within-late-right", [11 * SECOND])
    assert task.take_late_rows() == {"temp|within": 1}
    task.process({"load": [frame([at(40)], Load)]})
    late, *_ = task.process({"temp": [frame([at(30)], Temp)]})
    assert (late.step, late.batch.time.tolist()) == ("temp-within-late", [30 * SECOND])


def test_frames_of_one_call_are_not_waited_for() -> None:
    """A backlog of one topic in small frames, of the other in large ones, too many to be computed at once."""
    program, _ = joined("inner", wait="2m")
    task = Task(program.plan())
    loads = [frame([at(s)], Load) for s in range(400)]
    many = [Given("b", 0, 1)] * PASS_ROWS
    temps = [
        frame([*many, *(at(s) for s in range(low, low + 50))], Temp, (low + 50) * SECOND) for low in range(0, 400, 50)
    ]
    emitted = task.process({"temp": temps, "load": loads})
    assert sum(len(e.batch) for e in emitted if e.step == "both") == 4 * 398 - 3
    assert task.take_late_rows() == {"temp|within": 7 * PASS_ROWS}


def test_an_end_lets_all_go_and_a_new_start_goes_on_from_there() -> None:
    program, _ = joined("left")
    task, end = Task(program.plan()), [frame([], Temp, TIME_MAX)]
    first = task.process({"temp": [frame([at(10)], Temp)], "load": [frame([at(10, 7), at(12, 8)], Load, 11 * SECOND)]})
    assert first == []
    assert task.process({"temp": end}) == []  # loads may still come
    (emitted,) = task.process({"load": end})
    assert (len(emitted.batch), emitted.watermark) == (1, TIME_MAX)
    late = task.process({"temp": [frame([at(10), at(11)], Temp)], "load": [frame([at(11)], Load, 20 * SECOND)]})
    assert [(e.step, len(e.batch)) for e in late] == [("temp-within-late", 1), ("temp-within-late-right", 1)]
    (emitted,) = task.process({"temp": [frame([], Temp, 20 * SECOND)]})
    assert emitted.batch[Both.load].tolist() == [7.0, 8.0]  # nothing that it needs was forgotten


def test_a_side_that_starts_again_counts_again_and_is_waited_for() -> None:
    program, _ = joined("left", wait="1h")
    task, end = Task(program.plan()), [frame([], Temp, TIME_MAX)]
    task.process({"temp": [frame([at(1)], Temp), *end]})
    task.process({"temp": [frame([at(10)], Temp)]})
    emitted = task.process({"load": [frame([], Load, 100 * SECOND)]})
    assert [e.batch.time.tolist() for e in emitted] == [[SECOND]]  # the row of 10 s may have brothers
    task.process({"temp": end, "load": end})
    assert task.process({"temp": [frame([at(120)], Temp, 130 * SECOND)]}) == []  # loads are no longer at their end
    (emitted_,) = task.process({"load": [frame([], Load, 130 * SECOND)]})
    assert emitted_.batch.time.tolist() == [120 * SECOND]


def test_state_does_not_grow_while_both_sides_go_on() -> None:
    program, _ = joined("inner")
    task = Task(program.plan())
    for s in range(1000):
        task.process({"temp": [frame([at(s)], Temp)], "load": [frame([at(s)], Load)]})
    assert task.state_bytes < 1000


def test_too_many_pairs_are_refused_before_the_memory_is_taken() -> None:
    program, _ = joined("inner", before="1h", after="1h")
    task = Task(program.plan(), state_bytes_max=10_000_000)
    rows = [at(s) for s in range(1500)]
    message = r"2,250,000 pairs at once, which need .*, more than the limit of 10,000,000; .*temp\|within"
    with pytest.raises(LimitExceeded, match=message):
        task.process({"temp": [frame(rows, Temp, TIME_MAX)], "load": [frame(rows, Load, TIME_MAX)]})


def test_a_left_join_leaves_out_hidden_columns_that_nothing_can_stand_for() -> None:
    class Hidden(Schema):
        device = Key[str]()
        load = Col[float]("kW")
        n = Col[int]()

    class Shown(Schema):
        kw = Hidden.load

    program = Pipeline("p")
    temp, hidden = program.read(Feed(Temp, "temp")), program.read(Feed(Hidden, "hidden"))
    both = temp.join_within(hidden.select(Shown), before="1s", after="1s", how="left", late="0s")
    with pytest.raises(PlanError, match=r"column Hidden.n is not in this stream"):
        both.where(Hidden.n > 0)
    inner = temp.join_within(hidden.select(Shown), before="1s", after="1s", how="inner", late="0s")
    assert inner.where(Hidden.n > 0)


def test_what_an_alias_stands_for_in_a_left_join_is_what_its_column_says() -> None:
    class Running(Schema):
        on = Load.on

    program = Pipeline("p")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    both = temp.join_within(load.select(Running), before="1s", after="1s", how="left", late="0s")
    out = run_pipeline(program, {temp: sides.batch([at(1)])})[both]
    assert out[Running.on].tolist() == [False]


def mistake(**options: Any) -> Any:
    program = Pipeline("p")
    temp, load = (
        program.read(Feed(Temp, "temp")),
        program.read(Feed(Other if options.pop("machine", 0) else Load, "load")),
    )
    given_: dict[str, Any] = {"before": "1s", "after": "1s", "how": "inner", "late": "0s"} | options
    return temp.join_within(load, **given_)


def of_itself() -> Any:
    temp = Pipeline("p").read(Feed(Temp, "temp"))
    return temp.join_within(temp, before="1s", after="0s", how="inner", late="0s")


def of_late_rows() -> Any:
    program = Pipeline("p")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    late = load.window(tumbling("1s", late="0s"), Peak).late
    return temp.join_within(late, before="1s", after="0s", how="inner", late="0s")


MISTAKES = [
    (lambda: mistake(before="soon"), r"join_within\(load\), before: 'soon' is not a duration"),
    (lambda: mistake(after="11000w"), r"join_within\(load\), after='11000w': no longer than ten years"),
    (lambda: mistake(late="?"), r"join_within\(load\), late: '\?' is not a duration"),
    (lambda: mistake(wait="?"), r"join_within\(load\), wait: '\?' is not a duration"),
    (lambda: mistake(how="outer"), r"join_within\(load\), how='outer': how is 'inner' or 'left'"),
    (
        lambda: mistake(machine=True),
        r"its key is 'machine', the key of temp is 'device'; rows meet by key, and both sides must call",
    ),
    (of_itself, r"both sides have Temp.t: select the right side into a schema .*: t = Temp.t"),
    (of_late_rows, r"the rows of peak-late are late, .* write them to a sink"),
]


@pytest.mark.parametrize(("program", "message"), MISTAKES)
def test_mistakes_are_named_with_their_cure(program: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        program()
