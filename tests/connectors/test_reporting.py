"""Conditions against a slow, obvious reference, row by row; and what they promise to those who read what is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.conditions import Condition, deadband, report_on_change, swinging_door
from connectors.reporting import Reporter
from pipelines import Col, Key, Quality, Schema
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.quality import BAD, GOOD, UNCERTAIN

DEVICES = ["a", "b", "c"]
DEVIATION = 0.3137  # no straight line through the whole numbers used here is just so far from one
NAN = float("nan")


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m")
    count = Col[int]()
    mode = Col[str]()
    quality = Quality()


ROW = Tank.measured()
Reading = tuple[str, int, float, int, str, int]  # device, time, level, count, mode, quality


def batch(rows: list[Reading]) -> Batch:
    device, time, level, count, mode, quality = zip(*rows, strict=True) if rows else ((),) * 6
    made = Tank.batch(
        device=list(device), time=np.array(time, np.int64), level=level, count=count, mode=mode, quality=quality
    )
    codes = np.array([DEVICES.index(d) for d in device], np.int32)
    return Batch(Tank.batch(device=DEVICES, time=[0] * 3, level=[0.0] * 3, count=[0] * 3, mode=[""] * 3).names, codes,
                 made.time, made.columns)  # fmt: skip


def rows_of(out: Batch | None) -> list[Reading]:
    if out is None:
        return []
    columns = [out.columns[f.qualified].tolist() for f in ROW.fields]
    return list(zip(out.keys, out.time.tolist(), *columns, strict=True))


VALUE = {"Tank.level": 2, "Tank.count": 3, "Tank.mode": 4}


@dataclass
class Device:
    """One device as the documentation describes it."""

    last: Reading | None = None  # the newest reported
    newest: int = 0
    since: list[Reading] = field(default_factory=list)  # readings after it that were not reported; the last is held


def same(a: Any, b: Any) -> bool:
    return bool(a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)))


def differs(c: Condition, now: Reading, last: Reading) -> bool:
    v, w = now[VALUE[c.column]], last[VALUE[c.column]]
    if c.kind == "change":
        return not same(v, w)
    assert isinstance(v, int | float)
    assert isinstance(w, int | float)
    if math.isnan(v) or math.isnan(w):
        return math.isnan(v) != math.isnan(w)
    if c.kind == "door":
        return now[1] == last[1] and abs(v - w) > c.limit
    return abs(v - w) > (c.limit if c.kind == "absolute" else abs(w) * c.limit / 100)


def line_leads_on(c: Condition, last: Reading, since: list[Reading], now: Reading) -> bool:
    """Whether the straight line from the last reported reading to this one is near all between."""
    at = VALUE[c.column]
    if now[1] == last[1] or math.isnan(now[at]):  # type: ignore[arg-type]  # a door's column is a float
        return True
    slope = (now[at] - last[at]) / (now[1] - last[1])  # type: ignore[operator]
    return all(
        abs(last[at] + slope * (p[1] - last[1]) - p[at]) <= c.limit  # type: ignore[operator]
        for p in since
        if not math.isnan(p[at]) and p[1] > last[1]  # type: ignore[arg-type]
    )


def reference(batches: list[list[Reading]], conditions: list[Condition]) -> list[Reading]:
    """What is reported of each device, in order; at the end what is held."""
    devices = {name: Device() for name in DEVICES}
    doors = [c for c in conditions if c.kind == "door"]
    every = min((c.every_ns for c in conditions if c.every_ns), default=0)
    out: list[Reading] = []
    watermark = TIME_MIN
    for rows in batches:
        watermark = max([watermark, *(r[1] for r in rows)])
        for row in rows:
            device = devices[row[0]]
            if device.last is not None and row[1] < device.newest:
                out.append(row)
                continue
            if device.last is not None and doors and device.since:
                broken = row[5] != device.last[5] or any(
                    math.isnan(row[2]) != math.isnan(device.last[2]) for c in doors
                )
                if broken or not all(line_leads_on(c, device.last, device.since, row) for c in doors):
                    device.last, device.since = device.since[-1], []
                    out.append(device.last)
            device.newest = row[1]
            last = device.last
            if (
                last is None
                or row[5] != last[5]
                or any(differs(c, row, last) for c in conditions)
                or (every and row[1] - last[1] >= every)
            ):
                device.last, device.since = row, []
                out.append(row)
            elif doors:
                device.since.append(row)
        for device in devices.values():
            if device.since and device.since[-1][1] < watermark - doors[0].hold_ns:
                device.last, device.since = device.since[-1], []
                out.append(device.last)
    return out + [d.since[-1] for d in devices.values() if d.since]


def reported(batches: list[list[Reading]], conditions: list[Condition]) -> list[Reading]:
    reporter = Reporter(ROW, conditions, "Tank.quality")
    out: list[Reading] = []
    watermark = TIME_MIN
    for number, rows in enumerate(batches):
        watermark = max([watermark, *(r[1] for r in rows)])
        out += rows_of(reporter.take(batch(rows), number, watermark))
        assert reporter.oldest_held >= watermark - min((c.hold_ns for c in conditions if c.hold_ns), default=0)
    out += rows_of(reporter.release())
    assert (reporter.oldest_held, reporter.oldest_read) == (TIME_MAX, TIME_MAX)
    return out


def by_device(rows: list[Reading]) -> dict[str, list[str]]:
    """What was reported of each; a row that is late may pass before or after one that is held."""
    return {d: sorted(repr(r) for r in rows if r[0] == d) for d in DEVICES}


READINGS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(DEVICES),
            st.integers(1, 19),
            st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, -3.0, NAN]),
            st.sampled_from([0, 1, 2, 40, 41, 2**60, 2**60 + 1]),
            st.sampled_from(["on", "off"]),
            st.sampled_from([GOOD] * 6 + [UNCERTAIN, BAD]),
        ),
        max_size=12,
    ),
    max_size=5,
)
EVERY = st.sampled_from([None, "4ns"])
CONDITIONS = st.lists(
    st.one_of(
        st.builds(lambda e: report_on_change(Tank.mode, at_least_every=e), EVERY),
        st.builds(lambda e: report_on_change(Tank.count, at_least_every=e), EVERY),
        st.builds(lambda e: report_on_change(Tank.level, at_least_every=e), EVERY),
        st.builds(lambda e: deadband(Tank.level, absolute=1.5, at_least_every=e), EVERY),
        st.builds(lambda e: deadband(Tank.count, percent=3, at_least_every=e), EVERY),
        st.builds(lambda e: deadband(Tank.level, percent=50, at_least_every=e), EVERY),
        st.builds(
            lambda e, h: swinging_door(Tank.level, deviation=DEVIATION, hold=h, at_least_every=e),
            EVERY,
            st.sampled_from(["5ns", "100ns"]),
        ),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda c: c.column,
)


@settings(max_examples=200, deadline=None)
@given(READINGS, CONDITIONS, st.booleans())
def test_as_the_reference(batches: list[list[Reading]], conditions: list[Condition], in_order: bool) -> None:
    if in_order:
        rising = iter(sorted(r[1] for rows in batches for r in rows))
        batches = [[(r[0], next(rising), *r[2:]) for r in rows] for rows in batches]
    out = reported(batches, conditions)
    assert by_device(out) == by_device(reference(batches, conditions))
    if in_order:
        for device in DEVICES:
            times = [r[1] for r in out if r[0] == device]
            assert times == sorted(times)


@settings(max_examples=60, deadline=None)
@given(READINGS, CONDITIONS, st.integers(1, 7))
def test_how_readings_are_cut_into_batches_does_not_matter(
    batches: list[list[Reading]], conditions: list[Condition], size: int
) -> None:
    rows = [r for some in batches for r in some]
    slow = [
        Condition(c.kind, c.column, c.limit, every_ns=c.every_ns, hold_ns=100 if c.hold_ns else 0) for c in conditions
    ]
    cut = [rows[i : i + size] for i in range(0, len(rows), size)]
    assert by_device(reported(cut, slow)) == by_device(reported([rows], slow))


LEVELS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60)


def levels(values: list[float], steps: list[int]) -> list[Reading]:
    times = np.cumsum(np.resize(steps, len(values)))
    return [("a", int(t), v, 0, "", GOOD) for t, v in zip(times, values, strict=True)]


@settings(max_examples=100, deadline=None)
@given(LEVELS, st.floats(0, 50), st.booleans())
def test_a_dead_band_leaves_out_only_what_is_near_the_last_reported(
    values: list[float], limit: float, relative: bool
) -> None:
    condition = deadband(Tank.level, **{"percent" if relative else "absolute": limit})  # type: ignore[arg-type]
    rows = levels(values, [1])
    kept = {r[1]: r[2] for r in reported([rows], [condition])}
    last = NAN
    for _, time, value, *_ in rows:
        last = kept.get(time, last)
        assert abs(value - last) <= (limit * abs(last) / 100 if relative else limit)


@settings(max_examples=100, deadline=None)
@given(LEVELS, st.floats(0, 50), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_the_line_through_what_a_door_lets_pass_is_near_all_readings(
    values: list[float], deviation: float, steps: list[int]
) -> None:
    rows = levels(values, steps)
    kept = reported([rows], [swinging_door(Tank.level, deviation=deviation, hold="1h")])
    assert kept[0] == rows[0]
    assert kept[-1] == rows[-1]
    line = np.interp([r[1] for r in rows], [r[1] for r in kept], [r[2] for r in kept])
    assert (np.abs(line - values) <= deviation + 1e-9).all()


def test_a_straight_line_is_two_points() -> None:
    rows = levels([i * 0.25 for i in range(1000)], [1])
    assert reported([rows], [swinging_door(Tank.level, deviation=0.01, hold="1h")]) == [rows[0], rows[-1]]


def test_a_corner_passes_with_its_own_time() -> None:
    rows = levels([0, 1, 2, 3, 2, 1, 0], [1])
    kept = reported([rows[:4], rows[4:]], [swinging_door(Tank.level, deviation=0.1, hold="1h")])
    assert [r[1:3] for r in kept] == [(1, 0), (4, 3), (7, 0)]


def test_at_least_every_ten() -> None:
    rows = levels([1.0] * 35, [1])
    kept = reported([rows], [deadband(Tank.level, absolute=1, at_least_every="10ns")])
    assert [r[1] for r in kept] == [1, 11, 21, 31]


def test_what_is_held_and_since_when() -> None:
    reporter = Reporter(ROW, [swinging_door(Tank.level, deviation=1, hold="10ns")], "Tank.quality")
    assert (reporter.oldest_held, reporter.oldest_read) == (TIME_MAX, TIME_MAX)
    reporter.take(batch([("a", 1, 0.0, 0, "", GOOD), ("b", 2, 0.0, 0, "", GOOD)]), 7, 2)
    assert (reporter.oldest_held, reporter.oldest_read) == (TIME_MAX, TIME_MAX)  # the first of each passes
    reporter.take(batch([("a", 3, 0.0, 0, "", GOOD), ("b", 4, 0.0, 0, "", GOOD)]), 8, 4)
    reporter.take(batch([("a", 5, 0.0, 0, "", GOOD)]), 9, 5)
    assert (reporter.oldest_held, reporter.oldest_read) == (4, 8)
    assert rows_of(reporter.take(batch([]), 10, 15)) == [("b", 4, 0.0, 0, "", GOOD)]
    assert (reporter.oldest_held, reporter.oldest_read) == (5, 9)


def test_what_is_released_and_what_comes_next() -> None:
    reporter = Reporter(ROW, [swinging_door(Tank.level, deviation=1, hold="1h")], "Tank.quality")
    reporter.take(batch([("a", 1, 0.0, 0, "", GOOD), ("b", 2, 0.0, 0, "", GOOD)]), 1, 2)
    reporter.take(batch([("a", 3, 0.0, 0, "", GOOD), ("b", 4, 0.0, 0, "", GOOD)]), 2, 4)
    assert rows_of(reporter.release(np.array([0], np.int32))) == [("a", 3, 0.0, 0, "", GOOD)]
    assert reporter.release(np.array([0], np.int32)) is None
    again = reporter.take(batch([("a", 5, 0.0, 0, "", GOOD), ("b", 6, 0.0, 0, "", GOOD)]), 3, 6)
    assert rows_of(again) == [("a", 5, 0.0, 0, "", GOOD)]
    assert rows_of(reporter.release()) == [("b", 6, 0.0, 0, "", GOOD)]


@pytest.mark.parametrize("devices", [10, 5000])
def test_many_devices(devices: int) -> None:
    class Plain(Schema):
        device = Key[str]()
        level = Col[np.float32]("m")

    names = Plain.batch(device=[f"d{i}" for i in range(devices)], time=[0] * devices, level=[0] * devices).names
    reporter = Reporter(Plain.measured(), [deadband(Plain.level, absolute=0.5)], None)
    rng, sent = np.random.default_rng(1), []
    for read in range(5):
        codes = rng.permutation(devices).astype(np.int32)
        level = (codes % 10 == read).astype(np.float32)
        out = reporter.take(Batch(names, codes, np.full(devices, read), {"Plain.level": level}), read, read)
        assert out.columns["Plain.level"].dtype == np.float32
        sent.append(len(out))
    assert sent == [devices, *[devices // 5] * 4]  # those that go up, and those that come down again
