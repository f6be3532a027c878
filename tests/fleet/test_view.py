"""What operators and programs see of a rollout."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console as Rich

from containers.console import Console
from containers.fleet import view
from containers.fleet.events import Aborted, Event, Finished, Kind, Outcome, Started, Superseded, Tick
from containers.fleet.policy import Policy, Share
from containers.fleet.schedule import Schedule
from containers.fleet.view import JsonLines, Lines, LiveTable, Watcher
from pipelines.clock import ManualClock


def tell(watcher: Watcher, schedule: Schedule, *events: Event) -> None:
    for event in events:
        schedule.apply(event)
        watcher.event(event, schedule)


def ended(site: str, kind: Kind = "done", at_s: float = 42.0, message: str = "", revision: int = 0) -> Event:
    return Finished(at_s, site, Outcome(kind, message, revision))


def fleet(n: int, **policy: Any) -> Schedule:
    return Schedule(Policy(**policy), [f"s{i}" for i in range(n)], [Tick(0.0)])


def test_without_a_terminal_each_outcome_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    lines, schedule = Lines(Console(), "r1"), fleet(4, canary=1, max_failures=Share(1))
    tell(lines, schedule, Started(1, "s0"), ended("s0", revision=8))
    tell(lines, schedule, Started(43, "s1"), Started(43, "s2"), ended("s1", "failed", 50, "process ended\nwith code 1"))
    tell(lines, schedule, ended("s2", "broken", 51))
    lines.interrupted(schedule)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "s0: done after 41 s, revision 8  [3 waiting, 1 done]",
        "rollout r1: wave 2 of 2 begins",
        "s1: failed after 7 s: process ended with code 1  [1 working, 1 failed, 1 waiting, 1 done]",
        "s2: broken after 8 s  [1 broken, 1 failed, 1 skipped, 1 done]",
        "rollout r1: halted, since 2 sites failed: nothing more is started",
        "rollout r1: interrupted: waiting for 0 sites; Ctrl-C again leaves at once",
    ]


def test_what_others_do_to_a_rollout_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Console(), "r1")
    tell(lines, fleet(2), Superseded(1, by="r2", sites=("s0",)), Aborted(2, "bob@desk"))
    assert capsys.readouterr().err.splitlines() == [
        "rollout r1: r2 is newer and takes over what was not begun",
        "rollout r1: aborted by bob@desk",
    ]


def test_programs_get_an_object_a_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    lines, schedule = JsonLines("r1"), fleet(1)
    tell(lines, schedule, Started(1, "s0"))
    lines.phase("s0", "gates")
    tell(lines, schedule, ended("s0", message="well"))
    about = {"version": 1, "rollout": "r1"}
    state = {"status": "running", "wave": 1}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {**about, **state, "event": "started", "at_s": 1.0, "site": "s0"},
        {**about, "event": "phase", "site": "s0", "phase": "gates"},
        {
            **about,
            **state,
            "event": "finished",
            "at_s": 42.0,
            "site": "s0",
            "outcome": {"kind": "done", "message": "well"},
        },
    ]


def terminal(height: int = 12, width: int = 100) -> Rich:
    return Rich(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def picture(table: LiveTable, schedule: Schedule) -> list[str]:
    console = terminal()
    console.print(table.picture(schedule))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_terminal_shows_as_many_sites_as_fit_those_that_need_a_look_first() -> None:
    schedule, table = fleet(3000, max_failures=Share(50, percent=True)), LiveTable(terminal(), "r1")
    tell(table, schedule, *(Started(1, f"s{i}") for i in range(100)))
    tell(table, schedule, *(ended(f"s{i}", at_s=9) for i in range(96)))
    tell(
        table, schedule, ended("s96", "failed", 9, "no [bold]such[/] \x1b[2Jthing"), ended("s97", "offline", 9, "away")
    )
    schedule.apply(Tick(31))
    table.phase("s98", "gates")
    shown = picture(table, schedule)
    assert shown[:2] == [
        "rollout r1: running, wave 1 of 1",
        "2 working, 1 failed, 1 pending, 2,900 waiting, 96 done",
    ]
    assert shown[3].split() == ["SITE", "WAVE", "STATE", "PHASE", "SECONDS", "MESSAGE"]
    assert [line.split() for line in shown[4:8]] == [
        ["s98", "1", "working", "gates", "30"],
        ["s99", "1", "working", "30"],
        ["s96", "1", "failed", "no", "[bold]such[/]", "[2Jthing"],  # no markup, nothing that clears a terminal
        ["s97", "1", "pending", "away"],
    ]
    assert len(shown) <= 12


def test_a_terminal_is_drawn_anew_four_times_a_second_at_most() -> None:
    clock, console = ManualClock(10**18), terminal()
    assert isinstance(console.file, io.StringIO)
    schedule = fleet(1)
    with LiveTable(console, "r1", clock) as table:
        table.refresh(schedule)
        drawn = len(console.file.getvalue())
        table.refresh(schedule)
        assert len(console.file.getvalue()) == drawn
        clock.advance(0.3)
        table.refresh(schedule)
        assert len(console.file.getvalue()) > drawn
        table.interrupted(schedule)
    assert "interrupted: Ctrl-C again leaves at once" in picture(table, schedule)


def test_who_listens_decides_how_it_is_shown() -> None:
    assert isinstance(view.watcher(Console(output="json"), "r1"), JsonLines)
    assert isinstance(view.watcher(Console(), "r1"), Lines)


def test_a_rollout_in_a_few_lines_and_as_a_value() -> None:
    schedule = fleet(25, canary=1)
    for event in (Started(1, "s0"), ended("s0", revision=8), Started(43, "s1"), ended("s1", "offline", message="away")):
        schedule.apply(event)
    schedule.apply(Superseded(50, by="r2", sites=("s2",)))
    lines = view.text("r1", schedule, "running").splitlines()
    assert lines[:2] == ["rollout r1: running; 1 pending, 22 waiting, 1 superseded, 1 done", "wave 2 of 2"]
    assert lines[3].split() == ["SITE", "STATE", "WAVE", "TRIES", "REVISION", "MESSAGE"]
    assert "pending" in lines[4]
    assert lines[4].endswith("away")
    assert lines[-1] == "and 5 more: -o json lists them all"
    value: Any = view.value("r1", schedule, "running")
    assert value["counts"] == {"waiting": 22, "done": 1, "pending": 1, "superseded": 1}
    assert value["sites"]["s0"] == {
        "state": "done",
        "wave": 1,
        "attempts": 1,
        "outcome": {"kind": "done", "revision": 8},
    }
    assert value["sites"]["s2"] == {"state": "superseded", "wave": 0, "attempts": 0, "superseded_by": "r2"}
    json.dumps(value)
