"""Waves over sites that pull: what their agents report decides, and whoever is silent holds up nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from containers.agent import status
from containers.agent.document import Document, Rules
from containers.agent.publish import Standing
from containers.agent.status import SILENT_S, Status
from containers.fleet import journal
from containers.fleet.drive import Driver
from containers.fleet.events import Outcome, Started
from containers.fleet.journal import Journal
from containers.fleet.policy import Policy, Share
from containers.fleet.pulled import overdue, verdict
from containers.fleet.schedule import Schedule
from containers.fleet.view import Watcher
from containers.repository import artifact
from containers.rollout import Actual, Record
from pipelines.errors import ConfigError, Unavailable
from tests.agent.fleet import Pulling
from tests.agent.world import strangers
from tests.containers.kit import found
from tests.fleet.rollouts import T0_NS, close_all, create

NAMES = tuple(f"s{i}" for i in range(6))
WAVES = Policy(
    canary=2, waves=(50,), max_parallel=1, max_failures=Share(0), retry_s_min=0.01, retry_s_max=0.01
)  # 2, 3, 6


@pytest.fixture
def pulling(fast_disk: None, tmp_path: Path) -> Iterator[Pulling]:
    """Six sites at which release 1 runs."""
    made = Pulling(tmp_path / "sites", NAMES)
    assert made.running(1) == list(NAMES)
    made.number = 2
    yield made
    close_all()


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda _: None)


def begun(folder: Path) -> Journal:
    return create(folder, " ".join(NAMES), policy=WAVES)


def driven(of: Journal, pulling: Pulling) -> int:
    attempt = pulling.attempt(of.header.id, last=lambda: of.schedule.wave == len(of.schedule.quotas))
    with closing(of):
        return Driver(of, attempt, Watcher()).run()


def result(folder: Path) -> Schedule:
    return journal.read(folder, journal.find(folder, None)).schedule


def test_each_wave_is_published_when_the_one_before_runs(pulling: Pulling, tmp_path: Path) -> None:
    before: dict[str, int] = {}
    publish = type(pulling.publisher(pulling.sites["s0"])).publish

    def counted(self: Any, site: Any, *words: Any, **more: Any) -> Any:
        before[site.site.site] = len(pulling.running(2))
        return publish(self, site, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.agent.fleet._Publisher.publish", counted)
        assert driven(begun(tmp_path), pulling) == 0
    assert pulling.running(2) == list(NAMES)
    assert before["s2"] >= 2, "a wave was published before the canary ran"
    assert min(before[name] for name in NAMES[3:]) >= 3
    assert {of.wave for of in result(tmp_path).sites.values()} == {1, 2, 3}
    assert pulling.settled == list(NAMES), "each site's rights are looked after when it runs"


@pytest.mark.parametrize("fault", ["bad", "ill"])
def test_a_bad_release_stops_at_the_canary(fault: str, pulling: Pulling, tmp_path: Path) -> None:
    for world in pulling.worlds.values():
        getattr(world.engine, fault).add(world.tag("process", 2))
    assert driven(begun(tmp_path), pulling) == 3
    schedule = result(tmp_path)
    assert schedule.result == "halted"
    assert pulling.published == [("s0", 2)], "nothing is published for the others"
    assert pulling.running(1) == list(NAMES)
    outcome = schedule.sites["s0"].outcome
    assert outcome
    assert (outcome.kind, outcome.revision) == ("failed", 1)
    assert "release 2: rolled back: process" in outcome.message
    assert pulling.settled == [], "the site may need all its rights"


def test_who_is_silent_is_pending_holds_up_nobody_and_catches_up(pulling: Pulling, tmp_path: Path) -> None:
    pulling.asleep = {"s0", "s4"}
    pulling.clock.advance(SILENT_S + 60)
    for name in NAMES:
        pulling.turn(name)
    order: list[tuple[str, int]] = pulling.published
    assert driven(begun(tmp_path), pulling) == 5
    assert result(tmp_path).result == "pending"
    assert [name for name, _ in order][:2] == ["s1", "s2"], "others are the canaries"
    assert sorted(order) == [(name, 2) for name in NAMES], "in the last wave it is there for the silent ones, too, once"
    assert pulling.running(1) == ["s0", "s4"]
    outcome = result(tmp_path).sites["s0"].outcome
    assert outcome
    assert outcome.message.startswith("its agent reported last ")
    assert "minutes ago: release 2 is there for it" in outcome.message
    pulling.asleep = set()
    pulling.turn("s0")  # it finds the newest by itself
    pulling.turn("s4")
    assert driven(journal.reopen(tmp_path, journal.find(tmp_path, None)), pulling) == 0
    assert len(order) == len(NAMES), "nothing is published again"
    assert pulling.running(2) == list(NAMES)


def test_while_waves_are_to_come_nothing_lies_in_wait_for_the_silent(pulling: Pulling, tmp_path: Path) -> None:
    pulling.asleep = {"s0"}
    pulling.clock.advance(SILENT_S + 60)
    for name in NAMES:
        pulling.turn(name)
        pulling.worlds[name].engine.bad.add(pulling.worlds[name].tag("process", 2))
    assert driven(begun(tmp_path), pulling) == 3
    assert pulling.published == [("s1", 2)]
    pulling.asleep = set()
    pulling.turn("s0")
    assert pulling.running(1) == list(NAMES)
    assert pulling.worlds["s0"].agent.memory.newest == 1


def test_who_falls_silent_after_it_was_published_for_is_pending(pulling: Pulling) -> None:
    attempt = pulling.attempt("r1", last=lambda: False)
    pulling.asleep = {"s0"}
    with pytest.raises(Unavailable, match="it has not taken release 2 up within 4 minutes, which is there for it"):
        attempt("s0", lambda _: None)
    assert pulling.published == [("s0", 2)]
    pulling.asleep = set()
    pulling.turn("s0")
    assert attempt("s0", lambda _: None).kind == "done"
    assert pulling.published == [("s0", 2)], "for one rollout once"


def test_after_a_crash_nothing_is_published_twice(pulling: Pulling, tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.record(Started(T0_NS / 1e9, "s0"))
    nothing: Any = None
    pulling.publisher(pulling.sites["s0"]).publish(pulling.sites["s0"], nothing, nothing, rollout=made.header.id)
    made.close()  # and the process was killed
    assert driven(journal.reopen(tmp_path, made.header.id), pulling) == 0
    assert pulling.published.count(("s0", 2)) == 1
    assert pulling.running(2) == list(NAMES)


def test_what_was_published_by_nobody_of_us_or_for_another_rollout_does_not_count(pulling: Pulling) -> None:
    world = pulling.worlds["s0"]
    world.publish(2, by=strangers(), rollout="r1")
    assert pulling.attempt("r1")("s0", lambda _: None).kind == "done"
    assert pulling.published == [("s0", 2)]
    assert pulling.attempt("r2")("s0", lambda _: None).kind == "done"
    assert pulling.published == [("s0", 2), ("s0", 2)]


def test_what_a_site_refuses_has_failed(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    world = pulling.worlds["s0"]
    publish = world.publish
    monkeypatch.setattr(world, "publish", lambda number, **more: publish(number, days=-1, **more))
    outcome = pulling.attempt("r1")("s0", lambda _: None)
    assert outcome.kind == "failed"
    assert "it does not take release 2: the statement about site/s0 expired at" in outcome.message


def test_a_repository_that_is_away_for_a_while_changes_nothing(
    pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, phases = pulling.attempt("r1"), list[str]()
    looks, get = [0], artifact.get_document

    def away(repo: Any, name: str, tag: str, **more: Any) -> Any:
        looks[0] += name == "status/s0"
        if 1 < looks[0] < 4 and name == "status/s0":
            raise Unavailable("the registry cannot be reached")
        return get(repo, name, tag, **more)

    monkeypatch.setattr("containers.agent.report.artifact.get_document", away)
    assert said("s0", phases.append).kind == "done"
    assert "the repository does not answer" in phases


def test_a_site_that_is_gone_from_the_files_is_told(pulling: Pulling) -> None:
    with pytest.raises(ConfigError, match="site s9 is no longer in the fleet folder"):
        pulling.attempt("r1")("s9", lambda _: None)


def said(age_s: float = 1.0, *, at_s: float = 1e10, container: Any = None, **changes: Any) -> status.Reported:
    one = container or found()
    actual = Actual((one,), (Record(3, {"process": one.name}, "2026"),))
    usual = {"running": 1, "newest": 2, "trouble": "", "failed": 0}
    made = Status("s0", at_s, "0.1.0", what="tiny 1", actual=actual, **{**usual, **changes})
    return status.reported(made, at_s + age_s)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (said(), None),
        (said(running=2), Outcome("done", "", 3)),
        (said(running=4, newest=4), Outcome("done", "release 4, which is newer, runs", 3)),
        (said(failed=1), None),
        (said(failed=2, trouble="it broke"), Outcome("failed", "it broke", 3)),
        (said(failed=3, newest=3), Outcome("failed", "release 3 failed", 3)),
        (said(failed=2, trouble="it broke", container=found(state="exited")), Outcome("broken", "it broke", 3)),
    ],
)  # fmt: skip
def test_a_verdict_is_what_the_site_says(seen: status.Reported, outcome: Outcome | None) -> None:
    assert seen.status
    assert verdict(seen.status, 2) == outcome


def test_how_long_is_waited_for_what() -> None:
    rules = Rules(health_timeout_s=100.0, soak_s=600.0, errors_max=0.1)
    services: Any = (None, None)
    mine = Standing(2, Document("s0", "", "", "2026-06-02T00:00:00+00:00", rules, {}, services))
    taken_s = 3 * 10 + 60
    whole_s = taken_s + SILENT_S + 2 * 100 + 600
    fresh = said(newest=1)
    assert overdue(fresh, mine, 10, taken_s - 1) is None
    with pytest.raises(Unavailable, match="has not taken release 2 up within 90 seconds"):
        overdue(fresh, mine, 10, taken_s)
    with pytest.raises(Unavailable, match="has not taken"):
        overdue(None, mine, 10, taken_s)
    with pytest.raises(Unavailable, match="has not taken"):
        overdue(said(newest=1, trouble="old news", at_s=1e3), mine, 10, taken_s)
    assert overdue(said(trouble="the disk is full"), mine, 10, whole_s - 1) is None
    failed = overdue(said(trouble="the disk is full"), mine, 10, whole_s)
    assert failed == Outcome("failed", f"release 2 does not run after {whole_s // 60:.0f} minutes: the disk is full", 3)
    with pytest.raises(Unavailable, match=r"does not run after .* and its agent is silent"):
        overdue(said(SILENT_S + 1), mine, 10, whole_s)
