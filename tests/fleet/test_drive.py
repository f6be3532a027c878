"""Carrying a rollout out: threads, errors, waiting for offline sites, Ctrl-C, `kill -9` and taking up again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containers.fleet import journal
from containers.fleet.drive import Driver
from containers.fleet.events import Aborted, Event, Finished, Outcome, Paused, Resumed
from containers.fleet.journal import Journal
from containers.fleet.policy import Policy, Share
from containers.fleet.schedule import Schedule
from containers.fleet.view import Watcher
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, Unavailable
from tests.fleet.rollouts import T0_NS, close_all, create

QUICK = Policy(retry_s_min=0.05, retry_s_max=0.05)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


class Heard(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, str]] = []
        self.events: list[Event] = []

    def event(self, event: Event, schedule: Schedule) -> None:
        self.events.append(event)

    def phase(self, site: str, phase: str) -> None:
        self.phases.append((site, phase))


def well(site: str, report: Callable[[str], None]) -> Outcome:
    return Outcome("done", revision=7)


def read(made: Journal) -> Schedule:
    return journal.read(made.path.parents[3], made.header.id).schedule


def test_all_sites_are_brought_up_to_date_and_it_is_on_record(tmp_path: Path) -> None:
    made, heard = create(tmp_path), Heard()

    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        report("ship")
        report("gates")
        return Outcome("done", revision=7, bytes_shipped=10)

    assert Driver(made, attempt, heard).run() == 0
    assert sorted(heard.phases) == sorted((s, p) for s in "abc" for p in ("ship", "gates"))
    assert {e.site for e in heard.events if isinstance(e, Finished)} == {"a", "b", "c"}
    assert [s.outcome for s in read(made).sites.values()] == [Outcome("done", revision=7, bytes_shipped=10)] * 3
    over = journal.read(tmp_path, made.header.id).over
    assert over is not None
    assert (over.result, over.counts) == ("done", {"done": 3})


def test_no_more_threads_than_allowed_work_at_once(tmp_path: Path) -> None:
    made = create(tmp_path, " ".join(f"s{i}" for i in range(30)), policy=Policy(max_parallel=3))
    working, most = [0], [0]
    lock = threading.Lock()

    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        time.sleep(0.005)
        with lock:
            working[0] -= 1
        return Outcome("unchanged")

    assert Driver(made, attempt, Watcher()).run() == 0
    assert most[0] == 3


@pytest.mark.parametrize(
    ("error", "state", "message", "code"),
    [
        (Unavailable("nobody answers"), "pending", "nobody answers", 5),
        (ConfigError("no such network"), "failed", "no such network", 3),
        (RuntimeError("a mistake of ours"), "broken", "RuntimeError: a mistake of ours", 4),
        (SystemExit(2), "broken", "SystemExit: 2", 4),
    ],
)
def test_what_an_attempt_raises_is_an_outcome(
    tmp_path: Path, error: BaseException, state: str, message: str, code: int
) -> None:
    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        if site == "b":
            raise error
        return well(site, report)

    made = create(tmp_path)
    assert Driver(made, attempt, Watcher()).run() == code
    b = read(made).sites["b"]
    assert b.outcome is not None
    assert (b.state, b.outcome.message) == (state, message)
    assert [read(made).sites[s].state for s in "ac"] == ["done", "done"]


def test_too_many_failures_halt_the_rollout(tmp_path: Path) -> None:
    made = create(tmp_path, "a b c d", policy=Policy(max_parallel=1, max_failures=Share(1)))
    assert Driver(made, lambda site, report: Outcome("failed"), Watcher()).run() == 3
    assert [s.state for s in read(made).sites.values()] == ["failed", "failed", "skipped", "skipped"]
    assert journal.history(tmp_path, 1)[0].result == "halted"


def away(times: int) -> Callable[[str, Callable[[str], None]], Outcome]:
    """Site a cannot be reached so many times."""
    left = [times]

    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        if site == "a" and left[0]:
            left[0] -= 1
            return Outcome("offline")
        return Outcome("done")

    return attempt


def test_sites_that_are_away_are_left_pending_and_catch_up_when_the_rollout_is_taken_up(tmp_path: Path) -> None:
    made = create(tmp_path, policy=Policy(retry_s_min=3600, retry_s_max=3600))
    attempt = away(1)
    assert Driver(made, attempt, Watcher()).run() == 5
    assert [s.state for s in read(made).sites.values()] == ["pending", "done", "done"]
    assert journal.read(tmp_path, made.header.id).over is None
    close_all()
    again = journal.reopen(tmp_path, made.header.id)
    assert Driver(again, attempt, Watcher()).run() == 0
    again.close()
    assert [s.attempts for s in read(made).sites.values()] == [2, 1, 1]


def test_it_waits_for_them_if_told_to_and_no_longer_than_that(tmp_path: Path) -> None:
    made = create(tmp_path, policy=QUICK)
    assert Driver(made, away(3), Watcher(), wait_s=30).run() == 0
    close_all()
    begun = time.monotonic()
    assert Driver(create(tmp_path, policy=QUICK), away(10**6), Watcher(), wait_s=0.6).run() == 5
    assert 0.6 <= time.monotonic() - begun < 10


def test_time_goes_on_from_the_newest_event_if_the_clock_was_put_back(tmp_path: Path) -> None:
    made = create(tmp_path, policy=Policy(retry_s_min=1, retry_s_max=1))
    assert Driver(made, away(1), Watcher(), clock=ManualClock(T0_NS)).run() == 5
    close_all()
    again = journal.reopen(tmp_path, made.header.id)
    before = again.schedule.now_s
    assert Driver(again, well, Watcher(), clock=ManualClock(T0_NS - 10**15)).run() == 0
    again.close()
    over = journal.read(tmp_path, made.header.id).over
    assert over is not None
    assert over.at_s >= before


def test_another_terminal_pauses_resumes_and_aborts(tmp_path: Path) -> None:
    made, heard = create(tmp_path, "a b c", policy=Policy(max_parallel=1)), Heard()
    name, begun, go_on = made.header.id, threading.Semaphore(0), threading.Semaphore(0)

    def attempt(site: str, report: Callable[[str], None]) -> Outcome:
        begun.release()
        go_on.acquire()
        return Outcome("done")

    codes: list[int] = []
    driver = threading.Thread(target=lambda: codes.append(Driver(made, attempt, heard).run()))
    driver.start()
    begun.acquire()
    now_s = time.monotonic()
    assert journal.wish(tmp_path, name, Paused(1))
    assert time.monotonic() - now_s < 1.5  # half a second, and looking for it
    go_on.release()
    assert not begun.acquire(timeout=0.7)
    assert journal.wish(tmp_path, name, Resumed(2))
    begun.acquire()
    assert journal.wish(tmp_path, name, Aborted(3))
    go_on.release()
    driver.join()
    assert codes == [1]
    assert [s.state for s in read(made).sites.values()] == ["done", "done", "skipped"]
    assert [type(e) for e in heard.events if isinstance(e, Paused | Resumed | Aborted)] == [Paused, Resumed, Aborted]


@contextmanager
def driven(fleet: Path, *words: str, **kinds: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`tests.fleet.driven` as a process."""
    with subprocess.Popen([sys.executable, "-m", "tests.fleet.driven", str(fleet), *words], **kinds) as process:
        try:
            yield process
        finally:
            process.kill()


