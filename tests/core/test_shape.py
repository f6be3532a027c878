"""What shapes a stream, against slow references; grouping into calls and restarts change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, agg, fill, isin, tumbling, unit
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.errors import PlanError
from pipelines.expr import Array
from pipelines.task import Task
from pipelines.testing import run
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Feed, Shelf

SECOND = 10**9


class R(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")
    k = Col[int]()


@dataclass(frozen=True)
class Row:
    device: str
    time: int
    x: float
    k: int


rows_of = st.lists(
    st.lists(
        st.builds(
            Row,
            st.sampled_from("abc"),
            st.integers(0, 120).map(lambda q: q * SECOND // 4),
            st.one_of(st.integers(-8, 8).map(float), st.just(math.nan)),
            st.integers(0, 6),
        ),
        min_size=1,
        max_size=8,
    ),
    min_size=1,
    max_size=7,
)


def batch(rows: Sequence[Row]) -> Batch:
    return R.batch(
        device=[r.device for r in rows], time=[r.time for r in rows], x=[r.x for r in rows], k=[r.k for r in rows]
    )


def frames(groups: Sequence[Sequence[Row]]) -> list[Frame]:
    newest, found = TIME_MIN, []
    for rows in groups:
        newest = max(newest, *(r.time for r in rows))
        found.append(Frame(FrameInfo("one", newest, len(rows)), batch(rows)))
    return [*found, Frame(FrameInfo("one", TIME_MAX), batch([]))]


def outcome(program: Pipeline, groups: Sequence[Sequence[Row]], sizes: Sequence[int], *, restart: bool) -> Any:
    """Rows of every step, sorted, when the frames go in by groups of these sizes."""
    plan = program.plan()
    task, wire, out = Task(plan), frames(groups), []
    sizes = [*sizes, len(wire)]
    while wire:
        size, *sizes = sizes
        for e in task.process({"readings": wire[:size]}):
            columns = [e.batch.columns[c].tolist() for c in sorted(e.batch.columns)]
            out += [
                (e.step, *map(repr, row)) for row in zip(e.batch.keys, e.batch.time.tolist(), *columns, strict=True)
            ]
        wire = wire[size:]
        if restart:
            saved, task = task.snapshot(), Task(plan)
            task.restore(saved)
    return sorted(out)


def pipeline(make: Callable[[Any], Any]) -> tuple[Pipeline, Any, Any]:
    program = Pipeline("test")
    readings = program.read(Feed(R, "readings"))
    made = make(readings)
    made.to(Shelf())
    return program, readings, made


class Cusum(Schema):
    high = Col[float]("mm/s")
    alarm = Col[bool]()


@dataclass(frozen=True)
class CusumOf:
    """Cumulative sum of deviations above a slack (Page 1954)."""

    target: float
    slack: float
    limit: float

    @property
    def state(self) -> Mapping[str, tuple[str, Any]]:
        return {"high": ("float64", 0.0)}

    def step(self, state: dict[str, Array], *columns: Array) -> tuple[Array, ...]:
        (x,) = columns
        state["high"] = np.maximum(state["high"] + fill_zero(x - self.target - self.slack), 0.0)
        return state["high"], state["high"] > self.limit


def fill_zero(x: Array) -> Array:
    return np.where(np.isnan(x), 0.0, x)


MAKE: dict[str, Callable[[Any], Any]] = {
    "dedupe": lambda s: s.dedupe(by=R.k, within="5s"),
    "dedupe by time": lambda s: s.dedupe(within="8s"),
    "changes": lambda s: s.changes(R.x),
    "dead-band": lambda s: s.changes(R.x, deadband=2.5),
    "relative": lambda s: s.changes(R.k, deadband="40%"),
    "previous": lambda s: s.resample("1s", fill="previous", late="2s", max_gap="4s"),
    "linear": lambda s: s.resample("1s", fill="linear", late="2s", max_gap="4s"),
    "scan": lambda s: s.scan(CusumOf(0, 0.5, 3), R.x, into=Cusum),
    "scan in event time": lambda s: s.scan(CusumOf(0, 0.5, 3), R.x, into=Cusum, late="3s"),
    "union": lambda s: s.where(R.k > 2).union(s.where(R.x > 0)).window(tumbling("5s", late="1s"), Counted),
}  # fmt: skip


class Counted(Schema):
    n = agg.count()
    total = agg.sum(R.x)


@pytest.mark.parametrize("kind", MAKE)
@given(groups=rows_of, data=st.data())
@settings(max_examples=25, deadline=None)
def test_grouping_and_restarts_change_no_bit(kind: str, groups: list[list[Row]], data: st.DataObject) -> None:
    program = pipeline(MAKE[kind])[0]
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=10, max_size=10))
    want = outcome(program, groups, [1] * (len(groups) + 1), restart=False)
    assert outcome(program, groups, sizes, restart=False) == want
    assert outcome(program, groups, sizes, restart=True) == want


def table(b: Batch, *columns: str) -> list[tuple[Any, ...]]:
    rows = zip(b.keys, b.time.tolist(), *(b.columns[c].tolist() for c in columns), strict=True)
    return [tuple("nan" if isinstance(v, float) and math.isnan(v) else v for v in row) for row in rows]


def marks(groups: Sequence[Sequence[Row]]) -> list[tuple[Row, float]]:
    """Each row with the watermark in force when its frame arrived."""
    newest, found = -math.inf, []
    for rows in groups:
        found += [(r, newest) for r in rows]
        newest = max(newest, *(r.time for r in rows))
    return found


@pytest.mark.parametrize("by", ["k", "time"])
@given(groups=rows_of)
@settings(max_examples=50, deadline=None)
def test_dedupe(by: str, groups: list[list[Row]]) -> None:
    program, readings, stream = pipeline(lambda s: s.dedupe(by=R.k if by == "k" else None, within="5s"))
    late_rows = stream.late
    late_rows.to(Shelf())
    out = run(program, {readings: [batch(g) for g in groups]})
    kept: dict[tuple[str, int], int] = {}
    want, late = [], []
    for r, watermark in marks(groups):
        floor = watermark - 5 * SECOND
        key = (r.device, getattr(r, by))
        if r.time < floor:
            late.append((r.device, r.time))
        elif key not in kept or kept[key] < floor:
            kept[key] = r.time
            want.append((r.device, r.time, r.k))
    assert table(out[stream], "R.k") == want
    assert table(out[late_rows]) == late


def far(now: float, last: float, band: float) -> bool:
    if math.isnan(now) or math.isnan(last):
        return math.isnan(now) != math.isnan(last)
    return now != last and not abs(now - last) <= band


@pytest.mark.parametrize("band", [0.0, 2.5, "40%"])
@given(groups=rows_of)
@settings(max_examples=50, deadline=None)
def test_changes(band: float | str, groups: list[list[Row]]) -> None:
    program, readings, stream = pipeline(lambda s: s.changes(R.x, deadband=band))
    out = run(program, {readings: [batch(g) for g in groups]})
    last: dict[str, float] = {}
    want = []
    for r in [r for g in groups for r in g]:
        width = 0.4 * abs(last.get(r.device, 0)) if isinstance(band, str) else band
        if r.device not in last or far(r.x, last[r.device], width):
            last[r.device] = r.x
            want.append((r.device, r.time, "nan" if math.isnan(r.x) else r.x))
    assert table(out[stream], "R.x") == want


def in_order(groups: Sequence[Sequence[Row]], late_ns: int) -> list[Row]:
    """Rows that are not late, by (time, arrival)."""
    return sorted((r for r, watermark in marks(groups) if r.time >= watermark - late_ns), key=lambda r: r.time)


@pytest.mark.parametrize("how", ["previous", "linear"])
@given(groups=rows_of)
@settings(max_examples=50, deadline=None)
def test_resample(how: Any, groups: list[list[Row]]) -> None:
    program, readings, stream = pipeline(lambda s: s.resample("1s", fill=how, late="2s", max_gap="4s"))
    out = run(program, {readings: [batch(g) for g in groups]})
    used = in_order(groups, 2 * SECOND)
    end = max((r.time for r in used), default=0)
    want = []
    for device in "abc":
        mine = [r for r in used if r.device == device]
        for point in range(0, end + 1, SECOND):
            before = [r for r in mine if r.time <= point]
            after = [r for r in mine if r.time > point]
            if not before:
                continue
            a = before[-1]
            if a.time == point or (how == "previous" and point - a.time <= 4 * SECOND):
                want.append((device, point, a.x, a.k))
            elif how == "linear" and after and after[0].time - a.time <= 4 * SECOND:
                b = after[0]
                want.append((device, point, a.x + (point - a.time) / (b.time - a.time) * (firsts(mine, b) - a.x), a.k))
    got = out[stream]
    rows = sorted(
        zip(got.keys, got.time.tolist(), got.columns["R.x"].tolist(), got.columns["R.k"].tolist(), strict=True)
    )
    assert [(d, t, k) for d, t, _, k in rows] == [(d, t, k) for d, t, _, k in sorted(want, key=lambda r: r[:2])]
    np.testing.assert_allclose([r[2] for r in rows], [r[2] for r in sorted(want, key=lambda r: r[:2])], rtol=1e-12)


def firsts(rows: Sequence[Row], b: Row) -> float:
    """Of several samples at one time the line goes to the first to arrive."""
    return next(r.x for r in rows if r.time == b.time)


def test_resample_null_and_a_dead_device() -> None:
    class One(Schema):
        device = Key[str]()
        x = Col[float]()

    program = Pipeline("test")
    readings = program.read(Feed(One, "ones"))
    grid = readings.resample("2s", fill="null", late="0s", max_gap="6s")
    grid.to(Shelf())
    given = One.batch(device=["a", "a", "b"], time=[0, 3 * SECOND, 40 * SECOND], x=[1.0, 2.0, 5.0])
    assert table(run(program, {readings: given})[grid], "One.x") == [
        ("a", 0, 1.0), ("a", 2 * SECOND, "nan"), ("a", 4 * SECOND, 2.0), ("a", 6 * SECOND, "nan"), ("a", 8 * SECOND, "nan"),
        ("b", 40 * SECOND, 5.0),
    ]  # fmt: skip


@given(groups=rows_of)
@settings(max_examples=50, deadline=None)
def test_an_operator_of_a_user(groups: list[list[Row]]) -> None:
    for late in (None, "3s"):
        make = MAKE["scan" if late is None else "scan in event time"]
        program, readings, stream = pipeline(make)
        out = run(program, {readings: [batch(g) for g in groups]})
        rows = [r for g in groups for r in g] if late is None else in_order(groups, 3 * SECOND)
        high: dict[str, float] = {}
        want = []
        for r in rows:
            high[r.device] = max(high.get(r.device, 0.0) + (0.0 if math.isnan(r.x) else r.x - 0.5), 0.0)
            want.append((r.device, r.time, high[r.device], high[r.device] > 3))
        assert table(out[stream], "Cusum.high", "Cusum.alarm") == want


def test_split_apply_pivot_and_unpivot() -> None:
    class Tag(Schema):
        device = Key[str]()
        name = Col[str]()
        value = Col[float]()

    class Wide(Schema):
        temp = Col[float]("°C")
        speed = Col[float]("1/min")

    class Long(Schema):
        name = Col[str]()
        value = Col[float]()

    class Polar(Schema):
        length = Col[float]("mm")

    program = Pipeline("test")
    tags = program.read(Feed(Tag, "tags"))
    wide = tags.pivot(on=Tag.name, value=Tag.value, into=Wide)
    wide.to(Shelf())
    known, other = tags.split(isin(Tag.name, "temp", "speed"))
    known.to(Shelf(), name="known")
    other.to(Shelf(), name="other")
    long = wide.unpivot(Wide.temp, Wide.speed, into=Long)
    long.to(Shelf())
    polar = wide.apply(lambda t, s: (np.hypot(t, s),), fill(Wide.temp, 0.0), fill(Wide.speed, 0.0), into=Polar)
    polar.to(Shelf())
    given = Tag.batch(device=["a", "a", "b"], time=[1, 2, 3], name=["temp", "speed", "odd"], value=[20.0, 3.0, 7.0])
    out = run(program, {tags: given})
    assert table(out[wide], "Wide.temp", "Wide.speed") == [
        ("a", 1, 20.0, "nan"),
        ("a", 2, "nan", 3.0),
        ("b", 3, "nan", "nan"),
    ]
    assert [len(out[s]) for s in (known, other)] == [2, 1]
    assert table(out[long], "Long.name", "Long.value")[:3] == [
        ("a", 1, "temp", 20.0),
        ("a", 1, "speed", "nan"),
        ("a", 2, "temp", "nan"),
    ]
    assert out[polar].columns["Polar.length"].tolist() == [20.0, 3.0, 0.0]
    assert program.steps[wide.step].row.fields[0].unit == "°C"


def test_a_unit_can_be_stated() -> None:
    class Power(Schema):
        p = unit(R.x * R.k, "W")

    program, _, stream = pipeline(lambda s: s.select(Power))
    assert program.steps[stream.step].row.fields[0].unit == "W"


class Text(Schema):
    device = Key[str]()
    state = Col[str]()
    x = Col[float]()


MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda s: s.changes(Text.state, deadband=1), r"a column of text has no dead-band"),
    (lambda s: s.changes(Text.x, deadband="2"), r"deadband='2' is no band: write a number in the unit of the column, or '2%'"),
    (lambda s: s.changes(Text.x, deadband=-1), r"deadband=-1 is no band"),
    (lambda s: s.dedupe(by=Text.x, within="5s"), r"a sequence is a column of int; without by= the event time is taken"),
    (lambda s: s.dedupe(within="0s"), r"dedupe\(within=…\): 0s must be longer than zero"),
    (lambda s: s.dedupe(within="soon"), r"'soon' is not a duration"),
    (lambda s: s.resample("1s", fill="cubic", late="0s", max_gap="5s"), r"fill='cubic' is unknown: write 'previous'"),
    (lambda s: s.resample("10s", fill="previous", late="0s", max_gap="5s"), r"max_gap='5s' is shorter than the grid"),
    (lambda s: s.resample("1s", fill="null", late="0s", max_gap="5s"), r"Text.state cannot be NaN"),
    (lambda s: s.scan(CusumOf(0, 1, 2), R.x, into=Cusum), r"column R.x is not in this stream"),
    (lambda s: s.scan(CusumOf(0, 1, 2), Text.x, into=Text), r"the stream already has Text.state, Text.x"),
    (lambda s: s.apply(len, Text.x, into=Counted), r"Counted.n is computed \(count\(\)\); an output is a Col"),
    (lambda s: s.pivot(on=Text.x, value=Text.x, into=Cusum), r"on=Text.x must be a column of text"),
    (lambda s: s.pivot(on=Text.state, value=Text.x, into=Cusum), r"Cusum.alarm must be a float: it is NaN"),
    (lambda s: s.unpivot(Text.x, into=Cusum), r"it needs two columns: the name, a Col\[str\]\(\), and the value"),
    (lambda s: s.unpivot(into=Cusum), r"name the columns that become rows"),
    (lambda s: s.union(Pipeline("other").read(Feed(Text, "text"))), r"it belongs to pipeline 'other', this is 'test'"),
    (lambda s: s.union(s.flow.read(Feed(R, "readings"))), r"its rows are R, these are Text; select one schema"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "text"), MISTAKES, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_a_mistake_is_explained(mistake: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        mistake(Pipeline("test").read(Feed(Text, "text")))
