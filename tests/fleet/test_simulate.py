"""Ten thousand sites in virtual time: the rules hold, the link is shared fairly, and it takes seconds."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.fleet.events import Aborted, Event, Finished, Outcome, Started
from containers.fleet.policy import Policy, Share
from containers.fleet.schedule import Schedule
from containers.fleet.simulate import Link, Run, World, simulate, violations

SMALL = World(sites=400)
WAVES = Policy(canary=1, waves=(5, 25, 100), soak_s=60)


def checked(world: World, policy: Policy, *, abort_at_s: float = math.inf) -> Run:
    run = simulate(world, policy, abort_at_s=abort_at_s)
    assert violations(policy, world.names, run.events) == []
    return run


def test_ten_thousand_sites_are_a_matter_of_seconds() -> None:
    begun = time.process_time()
    run = simulate(World(), Policy())
    assert time.process_time() - begun < 15
    assert violations(Policy(), World().names, run.events) == []
    assert set(+run.schedule.counts) == {"done", "failed"}
    assert 60 <= run.schedule.counts["failed"] <= 140
    assert 7800 <= len(run.online) <= 8200


def test_a_fleet_of_which_half_pulls_waits_for_their_looks_and_has_half_the_bytes_to_ship() -> None:
    mixed = checked(replace(SMALL, pulling=0.5), WAVES)
    assert set(+mixed.schedule.counts) == {"done", "failed"}
    alone = replace(SMALL, offline=0.0, swap_s_median=0.001, connect_s=(0.0, 0.0))
    half = simulate(replace(alone, pulling=0.5), Policy(max_parallel=400)).minutes()
    assert half[-1] * 60 == pytest.approx(200 * 8e6 / 10e6, rel=0.01)
    only = simulate(replace(alone, pulling=1.0), Policy(max_parallel=400)).minutes() * 60
    assert 0.8 < only[0] < 5
    assert 60 < only[-1] < 66
    assert simulate(replace(SMALL, pulling=0.0), WAVES).events == simulate(SMALL, WAVES).events


def test_the_same_seed_gives_the_same_rollout_and_replaying_its_events_the_same_state() -> None:
    first, second = checked(SMALL, WAVES), checked(SMALL, WAVES)
    assert first.events == second.events
    assert Schedule(WAVES, SMALL.names, first.events).sites == first.schedule.sites
    assert simulate(replace(SMALL, seed=2), WAVES).events != first.events


def test_in_waves_the_first_failures_come_before_the_many() -> None:
    run = checked(SMALL, WAVES)
    starts = [e.at_s for e in run.events if isinstance(e, Started)]
    assert starts[0] == 0
    assert starts[1] > 60  # the canary and its soak
    assert {s.wave for s in run.schedule.sites.values()} == {1, 2, 3, 4}
    bad = checked(replace(SMALL, failing=1.0), WAVES)
    assert bad.schedule.status == "halted"
    assert (bad.schedule.counts["failed"], bad.schedule.counts["skipped"]) == (1, 399)


def test_an_abort_in_the_middle_lets_what_is_under_way_finish() -> None:
    run = checked(SMALL, Policy(max_parallel=32), abort_at_s=120)
    at = next(i for i, e in enumerate(run.events) if isinstance(e, Aborted))
    assert not any(isinstance(e, Started) for e in run.events[at:])
    assert 1 <= sum(isinstance(e, Finished) for e in run.events[at:]) <= 32
    assert run.schedule.counts["skipped"] > 100


def test_a_thousand_online_sites_are_up_to_date_in_five_minutes_with_350_kB_each() -> None:
    run = checked(World(sites=1250, site_bytes=350_000), Policy())
    minutes = run.minutes()
    assert minutes[round(len(minutes) * 0.95)] < 5


def test_no_plan_beats_the_link() -> None:
    world = replace(SMALL, offline=0.0, swap_s_median=0.001, connect_s=(0.0, 0.0))
    assert simulate(world, Policy()).minutes()[-1] * 60 == pytest.approx(400 * 8e6 / 10e6, rel=0.01)


def test_transfers_share_the_link() -> None:
    link = Link(10.0)
    link.add("a", 100, now_s=0)
    assert link.next_s() == 10
    link.add("b", 30, now_s=4)  # 60 bits of a are left, and each has 5 bit/s
    assert link.next_s() == 10
    assert link.pop(10) == "b"
    assert link.next_s() == 13  # 30 bits of a are left, and it is alone
    assert link.pop(13) == "a"
    assert link.next_s() == math.inf


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1000)), min_size=1, max_size=20))
def test_the_link_carries_no_more_than_it_can_and_rests_only_when_there_is_nothing(
    transfers: list[tuple[float, float]],
) -> None:
    link, waiting, now, busy, ends = Link(10.0), sorted(transfers), 0.0, 0.0, 0
    while waiting or link.next_s() < math.inf:
        before, at = now, link.next_s()
        working = at < math.inf
        if waiting and waiting[0][0] <= at:
            now, bits = waiting.pop(0)
            link.add(f"{now}", bits, now)
        else:
            now = at
            link.pop(now)
            ends += 1
        busy += (now - before) * working
    assert ends == len(transfers)
    assert busy * 10 == pytest.approx(sum(bits for _, bits in transfers))


def test_violations_are_seen() -> None:
    policy, sites = Policy(max_parallel=1, max_failures=Share(9)), ["a", "b", "c"]
    done = Outcome("done")
    events: list[Event] = [
        Started(0, "a"), Started(0, "b"), Finished(1, "a", done), Finished(1, "b", done),
    ]  # fmt: skip
    assert violations(policy, sites, events) == ["2 were working at once", "c is still waiting"]
