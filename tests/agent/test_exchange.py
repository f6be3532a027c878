"""An agent exchanged for a newer one: it has to prove itself, and whoever is killed when, one works and the site goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from containers.agent import decide, document
from containers.agent.decide import TRIES_MAX, Memory
from containers.agent.exchange import PROOF_S, Seat
from containers.repository import artifact
from pipelines.errors import Unavailable
from tests.agent.machine import MAIN, Machine
from tests.agent.world import SITE, World

EFFECTS_MAX = 200
pytestmark = pytest.mark.usefixtures("fast_disk")


@pytest.fixture
def machine(world: World) -> Machine:
    """See `Machine`; its agent has had a turn."""
    made = Machine(world)
    made.round()
    return made


def tags(machine: Machine) -> dict[str, str]:
    return {name: box.tag for name, box in machine.engine.boxes.items()}


def of(number: int) -> dict[str, str]:
    return {MAIN: f"sitestream/agent:{number}"}


def works(machine: Machine, number: int) -> None:
    """Exactly one agent is there, and brings a release to the site."""
    machine.world.publish(number)
    for _ in range(2):
        machine.round()
    assert list(machine.engine.boxes) == [MAIN], machine.world.said
    assert machine.engine.running == machine.world.expected(number), machine.world.said
    assert machine.world.report().running == number
    assert machine.world.report().agent_image == tags(machine)[MAIN]


def test_a_release_brings_a_newer_agent_which_takes_over(machine: Machine) -> None:
    machine.world.publish(2, agent=2)
    machine.round()
    assert machine.engine.running == machine.world.expected(2)
    assert tags(machine) == of(2), machine.world.said
    assert "sitestream/agent:1" not in machine.engine.images, "what the old one was made of is gone"
    assert machine.world.report().agent_image == "sitestream/agent:2"
    works(machine, 3)
    assert tags(machine) == of(2), "a release that names no agent leaves the one that is there"


def test_it_is_the_last_step_of_what_went_well(machine: Machine) -> None:
    machine.engine.bad.add(machine.world.tag("process", 2))
    machine.world.publish(2, agent=2)
    for _ in range(3):
        machine.round()
    assert tags(machine) == of(1)
    assert not [t for t in machine.effects.told if "agent" in t and "Create" in t]
    told = len(machine.effects.told)
    machine.world.publish(3, agent=2)
    machine.round()
    new = machine.effects.told[told:]
    (started,) = (n for n, t in enumerate(new) if t.startswith(f"StartContainer(name='{MAIN}-next'"))
    (written,) = (
        n for n, t in enumerate(new) if f"revision-{machine.engine.actual(SITE).revision}'" in t and "Create" in t
    )
    assert written < started, "the site's record comes first"
    assert tags(machine) == of(2)


@pytest.mark.parametrize(
    ("fault", "why"),
    [("bad", "the new agent ended: it restarting: log of sitestream-hall1-agent-next"),
     ("mute", f"the new agent did not prove itself within {PROOF_S:g} s")],
)  # fmt: skip
def test_an_agent_that_does_not_prove_itself_is_given_up_and_the_old_one_goes_on(
    fault: str, why: str, machine: Machine
) -> None:
    agent = machine.world.tag("agent", 2)
    (machine.engine.bad if fault == "bad" else machine.mute).add(agent)
    machine.world.publish(2, agent=2)
    for _ in range(TRIES_MAX + 2):
        machine.round()
        assert tags(machine) == of(1)
    assert sum(f"StartContainer(name='{MAIN}-next')" in t for t in machine.effects.told) == TRIES_MAX
    machine.round()
    said = machine.world.report()
    assert said.running == 2
    assert f"the agent of release 2 is not tried again, and the one before goes on: {why}" in said.trouble
    assert said.agent_image == "sitestream/agent:1"
    works(machine, 3)
    assert machine.world.report().trouble == ""
    machine.engine.bad.clear()
    machine.mute.clear()
    machine.world.publish(4, agent=2)  # published anew it is tried again
    machine.round()
    assert tags(machine) == of(2)
    works(machine, 5)


@pytest.mark.parametrize("fault", ["", "mute"])
def test_killed_at_each_effect_one_agent_is_left_and_works(fault: str, world: World, tmp_path: Path) -> None:
    for n in range(EFFECTS_MAX):
        machine = Machine(world.copied(tmp_path / str(n)))
        if fault:
            (machine.engine.bad if fault == "bad" else machine.mute).add(machine.world.tag("agent", 2))
        machine.world.publish(1, version=2, agent=2)  # the services stay: of their exchange `test_killed` tells
        machine.effects.told.clear()
        machine.effects.kill_at = n
        with machine.counted():
            machine.round()
        killed, effects = machine.effects.kill_at != n, len(machine.effects.told)
        machine.effects.kill_at = 1 << 30
        for _ in range(TRIES_MAX if fault else 2):
            machine.round()
        assert tags(machine) == of(1 if fault else 2), (n, machine.world.said)
        works(machine, 4)
        if not killed:
            assert effects > (15 if fault else 20), "hardly anything was done"
            return
    pytest.fail(f"there are more than {EFFECTS_MAX} effects")


def test_while_somebody_changes_the_site_nobody_takes_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Unavailable("site hall1 is being deployed by me@there")

    with monkeypatch.context() as patch:
        patch.setattr("containers.agent.exchange.held", busy)
        machine.world.publish(2, agent=2)
        machine.round()
        assert set(tags(machine)) == {MAIN, f"{MAIN}-next"}, "neither can remove the other"
        assert any("who is in charge could not be settled yet: site hall1 is being" in s for s in machine.world.said)
    machine.round()
    machine.round()
    machine.round()
    assert len(tags(machine)) == 1
    works(machine, 3)


def test_an_agent_beside_which_there_is_no_other_takes_the_seat(machine: Machine) -> None:
    """The old one was removed, and the new one killed before it could take its name."""
    box = machine.engine.boxes.pop(MAIN)
    box.process = None
    machine.engine.boxes[f"{MAIN}-next"] = box
    machine.mute.add(box.tag)  # it need not prove anything: there is nobody else
    machine.round()
    assert list(tags(machine)) == [MAIN]


def test_an_agent_in_no_container_of_ours_has_no_rival(machine: Machine) -> None:
    assert Seat(machine.world.born(), None, "").settled()
    unknown = Seat(machine.world.born(), None, "unknown")
    assert unknown.settled()
    unknown.exchange()
    assert tags(machine) == of(1)


def test_agents_that_do_not_know_the_field_ignore_it(machine: Machine) -> None:
    machine.world.publish(2, agent=2)
    found = artifact.get_document(machine.world.repo, f"site/{SITE}", artifact.DESIRED)
    assert found

    class Old(msgspec.Struct):  # as a document was read before
        site: str
        services: tuple[document.Service, ...]
        images: dict[str, object]
        format: int = 1

    old = msgspec.json.decode(found.content, type=Old)
    assert (old.site, len(old.services), "sitestream/agent:2" in old.images) == (SITE, 2, True)


def test_who_succeeds_is_decided_from_what_is_known() -> None:
    known, named = Memory(newest=5, good=5), ("base:1", "agent:2")
    assert decide.successor(known, named, "agent:1") == (named, "")
    assert decide.successor(known, named, "agent:2") == ((), "")
    assert decide.successor(known, (), "agent:1") == ((), "")
    assert decide.successor(Memory(newest=6, good=5), named, "agent:1") == ((), ""), "in mid-apply never"
    for _ in range(TRIES_MAX):
        known = decide.exchange_begun(known)
    assert decide.successor(known, named, "agent:1")[1].endswith("goes on: it was broken off")
    known = decide.exchange_failed(known, "x" * 600)
    assert len(known.agent_why) == decide.WHY_CHARS_MAX + 1
    again = decide.believed(known, 6, 0.0, "")
    assert again.agent_tries == 0
    assert decide.believed(known, 5, 0.0, "").agent_tries == TRIES_MAX
