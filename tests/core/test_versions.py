"""What a changed pipeline can keep of its state."""

from __future__ import annotations

import pytest

from pipelines import Pipeline, Schema, agg, hopping, tumbling
from pipelines.batch import TIME_MAX
from pipelines.errors import StateError
from pipelines.plan import Plan
from pipelines.task import Task
from pipelines.versions import compare
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Feed, Reading, Shelf

SECOND = 10**9


class Minute(Schema):
    n = agg.count()


class Hour(Schema):
    high = agg.max(Reading.x)


class Usual(Schema):
    n = agg.sum(Minute.n)


def plan(minute: str = "1m", *, hour: bool = False, above: float | None = None, usual: bool = False) -> Plan:
    program = Pipeline("p")
    readings = program.read(Feed(Reading, "reading"))
    if above is not None:
        readings = readings.where(Reading.x > above)
    minutes = readings.window(tumbling(minute, late="0s"), Minute)
    minutes.to(Shelf())
    if hour:
        readings.window(tumbling("1h", late="0s"), Hour).to(Shelf())
    if usual:
        minutes.window(hopping("10m", every="5m", late="0s"), Usual).to(Shelf())
    return program.plan()


def verdicts(before: Plan, after: Plan) -> list[str]:
    return [str(v) for v in compare(before.versions, after.versions)]


def test_a_plan_says_what_becomes_of_each_state() -> None:
    assert verdicts(plan(), plan()) == ["keep minute: unchanged"]
    assert verdicts(plan(), plan(hour=True)) == ["keep minute: unchanged", "migrate hour: new; begins empty"]
    assert verdicts(plan(hour=True), plan()) == [
        "keep minute: unchanged",
        "reset hour: it is gone, and its state with it",
    ]
    (changed,) = verdicts(plan(), plan("5m"))
    assert changed.startswith("reset minute: tumbling 1m")
    assert " became tumbling 5m" in changed
    assert verdicts(plan(), plan(above=3.0)) == ["reset minute: what flows into it has changed"]
    assert verdicts(plan(usual=True), plan("5m", usual=True))[1] == "reset usual: what flows into it has changed"


def test_equal_programs_are_equal_plans() -> None:
    assert plan(hour=True).fingerprint == plan(hour=True).fingerprint
    assert plan().fingerprint != plan("5m").fingerprint
    assert isinstance(hash(plan()), int)


def frames(xs: list[float], start: int) -> list[Frame]:
    rows = Reading.batch(
        device=["a"] * len(xs), time=[(start + i) * SECOND for i in range(len(xs))], x=xs, k=[0] * len(xs)
    )
    return [Frame(FrameInfo("one", int(rows.time[-1]), len(xs)), rows)]


def test_a_new_step_begins_empty_beside_those_that_are_kept() -> None:
    first = Task(plan())
    first.process({"reading": frames([1.0, 2.0], 0)})
    second = Task(plan(hour=True))
    second.restore(first.snapshot())
    end = Frame(FrameInfo("one", TIME_MAX), Reading.batch(device=[], time=[], x=[], k=[]))
    emitted = {e.step: e.batch for e in second.process({"reading": [*frames([9.0], 10), end]})}
    assert emitted["minute"].columns["Minute.n"].tolist() == [3]
    assert emitted["hour"].columns["Hour.high"].tolist() == [9.0]


def test_state_is_lost_only_if_it_is_asked_for() -> None:
    first = Task(plan(hour=True))
    first.process({"reading": frames([1.0, 2.0], 0)})
    with pytest.raises(StateError, match=r"they differ in minute\): deploy that version again, or reset"):
        Task(plan("5m", hour=True)).restore(first.snapshot())
    second = Task(plan("5m", hour=True))
    second.restore(first.snapshot(), partly=True)
    end = Frame(FrameInfo("one", TIME_MAX), Reading.batch(device=[], time=[], x=[], k=[]))
    emitted = {e.step: e.batch for e in second.process({"reading": [end]})}
    assert "minute" not in emitted
    assert emitted["hour"].columns["Hour.high"].tolist() == [2.0]
