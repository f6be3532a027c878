"""Rows by another key, against a reference; and the key as a column."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, Stream, agg, if_else, isin, tumbling
from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch
from pipelines.errors import PlanError
from pipelines.task import Task
from pipelines.testing import run
from pipelines.watermark import ExchangeTracker
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Feed

SECOND = 10**9
LINES = ("north", "south", "")
Rows = list[tuple[str, str, int, float]]  # device, line, second, value


class Power(Schema):
    device = Key[str]()
    line = Col[str]()
    w = Col[float]("W")


class PerDevice(Schema):
    mean = agg.mean(Power.w)
    line = agg.last(Power.line)


class PerLine(Schema):
    total = agg.sum(Power.w)
    n = agg.count()
    devices = agg.distinct(Power.device)


class PerGroup(Schema):
    total = agg.sum(PerDevice.mean)
    n = agg.count()


def by_line(late: str = "30s") -> tuple[Pipeline, Stream[Power], Any]:
    flow = Pipeline("plant")
    power = flow.read(Feed(Power, "power"))
    return flow, power, power.key_by(Power.line).window(tumbling("10s", late=late), PerLine)


def batch(rows: Rows) -> Batch:
    device, line, second, w = zip(*rows, strict=True)
    return Power.batch(device=device, line=line, time=np.array(second) * SECOND, w=w)


def found(result: Batch) -> dict[tuple[str, int], tuple[float, int, float]]:
    values = [result.columns[n].tolist() for n in ("PerLine.total", "PerLine.n", "PerLine.devices")]
    starts = (result.columns[WINDOW_START] // SECOND).tolist()
    rows = dict(zip(zip(result.keys, starts, strict=True), zip(*values, strict=True), strict=True))
    assert len(rows) == len(result), "a window has one result"
    return rows


def expected(rows: Rows) -> dict[tuple[str, int], tuple[float, int, float]]:
    cells: dict[tuple[str, int], Rows] = defaultdict(list)
    for row in rows:
        cells[row[1], row[2] // 10 * 10].append(row)
    return {cell: (sum(w for *_, w in of), len(of), len({device for device, *_ in of})) for cell, of in cells.items()}


rows = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(LINES), st.integers(0, 60), st.integers(0, 9).map(float)),
    min_size=1,
    max_size=60,
)


@given(rows=rows, cuts=st.sets(st.integers(1, 59)), partitions=st.integers(1, 4), restart_every=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_results_do_not_depend_on_batches_partitions_or_restarts(
    rows: Rows, cuts: set[int], partitions: int, restart_every: int
) -> None:
    flow, power, lines = by_line(late="61s")
    edges = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    batches = [batch(rows[a:b]) for a, b in itertools.pairwise(edges)]
    out = run(flow, {power: batches}, partitions=partitions, restart_every=restart_every)
    assert found(out[lines]) == expected(rows)


def test_windows_by_the_new_key_close_while_readings_flow() -> None:
    flow, power, lines = by_line(late="0s")
    rows = [(device, "north", second, 1.0) for second in range(35) for device in "abcd"]
    out = run(flow, {power: [batch(rows[at : at + 4]) for at in range(0, len(rows), 4)]}, end=False, partitions=3)
    assert found(out[lines]) == {("north", start): (40.0, 40, 4) for start in (0, 10, 20)}


def test_results_of_windows_are_keyed_anew() -> None:
    flow = Pipeline("plant")
    power = flow.read(Feed(Power, "power"))
    devices = power.window(tumbling("10s", late="0s"), PerDevice)
    groups = devices.key_by(PerDevice.line).window(tumbling("10s", late="0s"), PerGroup)
    rows = [(device, "north" if device < "c" else "south", second, 2.0) for second in range(25) for device in "abc"]
    out = run(flow, {power: batch(rows)}, partitions=2)
    result = out[groups]
    starts = (result.columns[WINDOW_START] // SECOND).tolist()
    totals = zip(result.keys, starts, result[PerGroup.total].tolist(), result[PerGroup.n].tolist(), strict=True)
    assert sorted(totals) == sorted((k, s, n * 2.0, n) for k, n in (("north", 2), ("south", 1)) for s in (0, 10, 20))


def test_the_key_is_a_column_where_something_reads_it() -> None:
    flow = Pipeline("plant")
    power = flow.read(Feed(Power, "power"))
    some = power.where(isin(Power.device, "a", "c"))
    devices = power.window(tumbling("10s", late="0s"), PerDevice)
    one = devices.where(Power.device == "b")
    out = run(flow, {power: batch([("a", "x", 1, 1.0), ("b", "x", 2, 2.0), ("c", "x", 3, 3.0)])}, restart_every=1)
    assert out[some].keys == ["a", "c"]
    assert out[one].keys == ["b"]
    assert out[one][PerDevice.mean].tolist() == [2.0]


def test_a_key_nobody_reads_is_no_column() -> None:
    flow, power, _ = by_line()
    power.window(tumbling("10s", late="0s"), PerDevice)
    plan = flow.plan().pruned(())
    assert [f.qualified for f in plan.by_name["power"].scope] == ["Power.line", "Power.w", "Power.device"]
    flow = Pipeline("plant")
    flow.read(Feed(Power, "power")).window(tumbling("10s", late="0s"), PerDevice)
    assert [f.qualified for f in flow.plan().pruned(()).by_name["power"].scope] == ["Power.line", "Power.w"]


def test_another_key_changes_the_version_of_what_follows() -> None:
    class Named(Schema):
        line = if_else(Power.w > 5, "high", Power.line)
        w = Power.w

    class Other(Schema):
        line = if_else(Power.w > 6, "high", Power.line)
        w = Power.w

    class Total(Schema):
        n = agg.count()

    versions = []
    for into in (Named, Other):
        flow = Pipeline("plant")
        named = flow.read(Feed(Power, "power")).select(into)
        named.key_by(into.line).window(tumbling("10s", late="0s"), Total)
        versions.append(flow.plan().versions["total"][0])
    assert versions[0] != versions[1]


class Hot(Schema):
    line = Key[str]()
    device = Col[str]()
    w = Col[float]("W")


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (Power.w, r"key_by\(Power\.w\): a key is text, this is float64; name the group in words, such as if_else"),
        (
            if_else(Power.w > 1, "hot", "cold"),
            "the key needs a name: make it a column of a schema and select that first",
        ),
        (Power.device, r"key_by\(Power\.device\): power has this key already"),
        (Hot.device, r"key_by\(Hot\.device\): column Hot\.device is not in this stream, which has Power\.device"),
    ],
)
def test_a_mistake_is_explained(column: Any, says: str) -> None:
    flow = Pipeline("plant")
    power = flow.read(Feed(Power, "power"))
    with pytest.raises(PlanError, match=says):
        power.key_by(column)


def test_keying_twice_by_one_column_is_explained() -> None:
    _, power, _ = by_line()
    with pytest.raises(
        PlanError, match=r"already a step 'power-by-line' \(repartition\).*call key_by once and use its stream"
    ):
        power.key_by(Power.line)


def test_a_column_called_like_the_key_so_far_is_explained() -> None:
    class Odd(Schema):
        device = Power.w
        line = Power.line

    flow = Pipeline("plant")
    odd = flow.read(Feed(Power, "power")).select(Odd)
    with pytest.raises(PlanError, match="'device' is the key so far, and also a column; select a schema"):
        odd.key_by(Odd.line)


def test_the_slowest_task_holds_the_watermark_and_one_that_ended_does_not() -> None:
    tracker = ExchangeTracker()
    assert tracker.advance("0/3", 90) == TIME_MIN, "the others may be far behind"
    assert tracker.advance("1/3", 10) == TIME_MIN
    assert tracker.advance("2/3", 10**15) == 10
    assert tracker.advance("1/3", TIME_MIN) == 10, "a frame that is not the last of its call"
    assert tracker.advance("1/3", TIME_MAX) == 90
    assert tracker.advance("0/3", 95) == 95
    assert tracker.advance("0/3", TIME_MAX) == 10**15
    assert tracker.advance("1/3", 10**15 + 1) == 10**15, "it goes on"
    assert tracker.advance("2/3", TIME_MAX) == 10**15 + 1
    assert tracker.advance("1/3", TIME_MAX) == TIME_MAX
    assert tracker.advance("1/3", 10**15 + 5) == 10**15 + 1, "all are waited for again"
    assert tracker.advance("somebody", 10**16) == 10**15 + 1, "not from a task"


def test_a_task_tells_the_others_how_far_it_is_once_and_stays_at_its_end() -> None:
    plan = by_line()[0].plan()

    def told(task: Task, watermark: int | None, rows: int = 0) -> list[tuple[int, int]]:
        b = batch([("a", "north", 1, 1.0)] * 2).take(slice(0, rows))
        frames = [] if watermark is None else [Frame(FrameInfo("c", watermark), b)]
        return [(len(e.batch), e.watermark) for e in task.process({"power": frames}) if e.step == "power|key_by"]

    task = Task(plan)
    assert told(task, 5) == [(0, 5)]
    assert told(task, 5) == []
    assert told(task, 5, rows=2) == [(2, 5)]
    assert told(task, TIME_MAX) == [(0, TIME_MAX)]
    assert told(task, None) == []
    again = Task(plan)
    again.restore(task.snapshot())
    assert told(again, None) == [], "a task that was restored does not begin anew"
    assert told(again, 9, rows=1) == [(1, 9)]


def test_each_key_name_has_an_index_of_its_own() -> None:
    flow, _, _ = by_line()
    many = [(f"d{i}", "north", 1, 1.0) for i in range(5_000)]
    task = Task(flow.plan(), observe=["per-line"])
    task.process({"power": [Frame(FrameInfo("c", SECOND), batch(many))]})
    before = task.state_bytes
    rows = Hot.batch(line=["north"] * 5, device=["a"] * 5, w=[1.0] * 5, time=np.full(5, SECOND))
    columns = {"Power.device": rows.columns["Hot.device"], "Power.w": rows.columns["Hot.w"]}
    frame = Frame(FrameInfo("0/1", SECOND), Batch(rows.names, rows.codes, rows.time, columns))
    task.process({"plant.power-by-line": [frame]})
    assert task.state_bytes - before < 2 * 2**20, (
        "windows of lines have no cells for devices (but a sketch for each line)"
    )
