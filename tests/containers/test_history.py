"""The history of a site: what is told of attempts that went well, failed, were broken off, or are going on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from containers import history, lock, names
from containers.cli import main
from containers.cli_history import site_history
from containers.commands import Command, CreateVolume, RemoveVolume
from containers.engine import Engine
from containers.history import Entry
from containers.lock import Claim
from containers.rollout import Record, State
from containers.walk import _write
from pipelines.errors import Unavailable
from tests.bed import engine as bed
from tests.containers.test_walk import Deploy, _name

NOW_S = 2000.0
ENTRY = Entry(1, "2026-01-01T10:00:00+00:00", "anna@laptop", "deploy", "press 0123", 1, "press", services=("process",))
DONE = replace(ENTRY, result="done", seconds=12.3)


def _at(entry: Entry, number: int, **changes: Any) -> Entry:
    return replace(entry, number=number, at=f"2026-01-01T10:{number:02}:00+00:00", **changes)


class Volumes(dict[str, dict[str, str]]):
    """Those of an engine."""

    def run(self, *commands: Command) -> Volumes:
        for command in commands:
            match command:
                case CreateVolume(name, labels):
                    self.setdefault(name, dict(labels))
                case RemoveVolume(name):
                    self.pop(name, None)
        return self

    def begun(self, entry: Entry) -> Volumes:
        return self.run(*history.begun("hall1", entry, self))

    def entries(self) -> list[Entry]:
        return history.entries("hall1", NOW_S, self)


def test_attempts_are_told_newest_first_the_failed_ones_too() -> None:
    failed = _at(DONE, 2, result="rolled back", why="process was not healthy within 2 s")
    volumes = Volumes()
    for entry in (DONE, failed):
        volumes.begun(entry).run(*history.ended("hall1", entry))
    assert volumes.entries() == [failed, DONE]
    assert history.number("hall1", volumes) == 3
    assert set(volumes) == {names.history("hall1", 1), names.history("hall1", 2)}


def test_one_that_only_began_was_broken_off_unless_somebody_works_just_now() -> None:
    volumes = Volumes().begun(ENTRY).begun(_at(ENTRY, 2))
    assert [e.result for e in volumes.entries()] == ["broken off", "broken off"]
    mine = Claim("me", "anna@laptop", "deployed").lock(4, NOW_S, NOW_S)
    volumes.run(*lock.commands("hall1", lock.Make(mine)))
    assert [e.result for e in volumes.entries()] == ["running", "broken off"]


def test_one_whose_end_could_not_be_written_is_done_if_its_record_was() -> None:
    record = Record(1, {"process": "p1"}, ENTRY.at)
    volumes = Volumes().begun(ENTRY).run(_write("hall1", record))
    assert [(e.number, e.result) for e in volumes.entries()] == [(1, "done")]


def test_of_older_records_is_told_what_they_know() -> None:
    record = Record(7, {"process": "p1"}, "2025-12-31T23:00:00+00:00", note="press")
    volumes = Volumes().run(_write("hall1", record), _write("hall1-2", replace(record, revision=8)))
    volumes.begun(ENTRY)
    assert [(e.number, e.revision, e.by, e.note) for e in volumes.entries()] == [
        (1, 1, "anna@laptop", "press"),
        (0, 7, "", "press"),
    ]


def test_the_oldest_are_forgotten_and_long_reasons_cut() -> None:
    volumes = Volumes()
    for n in range(1, 30):
        entry = _at(DONE, n, why="x" * 1000)
        volumes.begun(entry)
        if n != 15:  # that one is broken off
            volumes.run(*history.ended("hall1", entry))
    told = volumes.entries()
    assert [e.number for e in told] == list(range(29, 9, -1))
    assert {len(e.why) for e in told if e.result == "done"} == {history.WHY_CHARS_MAX}


def test_another_sites_attempts_and_what_cannot_be_read_are_passed_over() -> None:
    volumes = Volumes().run(*history.begun("hall1-history", ENTRY, {}), *history.begun("hall", ENTRY, {}))
    volumes[names.history("hall1", 3)] = {names.SITE: "hall1", names.HISTORY: "{"}
    assert volumes.entries() == []
    assert history.number("hall1", volumes) == 4


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({}, [("ship", ""), ("done", "")]),
        (
            {"ill": frozenset({_name("process", 2)})},
            [("ship", ""), ("rolled back", "process was not healthy within 5 s: starting")],
        ),
        ({"interrupt": frozenset({_name("process", 2)})}, [("ship", ""), ("rolled back", "interrupted")]),
    ],
)
def test_a_rollout_tells_when_it_begins_and_how_and_why_it_ends(
    faults: dict[str, Any], told: list[tuple[State, str]]
) -> None:
    heard: list[tuple[State, str]] = []
    rollout = Deploy.on(**faults).rollout()
    rollout.journal = lambda state, why: heard.append((state, why))
    rollout.run()
    assert heard == told


def test_a_rollout_that_is_refused_or_stopped_on_its_way_back_tells_so() -> None:
    heard: list[tuple[State, str]] = []

    def prepare() -> None:
        raise Unavailable("no disk left")

    rollout = Deploy.on().rollout(prepare=prepare)
    rollout.journal = lambda state, why: heard.append((state, why))
    rollout.run()
    ill = frozenset({_name("process", 2)})
    rollout = Deploy.on(ill=ill, interrupt=frozenset({_name("process", 1)})).rollout()
    rollout.journal = lambda state, why: heard.append((state, why))
    with pytest.raises(KeyboardInterrupt):
        rollout.run()
    assert heard[1::2] == [("refused", "no disk left"), ("broken", "process was not healthy within 5 s: starting")]


def test_it_is_shown_as_a_table_and_as_json(
    engine: bed.Engine, unique: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text(
        f'site = "{unique}"\npipeline = "p.py"\nbrokers = "kafka:9092"\nengine = "{engine.url}"\n'
    )

    def said(*words: str) -> str:
        result = CliRunner().invoke(main, ["history", *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert said() == f"site {unique}: nothing was ever deployed\n"
    back = _at(DONE, 2, action="rollback", note="back to revision 1", result="refused", why="no disk left\nat all")
    ours = Engine(engine.url)
    for command in [*history.ended(unique, DONE), *history.ended(unique, back)]:
        ours.run(command)
    assert site_history(ours, unique) == [back, DONE]
    head, new, old = said("--site", "./site.toml").splitlines()
    assert head.split() == ["WHEN", "WHO", "WHAT", "RESULT", "REVISION", "TOOK", "SERVICES", "WHY"]
    assert new.startswith(
        "2026-01-01T10:02:00Z  anna@laptop  back to revision 1 (press 0123)  refused  1         12s   process"
    )
    assert new.endswith("  no disk left")
    assert old.split()[:5] == ["2026-01-01T10:00:00Z", "anna@laptop", "press", "0123", "done"]
    (attempt,) = json.loads(said("-n", "1", "-o", "json"))["attempts"]
    assert (attempt["result"], attempt["services"], attempt["seconds"]) == ("refused", ["process"], 12.3)
