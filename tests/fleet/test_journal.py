"""The journal: what is on disk after a crash, who may write it, what other processes can ask for, and the history."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.fleet import journal
from containers.fleet.events import Aborted, Finished, Outcome, Paused, Resumed, Started
from containers.fleet.journal import FILE, FOLDER, WISHES, Journal
from containers.fleet.policy import Policy
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, StateError, Unavailable
from tests.fleet.rollouts import T0_NS, close_all, create

S = T0_NS / 1e9


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def worked(of: Journal, *sites: str, kind: str = "done") -> None:
    for site in sites:
        of.record(Started(S + 1, site))
        of.record(Finished(S + 2, site, Outcome(kind)))  # type: ignore[arg-type]  # one of Kind


def states(fleet: Path, name: str) -> str:
    return " ".join(s.state for s in journal.read(fleet, name).schedule.sites.values())


def test_a_rollout_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = create(tmp_path, policy=Policy(canary=1), options={"soak": "5m"})
    worked(made, "a")
    record = journal.read(tmp_path, made.header.id)
    assert record.header == made.header
    assert record.header.options == {"soak": "5m"}
    assert (record.schedule.sites, record.schedule.wave) == (made.schedule.sites, made.schedule.wave)
    assert (record.driven, record.over) == (True, None)
    made.close()
    assert not journal.read(tmp_path, made.header.id).driven


def test_ids_tell_time_and_release_and_stay_in_order_whatever_the_clock_does(tmp_path: Path) -> None:
    made = []
    for ns in (T0_NS, T0_NS, T0_NS - 10**15):
        made.append(create(tmp_path, clock=ManualClock(ns)).header.id)
        close_all()
    assert made == [
        "20260301T100000Z-3f2a51c07b", "20260301T100001Z-3f2a51c07b", "20260301T100002Z-3f2a51c07b",
    ]  # fmt: skip
    assert journal.ids(tmp_path) == made


@pytest.mark.parametrize("torn", [b'{"event":"fini', b"\x00\x00\x00", b'{"event":"finished","at_s":1}\n'])
def test_a_last_line_that_was_being_written_is_dropped(tmp_path: Path, torn: bytes) -> None:
    name = create(tmp_path).header.id
    close_all()
    path = tmp_path / FOLDER / name / FILE
    with path.open("ab") as file:
        file.write(b'{"event":"started","at_s":1,"site":"a"}\n' + torn)
    assert states(tmp_path, name) == "working waiting waiting"
    again = journal.reopen(tmp_path, name)
    again.record(Started(2, "b"))
    again.close()
    assert torn not in path.read_bytes()
    assert states(tmp_path, name) == "working working waiting"


def test_every_cut_of_a_journal_can_be_read_and_taken_up(tmp_path: Path) -> None:
    made = create(tmp_path, "a b")
    worked(made, "a", "b")
    made.close()
    whole = made.path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        made.path.write_bytes(whole[:cut])
        before = states(tmp_path, made.header.id)
        again = journal.reopen(tmp_path, made.header.id)
        again.close()
        assert " ".join(s.state for s in again.schedule.sites.values()) == before
        assert made.path.read_bytes() == whole[: whole[:cut].rindex(b"\n") + 1]


def test_damage_in_the_middle_is_named_with_the_line_and_the_cure(tmp_path: Path) -> None:
    made = create(tmp_path)
    worked(made, "a")
    made.close()
    lines = made.path.read_bytes().splitlines(keepends=True)
    made.path.write_bytes(lines[0] + b"rubbish\n" + lines[2])
    with pytest.raises(StateError, match=rf"{made.path}:2: is damaged .*: remove {made.path.parent}, and deploy again"):
        journal.read(tmp_path, made.header.id)
    create(tmp_path)  # and does not keep anybody from deploying


def test_a_file_that_is_no_journal_or_of_a_newer_version_is_named(tmp_path: Path) -> None:
    made = create(tmp_path)
    made.close()
    text = made.path.read_text()
    made.path.write_text(text.replace('"version":1', '"version":2'))
    with pytest.raises(StateError, match=r"was written by a newer version of this program \(form 2\): use that"):
        journal.read(tmp_path, made.header.id)
    made.path.write_text("")
    with pytest.raises(StateError, match=f":1: is not the beginning of a rollout .*: remove {made.path.parent}"):
        journal.read(tmp_path, made.header.id)


def test_one_process_at_a_time_writes_a_journal(tmp_path: Path) -> None:
    name = (made := create(tmp_path)).header.id
    with pytest.raises(Unavailable, match=f"rollout {name} is being carried out by another process"):
        journal.reopen(tmp_path, name)
    made.close()
    journal.reopen(tmp_path, name).close()


def test_a_full_disk_is_named_and_what_was_written_of_the_line_is_dropped_later(tmp_path: Path) -> None:
    made = create(tmp_path)
    before = made.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 10, hard))
    try:
        with pytest.raises(Unavailable, match=r"cannot be written: .*; mend that, then: pipeline rollout resume 2026"):
            made.record(Started(S, "a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    made.close()
    assert states(tmp_path, made.header.id) == "waiting waiting waiting"


def test_a_wish_is_carried_out_at_once_if_nobody_carries_the_rollout_out(tmp_path: Path) -> None:
    made = create(tmp_path)
    made.record(Started(S, "a"))
    made.close()
    assert not journal.wish(tmp_path, made.header.id, Paused(S + 5, "bob@desk"))
    assert journal.read(tmp_path, made.header.id).schedule.status == "paused"
    assert not journal.wish(tmp_path, made.header.id, Aborted(S + 6, "bob@desk"))
    record = journal.read(tmp_path, made.header.id)
    assert states(tmp_path, made.header.id) == "skipped skipped skipped"
    assert record.over is not None
    assert record.over.result == "aborted"


def test_a_wish_is_left_to_the_process_that_carries_the_rollout_out(tmp_path: Path) -> None:
    made = create(tmp_path)
    told: list[bool] = []
    other = threading.Thread(
        target=lambda: told.append(journal.wish(tmp_path, made.header.id, Paused(S + 5, "bob@desk")))
    )
    other.start()
    while not (wishes := list(made.take_wishes())):
        pass
    other.join()
    assert (wishes, told) == ([Paused(S + 5, "bob@desk")], [True])
    assert made.schedule.status == "paused"
    assert list(made.take_wishes()) == []


def test_wishes_that_nobody_took_up_are_carried_out_in_their_order_by_who_comes_next(tmp_path: Path) -> None:
    made = create(tmp_path)
    for event in (Paused(S + 1), Resumed(S + 2)):
        assert journal.wish(tmp_path, made.header.id, event, pause=lambda _: None)
    made.close()
    again = journal.reopen(tmp_path, made.header.id)
    assert [type(w) for w in again.take_wishes()] == [Paused, Resumed]
    again.close()


def test_a_wish_that_comes_too_late_changes_nothing(tmp_path: Path) -> None:
    made = create(tmp_path, "a")
    worked(made, "a")
    assert journal.wish(tmp_path, made.header.id, Aborted(S + 9), pause=lambda _: None)
    before = made.path.read_bytes()
    assert list(made.take_wishes()) == []
    assert list(made.path.with_name(WISHES).iterdir()) == []
    assert made.path.read_bytes() == before


def test_a_newer_rollout_takes_over_the_sites_that_older_ones_have_left(tmp_path: Path) -> None:
    old = create(tmp_path, "a b c d")
    worked(old, "a")
    worked(old, "b", kind="offline")
    old.close()
    new = create(tmp_path, "b c")
    assert states(tmp_path, old.header.id) == "done superseded superseded waiting"
    assert states(tmp_path, new.header.id) == "waiting waiting"
    assert journal.open_ids(tmp_path) == [old.header.id, new.header.id]
    close_all()
    create(tmp_path, "a d")
    assert journal.open_ids(tmp_path)[0] == new.header.id  # the first is over
    assert states(tmp_path, old.header.id) == "done superseded superseded superseded"


def test_a_rollout_is_found_by_its_beginning_or_its_release(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no rollout: name the fleet folder with --fleet DIR, or begin one"):
        journal.find(tmp_path, None)
    first = create(tmp_path, release="aaa").header.id
    close_all()
    second = create(tmp_path, release="bbb").header.id
    assert journal.find(tmp_path, None) == second
    assert [journal.find(tmp_path, w) for w in (first, "aaa", first[:16])] == [first] * 3
    with pytest.raises(ConfigError, match=f"2 rollouts are called '2026'; the newest: {second}, {first}"):
        journal.find(tmp_path, "2026")
    for wrong in ("ccc", "../..", ""):
        with pytest.raises(ConfigError, match=f"rollouts? (is|are)? ?.*'{re.escape(wrong)}'; the newest: {second}"):
            journal.find(tmp_path, wrong)


def test_the_history_tells_who_when_what_and_how_it_went(tmp_path: Path) -> None:
    first = create(tmp_path, "a b")
    worked(first, "a", "b")
    first.finish(S + 9)
    first.close()
    second = create(tmp_path, "a b", note="press 8", clock=ManualClock(T0_NS + 3600 * 10**9))
    worked(second, "a")
    second.close()
    new, old = journal.history(tmp_path, 10)
    assert (old.header.who, old.header.at, old.header.note) == ("ann@desk", "2026-03-01T10:00:00+00:00", "press 7")
    assert (old.result, old.counts, old.ended_s) == ("done", {"done": 2}, S + 9)
    assert (new.result, new.counts, new.ended_s) == ("interrupted", {"waiting": 1, "done": 1}, None)
    assert [e.header.note for e in journal.history(tmp_path, 1)] == ["press 8"]


KILLED = """
import os, sys
from pathlib import Path
from containers.fleet.events import Finished, Outcome, Started
from tests.fleet.rollouts import create
made = create(Path(sys.argv[1]), " ".join(f"s{i}" for i in range(5000)))
print(made.header.id, flush=True)
for i in range(5000):
    made.record(Started(i, f"s{i}"))
    print(i, flush=True)
"""


def test_what_was_recorded_is_there_after_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        told = [process.stdout.readline() for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.read().splitlines()
    started = [s for s, of in journal.read(tmp_path, name).schedule.sites.items() if of.state == "working"]
    assert len(started) >= int(told[-1]) + 1
