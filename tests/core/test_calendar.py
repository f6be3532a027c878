"""Windows of days, weeks, months, quarters and years in a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import calendar
from pipelines.batch import TIME_NS_MAX, WINDOW_START
from pipelines.testing import run
from pipelines.windows import Window
from pipelines.zones import Unit
from tests.core import reference
from tests.core.grouping import SECOND, assert_grouping_changes_no_bit, assert_late, assert_results, batch
from tests.core.programs import windowed

HOUR = 3600 * SECOND
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
    "UTC",
]
WINDOWS = [
    calendar("day", tz="Europe/Berlin", late="0s"),
    calendar("day", tz="America/Havana", late="5h", size=3),
    calendar("week", tz="Europe/Berlin", late="1d", offset="6h"),
]
SPRING = int(datetime(2024, 3, 28, tzinfo=UTC).timestamp()) * SECOND  # three days before the clocks change
hours = st.integers(0, 24 * 14).map(lambda h: SPRING + h * HOUR)
readings = st.builds(reference.Reading, st.sampled_from("ab"), hours, st.floats(-9, 9).map(float), st.integers(0, 9))
frames = st.lists(st.lists(readings, min_size=1, max_size=8), min_size=1, max_size=6)


def begins(unit: Unit, t: datetime) -> datetime:
    """Midnight at which the unit that holds a local time began."""
    day = t.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    match unit:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
        case "year":
            return day.replace(month=1, day=1)


@given(st.sampled_from(get_args(Unit)), st.sampled_from(ZONES), st.integers(-4 * 10**9, 4 * 10**9))
@settings(max_examples=200, deadline=None)
def test_a_time_lies_in_the_unit_that_a_calendar_on_the_wall_says(unit: Unit, tz: str, seconds: int) -> None:
    grid = calendar(unit, tz=tz, late="0s").grid
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(ZoneInfo(tz))
    index = grid.index(np.array([seconds * SECOND]))
    assert grid.edge(index)[0] == begins(unit, local).timestamp() * SECOND


@pytest.mark.parametrize("unit", get_args(Unit))
def test_units_are_numbered_from_1970_and_cover_all_times(unit: Unit) -> None:
    grid = calendar(unit, tz="Asia/Tokyo", late="0s").grid
    far = np.array([-TIME_NS_MAX, 0, TIME_NS_MAX])
    index = grid.index(far)
    assert index[1] == 0
    assert (grid.edge(index) <= far).all()
    assert (grid.edge(index + 1) > far).all()
    assert (grid.index(far[::-1]) == index[::-1]).all()
    assert grid.index(far[:0]).tolist() == []


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames)
@settings(max_examples=30, deadline=None)
def test_results_and_late_rows_are_those_of_the_reference(over: Window, frames: reference.Frames) -> None:
    program, source, stats = windowed(over)
    out = run(program, {source: [batch(f) for f in frames]})
    kept, late = reference.windows(frames, over)
    assert_results(out[stats], kept)
    assert_late(out[stats.late], late)


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=30, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Window, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(windowed(over)[0].plan(), frames, data)


@pytest.mark.parametrize(("month", "lengths"), [(3, [24, 23, 24]), (10, [24, 25, 24])])
def test_the_days_of_the_clock_change_have_23_and_25_hours(month: int, lengths: list[int]) -> None:
    program, source, stats = windowed(calendar("day", tz="Europe/Berlin", late="0s"))
    sunday = {3: 31, 10: 27}[month]
    noon = [
        int(datetime(2024, month, sunday + d, 12, tzinfo=UTC).timestamp()) * SECOND
        for d in (-1, 0, 1 - (month == 3) * 31)
    ]
    noon[2] = noon[1] + 24 * HOUR
    rows = batch([reference.Reading("a", t, 1.0, 1) for t in noon])
    out = run(program, {source: rows})[stats]
    assert ((out.time + 1 - out.columns[WINDOW_START]) // HOUR).tolist() == lengths


def test_a_production_day_begins_in_the_morning_by_the_clock_on_the_wall() -> None:
    grid = calendar("day", tz="Europe/Berlin", late="0s", offset="6h").grid
    for day, hour in ((30, 5), (31, 4)):  # in UTC: winter and summer time
        morning = int(datetime(2024, 3, day, hour, tzinfo=UTC).timestamp()) * SECOND
        assert np.diff(grid.index(np.array([morning - 1, morning]))).tolist() == [1]


def test_a_day_that_a_zone_skipped_has_no_length() -> None:
    grid = calendar("day", tz="Pacific/Apia", late="0s").grid
    days = grid.index(np.array(["2011-12-30T09:59", "2011-12-30T10:00"], "M8[ns]").astype(np.int64))
    assert np.diff(days).tolist() == [2]
