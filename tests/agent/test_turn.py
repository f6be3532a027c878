"""An agent's turns in a world where things go wrong: what runs goes on, the reason is told, the next release works."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containers.agent.config import Config, set_up
from containers.agent.disk import IDENTITY, Disk
from containers.agent.status import REPORT_S
from containers.commands import Command, StartContainer, StopContainer
from containers.repository import artifact, errors, transfer
from containers.repository.trust import COPIES, TrustStore
from pipelines.errors import StateError
from tests.agent.world import LATER, SITE, World, strangers
from tests.repository.plant import RELEASE_KEYS, ROOT_KEYS, make_root


def refused(world: World, *words: str, then: int = 9) -> None:
    """Release 1 runs on, the reason is told and reported, a good release is taken later."""
    assert not world.agent.turn()
    assert world.engine.running == world.expected(1)
    for word in words:
        assert word in world.report().trouble
        assert any(word in said for said in world.said)
    world.publish(then)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(then)
    assert world.report().trouble == ""
    assert world.report().running == then


def test_a_release_runs_and_is_reported(world: World) -> None:
    said = world.report()
    assert (said.running, said.newest, said.what, said.trouble) == (1, 1, "tiny 1", "")
    assert {c.service: c.image for c in said.actual.containers} == world.expected(1)
    assert world.engine.content["sitestream-hall1-process-config-" + world.wanted(1)[1].fingerprint]["secrets/key"]


def test_nothing_new_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.repo, "blob", lambda *_: pytest.fail("something was fetched"))
    monkeypatch.setattr(world.repo, "push_blob", lambda *_: pytest.fail("something was reported"))
    world.effects.told.clear()
    for _ in range(3):
        world.clock.advance(60)
        assert world.agent.turn()
    assert world.effects.told == []


def test_a_report_comes_when_something_changes_and_now_and_then(world: World) -> None:
    first = world.report()
    world.clock.advance(REPORT_S)
    assert world.agent.turn()
    assert world.report().at_s == pytest.approx(first.at_s + REPORT_S, abs=30)
    name = next(n for n in world.engine.containers if "process" in n)
    world.engine.containers[name] = replace(world.engine.containers[name], health="unhealthy")
    assert world.agent.turn()
    assert {c.service: c.health for c in world.report().actual.containers}["process"] == "unhealthy"
    assert world.engine.running == world.expected(1), "what is not well is reported, not replaced"


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        (lambda w: w.publish(5, by=strangers()), "root 1 does not know that key for this"),
        (lambda w: w.publish(5, by=[]), "is signed by nobody"),
        (lambda w: w.publish(5, days=-5), "expired at 2026-05-27T00:00:00Z"),
        (lambda w: w.publish(5, version=1), "came in version 1 with other content than before"),
        (lambda w: w.publish(5, site="hall2"), "the release is for site hall2, and this is hall1"),
        (lambda w: w.put(b"nonsense", 5), "cannot be read"),
        (lambda w: _forge(w), "bears a signature that key"),
    ],
)  # fmt: skip
def test_lies_are_told_and_nothing_is_touched(world: World, lie: Callable[[World], None], word: str) -> None:
    lie(world)
    refused(world, word)


def _forge(world: World) -> None:
    """Somebody changes what is signed, and leaves the signature."""
    world.publish(5)
    path = artifact.site_name(SITE)
    found = artifact.get_document(world.repo, path, artifact.DESIRED)
    assert found
    value = json.loads(found.statement)
    value["signed"]["version"] = 6
    artifact.put_document(
        world.repo, path, artifact.DESIRED, found.content, found.media_type, json.dumps(value).encode()
    )


def test_an_old_release_is_not_taken_again(world: World) -> None:
    world.publish(5)
    assert world.agent.turn()
    world.publish(4)
    assert not world.agent.turn()
    assert "came in version 4, and version 5 was seen before" in world.report().trouble
    assert world.engine.running == world.expected(5)
    world.publish(6)
    assert world.agent.turn()
    assert world.engine.running == world.expected(6)


def test_a_wrong_clock_accepts_nothing_and_stops_nothing(world: World) -> None:
    world.publish(5)
    world.clock.advance(-2 * LATER)
    assert not world.agent.turn()
    assert "clock wrong: it stands at 2026-05-31" in world.said[-1]
    assert world.engine.running == world.expected(1)
    world.clock.advance(2 * LATER)
    assert world.agent.turn()
    assert world.engine.running == world.expected(5)


def test_an_expired_release_that_runs_goes_on_and_says_so(world: World) -> None:
    world.clock.advance(40 * LATER)
    assert world.agent.turn()
    assert "release 1 has expired, and nothing newer came" in world.report().trouble
    assert world.engine.running == world.expected(1)


def test_keys_are_exchanged_without_visiting_the_site(world: World) -> None:
    new = make_root(2, release=RELEASE_KEYS[1:], by=ROOT_KEYS)
    artifact.put_roots(world.repo, [make_root(), new])
    world.publish(5, by=RELEASE_KEYS[1:])
    assert world.agent.turn(), world.said
    world.publish(6, by=RELEASE_KEYS[:1])  # the old key counts no more
    assert not world.agent.turn()
    assert "root 2 does not know that key" in world.report().trouble


def test_without_the_registry_the_site_is_held_and_later_catches_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise errors.Unreachable("the registry cannot be reached")

    world.publish(5)
    monkeypatch.setattr(world.repo, "manifest", away)
    name = next(n for n in world.engine.containers if "process" in n)
    del world.engine.containers[name]
    world.agent = world.born()
    world.agent.start()  # the machine was started, without a network
    assert world.engine.running == world.expected(1)
    assert not world.agent.turn()
    monkeypatch.undo()
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def test_wrong_bytes_and_a_full_disk_are_tried_again_and_nothing_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(5)
    before = world.engine.running
    monkeypatch.setattr(world.repo, "blob", _lying(world.repo.blob))
    assert not world.agent.turn()
    assert "gave other content for sha256:" in world.report().trouble
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_bounded", full)
        for _ in range(5):  # more often than what is broken off is tried
            assert not world.agent.turn()
    assert "no space is left" in world.report().trouble
    assert world.engine.running == before
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def _lying(blob: Callable[..., Any]) -> Callable[..., Any]:
    """Images' layers have other content, of the same length; documents are as they are."""

    def lie(name: str, digest: str, offset: int = 0) -> Any:
        content = b"".join(blob(name, digest, offset))
        yield bytes(len(content)) if name == artifact.IMAGES else content

    return lie


