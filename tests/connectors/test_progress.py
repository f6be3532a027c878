"""Watermarks in silence, and how late a device's clock may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.progress import DeviceClock, Progress
from pipelines.batch import TIME_MAX, TIME_MIN

S = 10**9


def test_the_watermark_is_the_newest_time() -> None:
    progress = Progress(1, 2)
    assert progress.watermark == TIME_MIN
    progress.saw(100 * S, 0)
    progress.saw(90 * S, 1)
    assert progress.watermark == 100 * S


@pytest.mark.parametrize("speed", [0, 1, 60])
def test_in_silence_it_goes_on_with_the_clock(speed: float) -> None:
    progress = Progress(speed, 2)
    progress.saw(100 * S, 10)
    progress.silent(12)
    assert progress.watermark == 100 * S
    progress.silent(15)
    assert progress.watermark == 100 * S + 3 * speed * S


def test_nothing_was_ever_seen() -> None:
    progress = Progress(1, 2)
    progress.silent(100)
    assert progress.watermark == TIME_MIN


def test_behind_a_broken_link_there_may_be_readings() -> None:
    progress = Progress(1, 2)
    progress.saw(100 * S, 10)
    progress.link_up(1000)
    progress.silent(1001)
    assert progress.watermark == 100 * S
    progress.silent(1003)
    assert progress.watermark == 101 * S


def test_an_old_reading_does_not_stop_the_clock() -> None:
    progress = Progress(1, 2)
    progress.saw(100 * S, 0)
    progress.silent(50)
    progress.saw(60 * S, 50)
    progress.silent(53)
    assert progress.watermark == 149 * S


@given(st.lists(st.tuples(st.sampled_from(["saw", "silent", "link_up"]), st.integers(0, 10**12)), max_size=30))
def test_it_never_goes_back(events: list[tuple[str, int]]) -> None:
    progress, now_s, before = Progress(1, 2), 0.0, TIME_MIN
    for event, ns in events:
        now_s += ns / 1e9
        progress.saw(ns, now_s) if event == "saw" else getattr(progress, event)(now_s)
        assert progress.watermark >= before
        before = progress.watermark
    progress.ended()
    assert progress.watermark == TIME_MAX


def test_live_devices_share_our_clock() -> None:
    clock = DeviceClock(1, 60 * S)
    clock.learn(5, 10)  # a device far behind changes nothing
    assert clock.latest(1000 * S) == 1060 * S


def test_a_recording_has_its_own_present() -> None:
    clock = DeviceClock(60, 60 * S)
    assert clock.latest(1000 * S) == TIME_MAX
    clock.learn(500_000 * S, 1000 * S)
    clock.learn(900_000 * S, 1000 * S)
    assert clock.latest(1010 * S) == (500_000 + 10 * 60 + 60 * 60) * S


def test_a_source_without_a_clock_has_no_latest_time() -> None:
    clock = DeviceClock(0, 60 * S)
    clock.learn(500 * S, 1000 * S)
    assert clock.latest(1000 * S) == TIME_MAX
