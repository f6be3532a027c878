"""The agent killed between any two of its effects: what runs is old or new, never between, and the next release works."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from containers.agent.decide import TRIES_MAX
from tests.agent.world import World

EFFECTS_MAX = 300  # of a turn; the tests fail if it has more


pytestmark = pytest.mark.usefixtures("fast_disk")


def settled(world: World, number: int, *, failed: int = 0) -> None:
    """After a new start, without the repository, what runs is whole; a turn later it is what it should be."""
    world.agent = world.born()
    world.agent.start()
    assert world.engine.running in (world.expected(1), world.expected(2)), world.said
    for _ in range(3):
        world.agent.turn()
        world.clock.advance(40)  # a lock whose owner died just after taking it expires
    assert world.engine.running == world.expected(number), world.said
    assert world.agent.memory.failed == failed
    names = {c.name for c in world.engine.containers.values()}
    assert names == {n for r in world.engine.actual("hall1").records for n in r.services.values()}, (
        "something is left over"
    )
    assert not (world.disk.folder / "layers").exists()


@pytest.mark.parametrize("bad", [False, True], ids=["a good release", "a release that ends at once"])
def test_killed_at_each_effect(bad: bool, world: World, tmp_path: Path) -> None:
    first = world
    for n in range(EFFECTS_MAX):  # killed before it, which is after the one before
        world = first.copied(tmp_path / str(n))
        world.publish(2)
        world.engine.bad = {world.tag("process", 2)} if bad else set()
        killed = world.killed(n)
        settled(world, 1 if bad else 2, failed=2 if bad else 0)
        world.publish(3)
        world.agent.turn()
        assert world.engine.running == world.expected(3), (n, world.said)
        if not killed:
            assert n > 20, "hardly anything was done"
            return
    pytest.fail(f"a turn has more than {EFFECTS_MAX} effects")


@pytest.mark.parametrize("seed", range(20))
def test_killed_again_and_again(seed: int, world: World) -> None:
    chance = random.Random(seed)
    number = 1
    for _ in range(6):
        number += 1
        world.publish(number)
        for _ in range(chance.randrange(3)):  # so often that its tries are not used up
            world.killed(chance.randrange(70))
            world.clock.advance(chance.choice([0, 5]))
        world.clock.advance(100)
        world.agent = world.born()
        world.agent.start()
        world.agent.turn()
        assert world.engine.running == world.expected(number), (seed, number, world.said)


def test_a_release_at_which_the_agent_dies_each_time_is_given_up(world: World) -> None:
    world.publish(2)
    for _ in range(TRIES_MAX):
        assert world.agent.memory.failed != 2
        assert world.killed(after="StartContainer(name='sitestream-hall1-process-r2'")
        world.agent = world.born()
    world.agent.start()
    assert world.engine.running == world.expected(1)
    assert "3 attempts were broken off, or ended without a verdict" in world.agent.memory.why
    world.publish(3)
    world.agent.turn()
    assert world.engine.running == world.expected(3)