def trace(fleet: Path) -> list[str]:
    path = fleet / "trace"
    return path.read_text().splitlines() if path.exists() else []


def count(fleet: Path, word: str) -> int:
    return sum(line.startswith(word) for line in trace(fleet))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_a_rollout_killed_in_the_middle_is_taken_up(tmp_path: Path) -> None:
    with driven(tmp_path, "12") as process:
        until(lambda: count(tmp_path, "end") >= 3)
        (tmp_path / "hold").touch()
        until(lambda: count(tmp_path, "begin") - count(tmp_path, "end") == 4)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "hold").unlink()
    name = journal.ids(tmp_path)[0]
    broken_off = journal.read(tmp_path, name)
    assert journal.standing(broken_off) == "interrupted"
    open_ = {s for s, of in broken_off.schedule.sites.items() if of.state == "working"}
    done = {s for s, of in broken_off.schedule.sites.items() if of.state == "done"}
    assert len(open_) == 4
    before = len(trace(tmp_path))
    with driven(tmp_path, "12", "resume") as process:
        assert process.wait(30) == 0
    since = trace(tmp_path)[before:]
    begun = [line.split()[1] for line in since if line.startswith("begin")]
    assert open_ <= set(begun)
    assert len(begun) == len(set(begun))
    assert not done & set(begun)  # and nobody twice who was done
    record = journal.read(tmp_path, name)
    assert record.schedule.result == "done"
    assert {s for s, of in record.schedule.sites.items() if of.attempts == 2} == open_


def test_ctrl_c_starts_nothing_more_and_waits_for_what_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with driven(tmp_path, "12") as process:
        until(lambda: len(trace(tmp_path)) == 4)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        (tmp_path / "hold").unlink()
        assert process.wait(30) == 130
    assert sorted(line.split()[0] for line in trace(tmp_path)) == ["begin"] * 4 + ["end"] * 4
    record = journal.read(tmp_path, journal.ids(tmp_path)[0])
    assert (record.schedule.counts["done"], record.schedule.counts["waiting"]) == (4, 8)


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with driven(tmp_path, "12", stderr=subprocess.DEVNULL) as process:
        until(lambda: len(trace(tmp_path)) == 4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert journal.read(tmp_path, journal.ids(tmp_path)[0]).schedule.counts["working"] == 4