def test_no_space_for_the_agents_own_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    world.publish(5)
    for module in ("containers.repository.trust", "containers.agent.disk"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.write_whole", full)
            assert not world.agent.turn()
    assert "no space is left" in world.report().trouble
    assert world.engine.running == world.expected(1)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


@pytest.mark.parametrize("command", [StopContainer, StartContainer])
def test_the_engine_dies_in_mid_deploy(world: World, command: type[Command]) -> None:
    world.publish(5)
    died: list[bool] = []

    def down(asked: Command | None) -> bool:
        died.extend([True] if isinstance(asked, command) else [])
        return bool(died)

    world.engine.down = down
    assert not world.agent.turn()
    assert "the Docker engine cannot be reached" in world.said[-1]
    world.engine.down = lambda _: False
    world.clock.advance(100)
    world.agent = world.born()
    world.agent.start()
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def test_a_bad_release_goes_back_is_not_tried_again_and_blocks_nothing(world: World) -> None:
    world.engine.bad = {world.tag("process", 5)}
    world.publish(5)
    assert not world.agent.turn()
    assert world.engine.running == world.expected(1)
    world.effects.told.clear()
    for _ in range(3):
        world.agent.turn()
    assert world.effects.told == []
    assert "release 5 failed and is not tried again: process ended with code 1" in world.report().trouble
    assert (world.report().running, world.report().newest) == (1, 5)
    world.publish(6)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(6)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda w: w.engine.ill.add(w.tag("process", 5)), "process was not healthy within 5 s: starting"),
        (lambda w: w.engine.mortal.update({w.tag("process", 5): 2.5}), "process ended with code 7 in the soak"),
        (lambda w: w.engine.mortal.update({w.tag("upload", 5): 0.5}), "upload ended with code 7"),
    ],
)
def test_a_release_that_hangs_or_dies_in_the_soak_goes_back(
    world: World, fault: Callable[[World], None], why: str
) -> None:
    fault(world)
    world.publish(5)
    assert not world.agent.turn()
    assert world.engine.running == world.expected(1)
    assert world.agent.memory.failed == 5
    assert why in world.agent.memory.why
    world.publish(6)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(6)


