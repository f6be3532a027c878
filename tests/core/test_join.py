"""As-of joins against a slow reference, and the rule that nobody waits for ever."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
from pipelines.batch import Batch
from pipelines.task import Task
from pipelines.testing import run
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Feed, Shelf


class Temp(Schema):
    device = Key[str]()
    t = Col[float]("degC")


class Load(Schema):
    device = Key[str]()
    load = Col[float]("kW")
    on = Col[bool]("", absent=False)


class Both(Schema):
    t = Temp.t
    load = Load.load
    on = Load.on


class Warm(Schema):
    t = agg.mean(Temp.t)


class Both2(Schema):
    t = Warm.t
    load = Load.load


SECOND = 10**9
rows = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 20).map(lambda s: s * SECOND), st.integers(0, 99)), max_size=20
)


def temps(r: list[tuple[str, int, int]]) -> Batch:
    return Temp.batch(device=[x[0] for x in r], time=[x[1] for x in r], t=[x[2] for x in r])


def loads(r: list[tuple[str, int, int]]) -> Batch:
    return Load.batch(device=[x[0] for x in r], time=[x[1] for x in r], load=[x[2] for x in r], on=[True for _ in r])


@given(left=rows, right=rows, cuts=st.integers(1, 4), restart=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_each_row_sees_the_newest_version_strictly_before_it(
    left: list[tuple[str, int, int]], right: list[tuple[str, int, int]], cuts: int, restart: int
) -> None:
    """Inputs in time order, cut anywhere; both kinds of join in one program."""
    left, right = sorted(left, key=lambda r: r[1]), sorted(right, key=lambda r: r[1])
    program = Pipeline("join")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    inner = temp.join(load.latest(), how="inner", wait="1h").select(Both)
    outer = temp.join(load.latest(), how="left", wait="1h").select(Both)

    def parts(b: Batch) -> list[Batch]:
        size = -(-len(b) // cuts) or 1
        return [b.take(slice(i, i + size)) for i in range(0, len(b), size)]

    out = run(program, {temp: parts(temps(left)), load: parts(loads(right))}, restart_every=restart)
    want = []
    for device, time, t in left:
        seen = [v for d, at, v in right if d == device and at < time]
        want.append((device, time, float(t), float(seen[-1]) if seen else None))
    got = out[outer]
    found = zip(
        got.keys, got.time.tolist(), got[Both.t].tolist(), got[Both.load].tolist(), got[Both.on].tolist(), strict=True
    )
    assert sorted((d, at, t, "-" if math.isnan(v) else v, on) for d, at, t, v, on in found) == sorted(
        (d, at, t, "-" if v is None else v, v is not None) for d, at, t, v in want
    )
    got = out[inner]
    found3 = zip(got.keys, got.time.tolist(), got[Both.t].tolist(), got[Both.load].tolist(), strict=True)
    assert sorted(found3) == sorted((d, at, t, v) for d, at, t, v in want if v is not None)


def waiting(table: bool) -> tuple[Task, str]:
    program = Pipeline("join")
    temp = program.read(Feed(Temp, "temp"))
    source = Feed(Load, "load")
    right = program.table(source) if table else program.read(source).latest()
    return Task(temp.join(right, how="left", wait="10s").select(Both).to(Shelf()).flow.plan()), "both"


def frame(b: Batch) -> Frame:
    return Frame(FrameInfo("one", int(b.time.max()), len(b)), b)


def test_a_row_waits_for_a_silent_table_stream_no_longer_than_told() -> None:
    task, _ = waiting(table=False)
    assert task.process({"temp": [frame(temps([("a", 5 * SECOND, 1)]))]}) == []
    assert task.process({"temp": [frame(temps([("a", 14 * SECOND, 2)]))]}) == []
    emitted = task.process({"temp": [frame(temps([("a", 15 * SECOND, 3)]))]})
    assert emitted[0].batch.time.tolist() == [5 * SECOND]


def test_a_row_goes_as_soon_as_the_other_side_has_reached_it() -> None:
    task, _ = waiting(table=False)
    assert task.process({"temp": [frame(temps([("a", 5 * SECOND, 1)]))]}) == []
    emitted = task.process({"load": [frame(loads([("a", 4 * SECOND, 7), ("a", 5 * SECOND, 8)]))]})
    assert emitted[0].batch[Both.load].tolist() == [7.0]


def test_nobody_waits_for_a_table_behind_another_join_either() -> None:
    program = Pipeline("join")
    temp = program.read(Feed(Temp, "temp"))
    table = program.table(Feed(Load, "load"))
    warm = temp.join(table, how="left").window(tumbling("10s", late="0s"), Warm)
    out = warm.join(table, how="left").select(Both2).to(Shelf())
    task = Task(out.flow.plan())
    emitted = [e for s in range(0, 50, 5) for e in task.process({"temp": [frame(temps([("a", s * SECOND, s)]))]})]
    assert sum(len(e.batch) for e in emitted) == 4


def test_nobody_waits_for_a_table() -> None:
    task, _ = waiting(table=True)
    emitted = task.process({"temp": [frame(temps([("a", 5 * SECOND, 1)]))]})
    assert emitted[0].batch[Both.on].tolist() == [False]


def test_old_versions_are_forgotten() -> None:
    task, _ = waiting(table=True)
    for s in range(1, 2000):
        task.process({"load": [frame(loads([("a", s * SECOND, s)]))], "temp": [frame(temps([("a", s * SECOND, s)]))]})
    assert task.state_bytes < 2000
