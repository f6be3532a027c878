"""As-of joins against a slow reference, and the rule that nobody waits for ever."""

from __future__ import annotations

import math
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import topic
from pipelines import Col, Key, Pipeline, Schema, Table, agg, calendar, tumbling
from pipelines.batch import TIME_MAX, Batch
from pipelines.task import Task
from pipelines.testing import run
from pipelines.wire import Frame, FrameInfo
from tests.core import sides
from tests.core.programs import Feed, Shelf
from tests.core.sides import SECOND, Load, Temp

How = Literal["inner", "left"]


class Both(Schema):
    t = Temp.t
    load = Load.load
    on = Load.on


class Warm(Schema):
    t = agg.mean(Temp.t)


class Mean(Schema):
    t = agg.mean(Warm.t)


class Peak(Schema):
    device = Key[str]()
    peak = Col[float]()


class Both2(Schema):
    t = Warm.t
    load = Load.load


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


def two_topics(how: How, tolerance: str | None) -> Pipeline:
    program = Pipeline("join")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    temp.join(load.latest(), how=how, wait="1000h", tolerance=tolerance).select(Both).to(Shelf())
    return program


@given(
    left=sides.frames, right=sides.frames, how=st.sampled_from(["inner", "left"]), tolerance=st.sampled_from([None, 0, 1, 4]),
    restart=st.booleans(), data=st.data(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_what_a_row_sees_depends_on_neither_order_nor_grouping_nor_restarts(
    left: Any, right: Any, how: How, tolerance: int | None, restart: bool, data: st.DataObject
) -> None:
    """A version counts from its time on, a late one from the watermark that it was late for; a late row in its turn, too."""
    program = two_topics(how, None if tolerance is None else f"{tolerance}s")
    (temp, lefts), (load, rights) = sides.wired(left, Temp), sides.wired(right, Load)
    out = sides.run(program.plan(), sides.calls({"temp": temp, "load": load}, data), restart=restart)
    want: list[tuple[Any, ...]] = []
    for row in sorted(lefts, key=lambda r: max(r.time, r.seen)):
        there = [v for v in rights if v.device == row.device and max(v.time, v.seen) < max(row.time, row.seen)]
        newest = max(enumerate(there), key=lambda v: (v[1].time, v[0]), default=(0, None))[1]
        oldest = row.time - (1000 if tolerance is None else tolerance) * SECOND
        found = newest if newest is not None and oldest <= newest.time < row.time else None
        if found or how == "left":
            want.append(
                (row.device, row.time, float(found.value) if found else None, found is not None, float(row.value))
            )
    # columns by name: Both.load, Both.on, Both.t, Load.load, Load.on, Temp.t
    assert [row[:5] for row in out["both"]] == want


def test_a_version_older_than_the_tolerance_is_as_if_there_were_none() -> None:
    program = Pipeline("join")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    both = temp.join(load.latest(), how="left", tolerance="5s")
    out = run(program, {temp: temps([("a", s * SECOND, s) for s in (6, 7)]), load: loads([("a", SECOND, 9)])})[both]
    assert repr(out[Load.load].tolist()) == "[9.0, nan]"


def test_a_windowed_stream_waits_a_window_longer_for_another_source() -> None:
    program = Pipeline("join")
    warm = program.read(Feed(Temp, "temp")).window(tumbling("1m", late="0s"), Warm)
    slow = warm.join(program.read(Feed(Load, "load")).latest(), how="left", wait="10s")
    assert "wait 70s" in program.steps[slow.step].describe()
    monthly = warm.window(calendar("month", tz="UTC", late="0s"), Mean)
    never = monthly.join(program.table(Feed(Peak, "peak")), how="left")
    assert "wait 0s" in program.steps[never.step].describe()
    long = monthly.join(Table(program, "load", Load), how="left", wait="1d")
    assert "wait 36d" in program.steps[long.step].describe()


def test_early_facts_about_the_future_of_a_table_hide_no_others() -> None:
    """A table that is not waited for has no late rows, whatever its watermark."""
    task, _ = waiting(table=True)
    task.process({"load": [frame(loads([("b", 900 * SECOND, 1)]))]})
    task.process({"load": [frame(loads([("a", 3 * SECOND, 7)]))]})
    (emitted,) = task.process({"temp": [frame(temps([("a", 5 * SECOND, 1)]))]})
    assert emitted.batch[Both.load].tolist() == [7.0]


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


def test_results_do_not_run_ahead_of_rows_that_wait() -> None:
    program = Pipeline("join")
    temp, load = program.read(Feed(Temp, "temp")), program.read(Feed(Load, "load"))
    both = temp.join(load.latest(), how="left", wait="1h")
    both.window(tumbling("5s", late="0s"), Warm).to(Shelf())
    task = Task(program.plan())
    task.process({"temp": [frame(temps([("a", s * SECOND, s) for s in (1, 4, 12)]))]})
    assert task.process({"load": [frame(loads([("a", 3 * SECOND, 1)]))]}) == []
    (emitted,) = task.process({"load": [frame(loads([("a", 9 * SECOND, 1)]))]})
    assert emitted.batch[Warm.t].tolist() == [2.5]


def test_the_end_forgets_nothing_that_a_new_start_needs() -> None:
    task, _ = waiting(table=False)
    end = Frame(FrameInfo("one", TIME_MAX), temps([]))
    task.process({"temp": [frame(temps([("a", 3 * SECOND, 1)])), end], "load": [frame(loads([("a", SECOND, 1)])), end]})
    task.process({"load": [frame(loads([("a", 5 * SECOND, 5), ("a", 8 * SECOND, 8)]))]})
    (emitted,) = task.process({"temp": [frame(temps([("a", 6 * SECOND, 1)]))]})
    assert emitted.batch[Both.load].tolist() == [5.0]


def test_a_topic_of_facts_keeps_the_newest_of_each_key_for_ever() -> None:
    program = Pipeline("join")
    temp = program.read(topic.append(Temp, "temp"))
    temp.join(program.table(topic.compacted(Load, "load")), how="left").select(Both).to(Shelf())
    settings = {t.name: dict(t.settings) for t in program.plan().topics("s", 2)}
    assert settings["s.load"]["cleanup.policy"] == "compact"
    assert settings["s.load"]["min.compaction.lag.ms"] == str(7 * 24 * 3600 * 1000)
    assert "cleanup.policy" not in settings["s.temp"]


def test_nobody_waits_for_a_table() -> None:
    task, _ = waiting(table=True)
    emitted = task.process({"temp": [frame(temps([("a", 5 * SECOND, 1)]))]})
    assert emitted[0].batch[Both.on].tolist() == [False]


def test_old_versions_are_forgotten() -> None:
    task, _ = waiting(table=True)
    for s in range(1, 2000):
        task.process({"load": [frame(loads([("a", s * SECOND, s)]))], "temp": [frame(temps([("a", s * SECOND, s)]))]})
    assert task.state_bytes < 2000
