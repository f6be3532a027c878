"""Silence and clocks of single devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.devices import SKEW_WINDOW_S, Silence, Skew
from pipelines import Col, Key, Quality, Schema
from pipelines.batch import Batch
from pipelines.quality import BAD, GOOD

S = 10**9


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m")
    mode = Col[str]()
    quality = Quality()


def batch(*rows: tuple[int, int, float]) -> Batch:
    """(slot, seconds, level)"""
    names = Tank.batch(device=["a", "b", "c"], time=[0] * 3, level=[0.0] * 3, mode=[""] * 3).names
    slot, time, level = zip(*rows, strict=True)
    columns = {
        "Tank.level": np.array(level), "Tank.mode": np.array([str(v) for v in level], "T"),
        "Tank.quality": np.full(len(rows), GOOD, np.int8),
    }  # fmt: skip
    return Batch(names, np.array(slot, np.int32), np.array(time, np.int64) * S, columns)


def silence(quality: str | None = "Tank.quality", speed: float = 1.0) -> Silence:
    return Silence(Tank.measured(), quality, 10.0, speed)


def test_a_silent_device_is_told_once() -> None:
    made = silence()
    made.heard(batch((0, 1, 1.0), (1, 1, 2.0), (0, 2, 3.0)), 100.0)
    made.heard(batch((1, 9, 4.0)), 109.0)
    assert made.fallen(110.0).tolist() == []
    fallen = made.fallen(110.5)
    assert (fallen.tolist(), made.stale) == ([0], 1)
    mark = made.marks(fallen, batch((0, 0, 0)).names, 5 * S)
    assert mark is not None
    assert (mark.keys, mark.time.tolist()) == (["a"], [12 * S])
    assert {n: c.tolist() for n, c in mark.columns.items()} == {
        "Tank.level": [3.0], "Tank.mode": ["3.0"], "Tank.quality": [BAD],
    }  # fmt: skip
    assert made.fallen(118.0).tolist() == []
    made.heard(batch((0, 18, 1.0)), 118.0)
    assert made.stale == 0
    assert made.fallen(119.5).tolist() == [1]
    assert made.fallen(129.5).tolist() == [0]
    assert made.stale == 2


def test_a_mark_is_never_late() -> None:
    made = silence()
    made.heard(batch((0, 1, 1.0)), 100.0)
    mark = made.marks(made.fallen(111.0), batch((0, 0, 0)).names, 50 * S)
    assert mark is not None
    assert mark.time.tolist() == [50 * S]


def test_in_a_recording_time_runs_faster() -> None:
    made = silence(speed=60)
    made.heard(batch((0, 1, 1.0)), 100.0)
    mark = made.marks(made.fallen(111.0), batch((0, 0, 0)).names, 0)
    assert mark is not None
    assert mark.time.tolist() == [601 * S]


def test_silence_counts_while_the_link_is_up() -> None:
    made = silence()
    made.heard(batch((0, 1, 1.0)), 100.0)
    made.link_up(200.0)
    assert made.fallen(209.0).tolist() == []
    assert made.fallen(211.0).tolist() == [0]
    made.link_up(300.0)  # it is stale still, and told
    assert made.fallen(400.0).tolist() == []


def test_without_a_quality_column_there_is_nothing_to_say_it_with() -> None:
    made = silence(quality=None)
    made.heard(batch((0, 1, 1.0)), 100.0)
    fallen = made.fallen(111.0)
    assert (fallen.tolist(), made.marks(fallen, batch((0, 0, 0)).names, 0)) == ([0], None)


def heard(skew: Skew, now_s: int, *late_s: float) -> None:
    """One reading of each device in turn, that much later than its clock says."""
    times = [(i, now_s, 0.0) for i in range(len(late_s))]
    skew.heard(batch(*times), np.array([int((now_s + late) * S) for late in late_s]), now_s)


@pytest.mark.parametrize(("late", "worst"), [((0.1, 3.0, 0.2), (1, 3.0)), ((0.1, 3.0, -7.0), (2, -7.0))])
def test_the_clock_that_is_furthest_off(late: tuple[float, ...], worst: tuple[int, float]) -> None:
    skew = Skew()
    assert skew.worst() == (-1, 0.0)
    heard(skew, 1000, *late)
    assert (skew.worst()[0], round(skew.worst()[1], 6)) == worst


def test_what_waited_does_not_count() -> None:
    skew = Skew()
    heard(skew, 1000, 0.1)
    heard(skew, 1001, 3600.0)  # an hour old
    assert skew.worst()[1] == pytest.approx(0.1)


def test_a_clock_that_was_set_is_believed_after_a_window() -> None:
    skew = Skew()
    heard(skew, 1000, -50.0)
    for now_s in range(1000, 1000 + int(SKEW_WINDOW_S) + 30, 10):
        heard(skew, now_s, 0.5)
    assert skew.worst()[1] == pytest.approx(0.5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_it_is_the_least_of_a_window(late: list[float]) -> None:
    skew = Skew()
    for i, late_s in enumerate(late):
        heard(skew, 10**7 + i, late_s)
    assert skew.worst()[1] == pytest.approx(min(late), abs=1e-3)
