"""Going back where sites pull: what ran before is published under a new number, and the agent takes it as the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from containers.agent import document
from containers.agent.publish import Publisher
from containers.agent.status import Status, before
from containers.fleet import journal
from containers.fleet.drive import Driver
from containers.fleet.policy import Policy, Share
from containers.fleet.view import Watcher
from containers.repository import artifact
from containers.repository.errors import Replayed, UnknownKey
from containers.rollout import Actual
from containers.site import SiteFile
from pipelines.errors import ConfigError
from tests.agent.fleet import Pulling
from tests.agent.world import World, strangers
from tests.fleet.rollouts import close_all, create


@pytest.fixture
def pulling(fast_disk: None, tmp_path: Path) -> Iterator[Pulling]:
    """Two sites at which release 1 runs."""
    made = Pulling(tmp_path / "sites", ("s0", "s1"))
    assert made.running(1) == ["s0", "s1"]
    yield made
    close_all()


def publish(of: Pulling, number: int, name: str = "s0") -> None:
    """A release, and a minute in which the site takes it."""
    of.number = number
    of.publisher(of.sites[name]).publish(of.sites[name], _no(), _no())
    of.turn(name)


def back(of: Pulling, name: str = "s0", version: int | None = None) -> int:
    """Publish what ran before, and give the site a minute; the number of the release."""
    made = of.publisher(of.sites[name]).publish_again(of.sites[name], version)
    of.turn(name)
    return made.version


def _no() -> Any:
    return None


def told(of: Pulling) -> Status:
    return of.worlds["s0"].report()


@pytest.mark.parametrize(
    ("running", "earlier", "published", "back", "found"),
    [
        (5, 4, 5, False, 4),
        (5, 4, 6, False, 5),  # 6 failed there, or was not taken up
        (5, 4, 6, True, 6),  # and was a way back itself
        (5, 4, 5, True, 4),
        (5, 0, 5, False, 0),
        (0, 0, 6, False, 0),
    ],
)
def test_which_release_ran_before_the_one_that_is_published(
    running: int, earlier: int, published: int, back: bool, found: int
) -> None:
    said = Status("s0", 0.0, "0", running, 9, "", "", Actual(), before=earlier)
    assert before(said, published, back=back) == found


def test_a_site_goes_back_and_to_and_fro_as_one_that_is_pushed_to(pulling: Pulling) -> None:
    publish(pulling, 2)
    second = told(pulling).running
    assert told(pulling).before < second
    again = back(pulling)
    assert again > second, "an older number would be a replay"
    assert pulling.running(1) == ["s0", "s1"]
    assert (told(pulling).running, told(pulling).before, told(pulling).trouble) == (again, second, "")
    assert back(pulling) > again
    assert pulling.running(2) == ["s0"]


def test_the_same_published_anew_is_nothing_to_go_back_to(pulling: Pulling) -> None:
    publish(pulling, 2)
    publish(pulling, 2)
    publish(pulling, 2)
    back(pulling)
    assert pulling.running(1) == ["s0", "s1"]
    publish(pulling, 2)
    pulling.asleep.add("s0")
    publish(pulling, 2)  # and is not taken up
    pulling.publisher(pulling.sites["s0"]).publish_again(pulling.sites["s0"])
    pulling.asleep.clear()
    pulling.turn("s0")
    assert pulling.running(1) == ["s0", "s1"]


def test_where_a_release_failed_or_was_not_taken_up_what_runs_is_what_ran_before(pulling: Pulling) -> None:
    world = pulling.worlds["s0"]
    world.engine.bad.add(world.tag("process", 2))
    publish(pulling, 2)
    assert "release 2: rolled back" in told(pulling).trouble
    containers = set(world.engine.containers)
    again = back(pulling)
    assert (told(pulling).running, told(pulling).trouble) == (again, "")
    assert set(world.engine.containers) == containers, "nothing is replaced"
    pulling.asleep.add("s1")
    publish(pulling, 3, "s1")
    pulling.publisher(pulling.sites["s1"]).publish_again(pulling.sites["s1"])
    pulling.asleep.clear()
    pulling.turn("s1")
    assert pulling.running(1) == ["s0", "s1"]


def test_going_back_twice_while_a_site_is_away_is_going_back_once(pulling: Pulling) -> None:
    publish(pulling, 2)
    pulling.asleep.add("s0")
    back(pulling)
    back(pulling)
    pulling.asleep.clear()
    pulling.turn("s0")
    assert pulling.running(1) == ["s0", "s1"]
    assert told(pulling).before == 2


def test_an_agent_that_is_killed_knows_all_the_same_what_ran_before(pulling: Pulling, tmp_path: Path) -> None:
    world: World = pulling.worlds["s0"]
    world.publish(2)
    assert world.killed(after="s0-revision-2"), world.effects.told
    world.agent = world.born()
    world.agent.start()
    world.agent.turn()
    assert (world.agent.memory.good, world.agent.memory.before) == (2, 1)
    for copy in world.disk.folder.glob("memory*"):
        copy.unlink()
    world.agent = world.born()
    assert (world.agent.memory.good, world.agent.memory.before) == (2, 1), "the engine's history tells"


def test_any_release_can_be_had_again_by_its_number(pulling: Pulling) -> None:
    first = told(pulling).running
    publish(pulling, 2)
    publish(pulling, 3)
    back(pulling, version=first)
    assert pulling.running(1) == ["s0", "s1"]


def test_what_cannot_be_gone_back_to_is_told_with_the_cure(pulling: Pulling) -> None:
    publisher, site = pulling.publisher(pulling.sites["s0"]), pulling.sites["s0"]
    running = told(pulling).running
    cure = "check out the files of what is to run, and  pipeline deploy --site s0"
    with pytest.raises(
        ConfigError, match=f"site s0: release {running} runs there, and none is known to have run before: {cure}"
    ):
        publisher.publish_again(site)
    with pytest.raises(
        ConfigError,
        match=r"release 77 of site s0 is not in .*repository \(any more\): check out the files that it was made of",
    ):
        publisher.publish_again(site, 77)


def kept(of: Pulling, version: int, stated: int, by: Any = None) -> None:
    """What runs at s0, put where a release is kept."""
    world, repo = of.worlds["s0"], of.repo
    publish(of, 2)
    good = artifact.get_document(repo, "site/s0", artifact.DESIRED)
    assert good
    world.put(good.content, stated, by=by)
    lies = artifact.get_document(repo, "site/s0", artifact.DESIRED)
    assert lies
    artifact.put_document(repo, "site/s0", artifact.kept(version), lies.content, lies.media_type, lies.statement)


def test_what_others_put_into_the_place_of_a_release_is_not_published_with_our_signature(pulling: Pulling) -> None:
    publisher, site = pulling.publisher(pulling.sites["s0"]), pulling.sites["s0"]
    kept(pulling, 40, 40, by=strangers())
    with pytest.raises(UnknownKey, match="the statement about site/s0 is signed by"):
        publisher.publish_again(site, 40)
    kept(pulling, 50, 51)
    with pytest.raises(Replayed, match=r"lies at .* as release 50 of site/s0 is release 51: it is not used"):
        publisher.publish_again(site, 50)


def test_the_agent_stays_the_newer_one_and_the_rules_are_todays(pulling: Pulling) -> None:
    world, site = pulling.worlds["s0"], pulling.sites["s0"]
    world.publish(2, version=2, agent=1)
    world.publish(3, version=3, agent=2)
    made = pulling.publisher(site).publish_again(site, 2, rollout="r7")
    now = pulling.publisher(site).standing("s0")
    assert now
    assert (now.version, now.document.rollout, now.document.what) == (made.version, "r7", "tiny 2")
    assert now.document.agent == (world.tag("agent", 2),)
    assert {*now.document.images} == {*world.expected(2).values(), world.tag("agent", 2)}
    assert now.document.rules.health_timeout_s == 120.0
    old = pulling.publisher(site).earlier(site, 2)
    assert document.alike(now.document, old)
    assert not document.alike(now.document, pulling.publisher(site).earlier(site, 3))
    fewer = msgspec.structs.replace(old, services=old.services[:1])
    assert not document.alike(old, fewer)


def test_a_rollback_is_a_rollout_and_no_site_goes_back_twice(pulling: Pulling, tmp_path: Path) -> None:
    for name in ("s0", "s1"):
        publish(pulling, 2, name)
    made = create(tmp_path, "s0 s1", policy=Policy(max_failures=Share(0)))
    counts: list[str] = []

    def again(publisher: Publisher, site: SiteFile) -> None:
        counts.append(site.site.site)
        publisher.publish_again(site, rollout=made.header.id)

    attempt = pulling.attempt(made.header.id, what=again)
    with closing(made):
        attempt("s0", lambda _: None)  # and the process is killed
    with closing(journal.reopen(tmp_path, made.header.id)) as taken:
        assert Driver(taken, attempt, Watcher()).run() == 0
    assert pulling.running(1) == ["s0", "s1"]
    assert sorted(counts) == ["s0", "s1"]