def test_published_again_what_failed_is_tried_again(world: World) -> None:
    world.engine.bad = {world.tag("process", 5)}
    world.publish(5)
    assert not world.agent.turn()
    world.engine.bad = set()
    world.publish(5, version=6)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def test_what_was_changed_by_hand_is_mended(world: World) -> None:
    name = next(n for n in world.engine.containers if "process" in n)
    world.engine.containers[name] = replace(world.engine.containers[name], state="exited")
    assert world.agent.turn()
    assert world.engine.running == world.expected(1)
    config = world.engine.containers[name].config
    world.engine.content[config] = {}
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(1)
    assert world.engine.content[config], "its files are there again"


def test_while_an_operator_changes_the_site_the_agent_waits(world: World) -> None:
    world.publish(5)
    label = json.dumps(
        {"number": 999, "token": "x", "by": "me@there", "purpose": "deployed", "since_s": 0.0, "lease_s": 60.0}
        | {"until_s": world.clock.now_ns() / 1e9 + 50}
    )
    world.engine.volumes_["sitestream-hall1-lock-999"] = {"sitestream.site": SITE, "sitestream.lock": label}
    assert not world.agent.turn()
    assert "site hall1 is being deployed by me@there" in world.report().trouble
    assert world.engine.running == world.expected(1)
    world.clock.advance(100)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [halve, Path.unlink, lambda p: p.write_bytes(b"")], ids=["half", "gone", "empty"])
def test_a_damaged_memory_is_taken_from_the_engine(world: World, damage: Callable[[Path], object]) -> None:
    world.engine.bad = {world.tag("process", 5)}
    world.publish(5)
    assert not world.agent.turn()
    before = world.agent.memory
    damage(world.disk.folder / "memory.json")
    world.agent = world.born()
    assert world.agent.memory == replace_tries(before)
    world.effects.told.clear()
    world.agent.start()
    world.agent.turn()
    assert world.effects.told == []  # not tried again, nothing touched
    world.publish(6)
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(6)


def replace_tries(memory: Any) -> Any:
    return type(memory)(**{f: getattr(memory, f) for f in memory.__struct_fields__} | {"tries": 0})


def test_a_damaged_document_is_fetched_again(world: World) -> None:
    halve(world.disk.folder / "releases" / "1.json")
    world.agent = world.born()
    world.agent.start()
    assert world.engine.running == world.expected(1)
    assert "release 1 is not on this machine's disk any more" in world.said[-1]
    assert world.agent.turn(), world.said
    assert world.disk.kept().keys() == {1}


def test_of_keys_one_copy_may_be_lost_and_not_both(world: World) -> None:
    halve(world.disk.folder / IDENTITY[0])
    assert world.disk.identity() == world.identity
    halve(world.disk.folder / IDENTITY[1])
    with pytest.raises(StateError, match=r"the site's keys in .* are damaged: what runs goes on.*enrol --reset"):
        world.disk.identity()


def test_a_lost_trust_store_accepts_nothing_and_is_not_made_anew(world: World, tmp_path: Path) -> None:
    world.publish(5)
    for name in COPIES:
        halve(world.disk.folder / "trust" / name)
    config = Config(site=SITE, repository="r", poll_s=1.0, data=str(world.disk.folder))
    (tmp_path / "root.json").write_bytes(make_root())
    world.agent.trusted = set_up(config, Disk(world.disk.folder), tmp_path)
    refused_by_store = world.agent.turn()
    assert not refused_by_store
    assert "the trust store" in world.report().trouble
    assert world.engine.running == world.expected(1)


def test_the_first_start_may_be_broken_off(fast_disk: None, tmp_path: Path) -> None:
    config = Config(site=SITE, repository="r", poll_s=1.0, data=str(tmp_path / "data"))
    (tmp_path / "root.json").write_bytes(make_root())
    TrustStore(tmp_path / "data" / "trust").init(make_root())  # and then the power failed
    set_up(config, Disk(tmp_path / "data"), tmp_path)
    made = Disk(tmp_path / "data").identity()
    set_up(config, Disk(tmp_path / "data"), tmp_path)
    assert Disk(tmp_path / "data").identity() == made
    assert (tmp_path / "data" / "public").read_text().strip() == made.public


