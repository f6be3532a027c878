"""`status --watch`: the same anew, in place on a terminal, else one after another."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console as Rich

from containers import cli_fleet
from containers.console import Console
from containers.fleet.repeated import Shown, watch
from pipelines.clock import ManualClock
from tests.fleet.kit import pipeline, write_fleet

AT_NS = 1_767_268_800 * 10**9  # 2026-01-01 12:00:00 UTC


def looks(
    n: int, clock: ManualClock, takes_s: float = 0.0
) -> tuple[Callable[[], Shown], list[float], Callable[[float], None]]:
    """A look that gives 'look 1', 'look 2', …, and a pause that is interrupted after the `n`th; what was paused."""
    made, paused = [0], []

    def look() -> Shown:
        made[0] += 1
        clock.advance(takes_s)
        return f"look {made[0]}", {"look": made[0]}

    def pause(seconds: float) -> None:
        paused.append(seconds)
        clock.advance(seconds)
        if made[0] == n:
            raise KeyboardInterrupt

    return look, paused, pause


def test_without_a_terminal_each_look_has_its_time_and_an_empty_line_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = ManualClock(AT_NS)
    look, paused, pause = looks(2, clock, takes_s=2)
    with pytest.raises(KeyboardInterrupt):
        watch(Console(), look, 5, clock=clock, pause=pause, terminal=Rich(file=io.StringIO()))
    assert capsys.readouterr().out == ("2026-01-01 12:00:02 UTC\nlook 1\n\n2026-01-01 12:00:07 UTC\nlook 2\n")
    assert paused == [3, 3], "the time that a look takes is part of the interval"


def test_for_programs_each_look_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock(AT_NS)
    look, _, pause = looks(2, clock)
    with pytest.raises(KeyboardInterrupt):
        watch(
            Console("json"), look, 5, clock=clock, pause=pause, terminal=Rich(file=io.StringIO(), force_terminal=True)
        )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"version": 1, "at": "2026-01-01T12:00:00+00:00", "look": 1}
    assert (second["at"], second["look"]) == ("2026-01-01T12:00:05+00:00", 2)


def test_a_look_that_takes_longer_than_the_interval_is_followed_by_the_next_at_once() -> None:
    clock = ManualClock(AT_NS)
    look, paused, pause = looks(1, clock, takes_s=30)
    with pytest.raises(KeyboardInterrupt):
        watch(Console(), look, 5, clock=clock, pause=pause, terminal=Rich(file=io.StringIO()))
    assert paused == [0]


def test_on_a_terminal_it_is_shown_in_place_and_long_lines_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    clock, shown = ManualClock(AT_NS), io.StringIO()
    look, _, pause = looks(2, clock)
    terminal = Rich(file=shown, force_terminal=True, width=40, height=20)
    with pytest.raises(KeyboardInterrupt):
        watch(Console(), lambda: (look()[0] + " " + "x" * 60, {}), 5, clock=clock, pause=pause, terminal=terminal)
    assert capsys.readouterr().out == ""
    first, _, second = shown.getvalue().partition("look 2")
    assert "look 1" in first
    assert "\x1b[1A" in first, "the cursor goes up again"
    assert "x" * 40 not in first + second
    assert "…" in second
    assert shown.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_site_that_is_offline_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fleet(tmp_path / "fleet", yard=f"engine = 'unix://{tmp_path}/none.sock'")
    seen: list[tuple[float, Shown]] = []

    def twice(_: Console, look: Callable[[], Shown], every_s: float) -> None:
        seen.extend((every_s, look()) for _ in range(2))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_fleet, "watch", twice)
    fleet = str(tmp_path / "fleet")
    said = [pipeline("status", "--fleet", fleet, "--watch"), pipeline("status", "--watch", "30", "--fleet", fleet)]
    assert [s.exit_code for s in said] == [130, 130]
    assert [every for every, _ in seen] == [5, 5, 30, 30]
    assert all("1 site: 1 offline" in text for _, (text, _) in seen)
    assert pipeline("status", "--watch", "0", "--fleet", fleet).exit_code == 64
