"""Whose turn it is: waves, limits, offline sites, crashes; by example, and for any order of events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.fleet.events import (
    Aborted,
    Event,
    Finished,
    Kind,
    Outcome,
    Paused,
    Restarted,
    Resumed,
    Started,
    Superseded,
    Tick,
)
from containers.fleet.policy import Policy, Share
from containers.fleet.schedule import FAILED, OPEN, TRANSITIONS, Complete, Schedule, Start, State, Wait
from containers.fleet.simulate import violations
from pipelines.errors import ConfigError, StateError


def names(n: int) -> list[str]:
    return [f"s{i}" for i in range(n)]


def begun(n: int = 3, **policy: Any) -> Schedule:
    return Schedule(Policy(**policy), names(n), [Tick(0.0)])


def start_all(schedule: Schedule) -> list[str]:
    """Start what can be started; which."""
    started = []
    while isinstance(decision := schedule.decide(), Start):
        schedule.apply(Started(schedule.now_s, decision.site))
        started.append(decision.site)
    return started


def finish(schedule: Schedule, *sites: str, kind: Kind = "done", at_s: float | None = None) -> None:
    for site in sites:
        schedule.apply(Finished(schedule.now_s if at_s is None else at_s, site, Outcome(kind)))


def states(schedule: Schedule) -> str:
    """'done done pending'."""
    return " ".join(s.state for s in schedule.sites.values())


def seen(schedule: Schedule) -> object:
    """All that anybody can see of a schedule, but how it keeps its queues."""
    now = schedule.now_s
    return (schedule.sites, +schedule.counts, schedule.status, schedule.wave, now, schedule.decide(), schedule.result)


def test_by_default_all_sites_start_at_once() -> None:
    schedule = begun(3)
    assert start_all(schedule) == ["s0", "s1", "s2"]
    finish(schedule, "s0", "s1")
    finish(schedule, "s2", kind="unchanged")
    assert schedule.decide() == Complete()
    assert (schedule.result, schedule.exit_code) == ("done", 0)


def test_a_rollout_over_nothing_is_complete() -> None:
    assert begun(0).decide() == Complete()


def test_no_more_are_worked_on_at_once_than_allowed() -> None:
    schedule = begun(3, max_parallel=2)
    assert start_all(schedule) == ["s0", "s1"]
    assert schedule.decide() == Wait(math.inf)
    finish(schedule, "s1")
    assert start_all(schedule) == ["s2"]


def test_the_next_wave_begins_when_the_one_before_has_ended_well() -> None:
    schedule = begun(8, canary=1, waves=(50,))
    assert schedule.quotas == (1, 4, 8)
    assert start_all(schedule) == ["s0"]
    finish(schedule, "s0")
    assert start_all(schedule) == ["s1", "s2", "s3"]
    finish(schedule, "s1", "s2")
    assert start_all(schedule) == []
    finish(schedule, "s3")
    assert len(start_all(schedule)) == 4
    assert [s.wave for s in schedule.sites.values()] == [1, 2, 2, 2, 3, 3, 3, 3]


def test_a_wave_is_left_to_soak_before_the_next() -> None:
    schedule = begun(2, canary=1, soak_s=60)
    start_all(schedule)
    finish(schedule, "s0", at_s=10)
    assert schedule.decide() == Wait(70)
    schedule.apply(Tick(69))
    assert schedule.decide() == Wait(70)
    schedule.apply(Tick(70))
    assert start_all(schedule) == ["s1"]


def test_a_canary_that_fails_halts_the_rollout_and_the_rest_is_skipped() -> None:
    schedule = begun(100, canary=1, max_failures=Share(5))
    start_all(schedule)
    finish(schedule, "s0", kind="failed")
    assert (schedule.status, schedule.counts["skipped"]) == ("halted", 99)
    assert schedule.decide() == Complete()
    assert (schedule.result, schedule.exit_code) == ("halted", 3)


def test_what_is_under_way_when_a_rollout_halts_is_finished() -> None:
    schedule = begun(4, max_parallel=3, max_failures=Share(0))
    start_all(schedule)
    finish(schedule, "s0", kind="broken")
    assert states(schedule) == "broken working working skipped"
    finish(schedule, "s1")
    finish(schedule, "s2", kind="offline")
    assert states(schedule) == "broken done skipped skipped"
    assert (schedule.result, schedule.exit_code) == ("halted", 4)


def test_one_failed_site_does_not_stop_the_others() -> None:
    schedule = begun(4, max_parallel=1)
    for kind in ("failed", "done", "done", "done"):
        (site,) = start_all(schedule)
        finish(schedule, site, kind=kind)
    assert states(schedule) == "failed done done done"
    assert (schedule.result, schedule.exit_code) == ("failed", 3)


def test_an_offline_site_is_set_aside_another_takes_its_place_and_it_is_tried_again() -> None:
    schedule = begun(3, canary=1, retry_s_min=10, retry_s_max=10)
    assert start_all(schedule) == ["s0"]
    finish(schedule, "s0", kind="offline", at_s=5)
    assert start_all(schedule) == ["s1"]  # the canary is a site that can be reached
    finish(schedule, "s1")
    assert start_all(schedule) == ["s2"]  # nobody waits for who is away
    finish(schedule, "s2")
    assert schedule.only_pending
    assert (schedule.result, schedule.exit_code) == ("pending", 5)
    wait = schedule.decide()
    assert isinstance(wait, Wait)
    assert 10 <= wait.until_s <= 15
    schedule.apply(Tick(wait.until_s))
    assert start_all(schedule) == ["s0"]
    finish(schedule, "s0")
    assert (states(schedule), schedule.exit_code) == ("done done done", 0)


def test_back_off_doubles_with_jitter_up_to_a_limit_and_follows_from_the_seed() -> None:
    policy = Policy(retry_s_min=4, retry_s_max=60)
    waits = [policy.retry_after_s("s1", n) for n in range(1, 200)]
    assert all(min(60, 4 * 2 ** (n - 1)) / 2 <= w <= min(60, 4 * 2 ** (n - 1)) for n, w in enumerate(waits, 1))
    assert waits == [policy.retry_after_s("s1", n) for n in range(1, 200)]
    assert len({policy.retry_after_s(site, 9) for site in names(50)}) > 40  # not all at the same moment
    assert waits != [msgspec.structs.replace(policy, seed=1).retry_after_s("s1", n) for n in range(1, 200)]


def test_paused_nothing_starts_until_it_is_resumed() -> None:
    schedule = begun(2, max_parallel=1)
    start_all(schedule)
    schedule.apply(Paused(1))
    finish(schedule, "s0")
    assert schedule.decide() == Wait(math.inf)
    schedule.apply(Resumed(2))
    assert start_all(schedule) == ["s1"]


def test_aborted_nothing_starts_ever() -> None:
    schedule = begun(3, max_parallel=1)
    start_all(schedule)
    schedule.apply(Aborted(1))
    schedule.apply(Resumed(2))
    assert states(schedule) == "working skipped skipped"
    finish(schedule, "s0")
    assert (schedule.decide(), schedule.result, schedule.exit_code) == (Complete(), "aborted", 1)


def test_a_newer_rollout_takes_over_who_waits_or_is_away_and_leaves_who_is_worked_on() -> None:
    schedule = begun(4, max_parallel=2)
    start_all(schedule)
    finish(schedule, "s0", kind="offline")
    start_all(schedule)
    schedule.apply(Superseded(1, by="newer", sites=("s0", "s1", "s2", "s3", "not of ours")))
    assert states(schedule) == "superseded working working superseded"
    finish(schedule, "s1", kind="offline")
    finish(schedule, "s2")
    assert states(schedule) == "superseded superseded done superseded"
    assert (schedule.result, schedule.exit_code) == ("superseded", 1)


def test_after_a_crash_what_was_under_way_starts_again_and_who_was_away_is_tried_at_once() -> None:
    schedule = begun(4, max_parallel=2)
    start_all(schedule)
    finish(schedule, "s0", kind="offline")
    start_all(schedule)
    schedule.apply(Restarted(1))
    assert states(schedule) == "pending waiting waiting waiting"
    assert set(start_all(schedule)) == {"s1", "s2"}
    finish(schedule, "s1", "s2")
    assert start_all(schedule) == ["s3", "s0"]
    assert schedule.sites["s1"].attempts == 2


def test_time_never_goes_back() -> None:
    schedule = begun(2, canary=1, soak_s=60)
    start_all(schedule)
    finish(schedule, "s0", at_s=100)
    schedule.apply(Paused(3))
    schedule.apply(Resumed(3))
    assert (schedule.now_s, schedule.decide()) == (100, Wait(160))


def test_what_cannot_have_happened_is_refused() -> None:
    schedule = begun(1)
    with pytest.raises(StateError, match="site s0 is waiting, so 'done' cannot have happened"):
        finish(schedule, "s0")
    with pytest.raises(StateError, match="site other is not part of it"):
        finish(schedule, "other")
    start_all(schedule)
    with pytest.raises(StateError, match="site s0 is working, so 'start' cannot have happened"):
        schedule.apply(Started(0, "s0"))


def test_every_state_is_reached_and_final_ones_are_left_by_nothing() -> None:
    assert {"waiting", *TRANSITIONS.values()} == set(get_args(State))
    assert {before for before, _ in TRANSITIONS} == set(OPEN)


@pytest.mark.parametrize(
    ("policy", "quotas"),
    [
        (Policy(), (200,)),
        (Policy(canary=1), (1, 200)),
        (Policy(waves=(5, 25, 100)), (10, 50, 200)),
        (Policy(waves=(5, 25)), (10, 50, 200)),
        (Policy(canary=10, waves=(5, 25)), (10, 50, 200)),
        (Policy(canary=500), (200,)),
        (Policy(waves=(7,)), (14, 200)),
        (Policy(waves=(0.1,)), (1, 200)),
    ],
)
def test_quotas_of_waves(policy: Policy, quotas: tuple[int, ...]) -> None:
    assert policy.quotas(200) == quotas


@pytest.mark.parametrize(
    ("limit", "quota", "last", "failures_max"),
    [
        (Share(10, percent=True), 50, False, 5),
        (Share(10, percent=True), 19, False, 1),
        (Share(10, percent=True), 1, False, 0),
        (Share(10, percent=True), 4, True, 1),
        (Share(0, percent=True), 4, True, 0),
        (Share(3), 100, False, 3),
        (Share(3), 2, False, 1),  # not both
        (Share(3), 2, True, 3),
    ],
)
def test_how_many_may_fail(limit: Share, quota: int, last: bool, failures_max: int) -> None:
    assert Policy(max_failures=limit).failures_max(quota, last=last) == failures_max


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"canary": -1}, "canary -1: write how many sites go first, such as 1"),
        (
            {"waves": (25, 5)},
            "waves 25%,5%: each takes in the waves before it, so write growing percentages up to 100%",
        ),
        ({"waves": (0, 50)}, "waves 0%,50%"),
        ({"waves": (50, 101)}, "waves 50%,101%"),
        ({"max_parallel": 0}, "max-parallel 0: write a number from 1 to 1000"),
        (
            {"max_failures": Share(101, percent=True)},
            "max-failures 101%: write a number of sites, such as 3, or a percentage",
        ),
        ({"max_failures": Share(1.5)}, "max-failures 1.5"),
        ({"max_failures": Share(math.nan)}, "max-failures nan"),
        ({"soak_s": -1.0}, "soak -1 s: cannot be negative"),
        ({"retry_s_min": 0.0}, "retry must be positive"),
        ({"retry_s_min": 90.0, "retry_s_max": 60.0}, "retry must be positive, and grow"),
    ],
)
def test_a_policy_that_makes_no_sense_says_what_to_write(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Policy(**wrong)


policies = st.builds(
    Policy,
    canary=st.integers(0, 3),
    waves=st.sampled_from([(), (5,), (30, 60), (5, 25, 100)]),
    max_parallel=st.integers(1, 5),
    max_failures=st.sampled_from([Share(0), Share(2), Share(10, percent=True), Share(100, percent=True)]),
    soak_s=st.sampled_from([0.0, 7.0]),
    retry_s_min=st.just(1.0),
    retry_s_max=st.just(8.0),
)
kinds: st.SearchStrategy[Kind] = st.sampled_from(
    ["done", "done", "unchanged", "failed", "broken", "offline", "offline"]
)
happenings = st.one_of(
    st.tuples(st.just("finish"), st.integers(0, 4), kinds),
    st.tuples(st.just("time"), st.floats(0.1, 20)),
    st.sampled_from([("pause",), ("resume",), ("resume",), ("abort",), ("crash",), ("crash",), ("supersede",)]),
)


def happened(schedule: Schedule, what: Sequence[Any]) -> Event | None:
    """The event of a happening that was drawn, if it can happen now."""
    now = schedule.now_s
    match what:
        case ("finish", int(which), kind):
            working = [n for n, s in schedule.sites.items() if s.state == "working"]
            return Finished(now, working[which % len(working)], Outcome(kind)) if working else None
        case ("time", seconds):
            return Tick(now + seconds)
        case ("supersede",):
            return Superseded(now, by="newer", sites=tuple(schedule.sites)[::3])
        case (word,):
            kind_of = {"pause": Paused, "resume": Resumed, "abort": Aborted, "crash": Restarted}[word]
            return cast(Event, kind_of(now))
    raise AssertionError(what)


def carried_out(policy: Policy, n: int, story: Sequence[Sequence[Any]]) -> tuple[Schedule, list[Event]]:
    """A rollout in which a story happens, and then all sites are there and all goes well."""
    schedule, events = Schedule(policy, names(n)), list[Event]()

    def apply(event: Event) -> None:
        schedule.apply(event)
        events.append(event)

    apply(Tick(0.0))
    for what in [*story, ("resume",)]:
        while isinstance(decision := schedule.decide(), Start):
            apply(Started(schedule.now_s, decision.site))
        if (event := happened(schedule, what)) is not None:
            apply(event)
    while not isinstance(decision := schedule.decide(), Complete):
        if isinstance(decision, Start):
            apply(Started(schedule.now_s, decision.site))
        elif schedule.counts["working"]:
            apply(happened(schedule, ("finish", 0, "done")) or Tick(schedule.now_s))
        else:
            assert decision.until_s < math.inf, "it would wait for ever"
            apply(Tick(decision.until_s))
    return schedule, events


@settings(max_examples=300, deadline=None)
@given(policies, st.integers(0, 12), st.lists(happenings, max_size=40))
def test_whatever_happens_the_rules_hold_and_every_site_ends(
    policy: Policy, n: int, story: list[tuple[Any, ...]]
) -> None:
    schedule, events = carried_out(policy, n, story)
    assert violations(policy, names(n), events) == []
    assert sum(schedule.counts.values()) == n
    assert schedule.exit_code != 5
    assert (schedule.exit_code == 0) == all(s.state in ("done", "unchanged") for s in schedule.sites.values())
    ended = [e.site for e in events if isinstance(e, Finished) and e.outcome.kind != "offline"]
    assert sorted(ended) == sorted(s for s, of in schedule.sites.items() if of.state not in ("superseded", "skipped"))


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(0, 12), st.lists(happenings, max_size=40), st.floats(0, 1))
def test_the_state_is_what_the_events_add_up_to_wherever_they_are_cut(
    policy: Policy, n: int, story: list[tuple[Any, ...]], cut: float
) -> None:
    whole, events = carried_out(policy, n, story)
    at = round(cut * len(events))
    stepwise = Schedule(policy, names(n))
    for event in events[:at]:
        stepwise.apply(event)
        stepwise.decide()  # asking changes nothing
    again = Schedule(policy, names(n), events[:at])
    assert seen(again) == seen(stepwise)
    for event in events[at:]:
        again.apply(event)
    assert seen(again) == seen(whole)


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(0, 12), st.lists(happenings, max_size=40))
def test_ticks_need_no_record(policy: Policy, n: int, story: list[tuple[Any, ...]]) -> None:
    whole, events = carried_out(policy, n, story)
    recorded = [e for e in events if not isinstance(e, Tick)]
    assert seen(Schedule(policy, names(n), [*recorded, Tick(whole.now_s)])) == seen(whole)


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(1, 12), st.lists(st.tuples(st.just("finish"), st.integers(0, 4), kinds), max_size=40))
def test_no_wave_begins_after_more_failures_than_allowed(policy: Policy, n: int, story: list[tuple[Any, ...]]) -> None:
    _, events = carried_out(policy, n, story)
    schedule = Schedule(policy, names(n))
    for event in events:
        if isinstance(event, Started):
            last = schedule.wave == len(schedule.quotas)
            failed = sum(s.state in FAILED for s in schedule.sites.values())
            assert failed <= policy.failures_max(schedule.quotas[schedule.wave - 1], last=last)
            inside = sum(s.state not in ("waiting", "pending") for s in schedule.sites.values())
            assert inside < schedule.quotas[schedule.wave - 1]
        schedule.apply(event)