def test_a_flaw_of_ours_does_not_keep_the_next_release_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def flaw(*_: object) -> None:
        raise KeyError("flaw")

    with monkeypatch.context() as patch:
        patch.setattr("containers.agent.turn.Puller.as_it_is", flaw)
        assert not world.agent.turn()
        world.publish(5)
        assert not world.agent.turn()
    assert "internal error: KeyError('flaw')" in world.report().trouble
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(5)


def test_topics_and_rights_are_made_inside_the_sites_own_broker_before_others_need_them(
    fast_disk: None, tmp_path: Path
) -> None:
    world = World(tmp_path / "world", services=("broker", "process"), grants=("make", "topics"))
    world.publish(1)
    world.agent.start()
    assert world.agent.turn(), world.said
    told = [t for t in world.effects.told if t.startswith(("Start", "execute"))]
    assert told == [
        "StartContainer(name='sitestream-hall1-broker-r1')",
        "execute make topics in sitestream-hall1-broker-r1",
        "StartContainer(name='sitestream-hall1-process-r1')",
    ]
    world.publish(2)
    world.engine.stuck = "make"
    assert not world.agent.turn()
    assert world.engine.running == world.expected(1)
    assert "topics and rights could not be made in sitestream-hall1-broker-r2: no leader" in world.report().trouble
    assert world.agent.memory.failed == 0, "that may pass"
    world.engine.stuck = "nothing"
    assert world.agent.turn(), world.said
    assert world.engine.running == world.expected(2)
    assert not [t for t in world.effects.told if "settle" in t], "an operator of before did not say how"


@pytest.fixture
def owner(fast_disk: None, tmp_path: Path) -> World:
    """A site with a broker of its own at which release 1 runs, whose rights are settled."""
    world = World(tmp_path / "world", services=("broker", "process"), grants=("grant",))
    world.publish(1, settles=("settle", "1"))
    world.agent.start()
    assert world.agent.turn(), world.said
    assert rights_of(world) == ["grant in broker-r1", "settle 1 in broker-r1"]
    assert "Kafka: 2 rights taken away" in world.said
    return world


def rights_of(world: World) -> list[str]:
    """What was made of rights since the last question, and where."""
    told = [t.removeprefix("execute ") for t in world.effects.told if t.startswith("execute")]
    world.effects.told.clear()
    return [t.replace("sitestream-hall1-", "") for t in told]


def test_rights_are_taken_away_once_a_release_has_stayed_well_and_never_before(owner: World) -> None:
    owner.publish(2, settles=("settle", "2"))
    assert owner.agent.turn(), owner.said
    last = [t for t in owner.effects.told if t.startswith(("CreateVolume", "execute"))]
    record = next(i for i, t in enumerate(last) if "revision-2" in t)
    assert [i > record for i, t in enumerate(last) if "settle" in t] == [True]
    assert rights_of(owner) == ["grant in broker-r2", "settle 2 in broker-r2"]
    assert owner.agent.turn(), owner.said
    owner.agent = owner.born()
    owner.agent.start()
    assert owner.agent.turn(), owner.said
    assert rights_of(owner) == [], "that was done"


def test_a_release_that_failed_loses_its_rights_and_takes_none_from_the_one_before(owner: World) -> None:
    owner.publish(2, settles=("settle", "2"))
    owner.engine.mortal = {owner.tag("process", 2): 1.0}  # within the soak
    assert not owner.agent.turn()
    assert owner.agent.memory.failed == 2
    assert rights_of(owner) == ["grant in broker-r2"]
    assert owner.agent.turn(), owner.said
    assert rights_of(owner) == ["settle 1 in broker-r1"]
    assert owner.agent.turn(), owner.said
    assert rights_of(owner) == []


def test_rights_that_could_not_be_taken_away_are_so_later_whoever_is_killed(owner: World) -> None:
    owner.publish(2, settles=("settle", "2"))
    owner.engine.stuck = "settle"
    assert not owner.agent.turn()
    owner.engine.stuck = "nothing"
    assert "topics and rights could not be made in sitestream-hall1-broker-r2: no leader" in owner.report().trouble
    assert owner.agent.memory.good == 2, "it runs well all the same"
    rights_of(owner)
    assert owner.killed(after="settle 2")
    assert owner.agent.memory.settled == 0
    rights_of(owner)
    owner.agent = owner.born()
    owner.agent.start()
    assert rights_of(owner) == ["settle 2 in broker-r2"]
    assert owner.agent.memory.settled == 2
