"""What an agent does in each state of what it knows: the table."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.agent.decide import (
    BACKOFF_S_MAX,
    JITTER,
    TRIES_MAX,
    Aim,
    Kept,
    Memory,
    aim,
    begun,
    believed,
    ended,
    pause_s,
    recalled,
    settled,
    unsettled,
)

NOW_S, SOON_S, PAST_S = 1000.0, 2000.0, 500.0


@pytest.mark.parametrize(
    ("known", "at_hand", "version", "update", "why"),
    [
        (Memory(), (), 0, False, ""),
        (Memory(newest=5, expires_s=SOON_S), (5,), 5, True, ""),
        (Memory(newest=5, expires_s=SOON_S, good=4), (4, 5), 5, True, ""),
        (Memory(newest=5, expires_s=SOON_S, good=5), (5,), 5, False, ""),
        (Memory(newest=5, expires_s=PAST_S, good=5), (5,), 5, False, "release 5 has expired, and nothing newer came: publish"),
        (Memory(newest=5, expires_s=PAST_S, good=4), (4, 5), 4, False, "release 5 expired before it could be begun: publish"),
        (Memory(newest=5, expires_s=PAST_S), (5,), 0, False, "release 5 expired before it could be begun: publish"),
        (Memory(newest=5, expires_s=SOON_S, good=4, failed=5, why="x"), (4, 5), 4, False, "release 5 failed and is not tried"),
        (Memory(newest=5, expires_s=SOON_S, failed=5), (5,), 0, False, "release 5 failed and is not tried again"),
        (Memory(newest=6, expires_s=SOON_S, good=4, failed=5), (4, 6), 6, True, ""),  # it does not block a newer one
        (Memory(newest=5, expires_s=SOON_S, good=4), (4,), 4, False, "release 5 is not on this machine's disk any more"),
        (Memory(newest=5, expires_s=SOON_S, good=5), (), 0, False, "release 5 is not on this machine's disk any more"),
        (Memory(newest=5, expires_s=SOON_S, good=4), (5,), 5, True, ""),
    ],
)  # fmt: skip
def test_which_release_the_site_is_held_to(
    known: Memory, at_hand: tuple[int, ...], version: int, update: bool, why: str
) -> None:
    found = aim(known, at_hand, NOW_S)
    assert (found.version, found.update) == (version, update)
    assert found.why_not.startswith(why)
    assert bool(found.why_not) is bool(why)


def test_to_its_last_second_a_release_is_begun() -> None:
    known = Memory(newest=5, expires_s=NOW_S)
    assert aim(known, (5,), NOW_S - 0.001) == Aim(5, update=True)
    assert aim(known, (5,), NOW_S).version == 0


def test_a_good_end_makes_it_the_one_to_hold_to() -> None:
    known = ended(begun(Memory(newest=5, good=4, failed=3, why="x")), "done", judged=False, why="")
    assert known == Memory(newest=5, good=5, before=4)


def test_going_back_leads_to_what_was_replaced_and_not_to_the_same_published_anew() -> None:
    known = Memory(newest=5, good=4, before=3)
    again = ended(known, "done", judged=False, why="", changed=False)
    assert (again.good, again.before) == (5, 3), "5 is what ran as 4"
    assert ended(again, "done", judged=False, why="").before == 3, "nothing takes its own place"
    failed = ended(known, "rolled back", judged=True, why="x")
    assert (failed.good, failed.before) == (4, 3)
    other = ended(believed(again, 6, SOON_S, "sha256:6"), "done", judged=False, why="")
    assert (other.good, other.before) == (6, 5)


@pytest.mark.parametrize("state", ["rolled back", "broken"])
def test_a_verdict_is_final_and_what_may_pass_is_tried_again(state: str) -> None:
    known = begun(Memory(newest=5, good=4))
    assert ended(known, state, judged=True, why="it crashed").failed == 5  # type: ignore[arg-type]
    for tries in range(1, TRIES_MAX + 1):
        assert known.tries == tries
        after = ended(known, state, judged=False, why="the engine was away")  # type: ignore[arg-type]
        assert (after.failed == 5) is (tries == TRIES_MAX)
        known = begun(after)
    assert after.why == "the engine was away"


def test_what_was_refused_before_anything_was_touched_is_no_try() -> None:
    known = Memory(newest=5, good=4)
    for _ in range(20):
        known = ended(begun(known), "refused", judged=False, why="no space is left")
    assert known == Memory(newest=5, good=4)


def test_attempts_that_come_to_no_end_are_counted_until_a_newer_release_comes() -> None:
    known = Memory(newest=5, good=4)
    for _ in range(TRIES_MAX):
        known = begun(known)
        assert not known.failed
    given_up = begun(known)
    assert given_up.failed == 5
    assert believed(given_up, 6, SOON_S, "sha256:x").tries == 0
    assert believed(given_up, 5, SOON_S, "sha256:x").tries == given_up.tries


def test_a_long_reason_is_cut() -> None:
    assert len(ended(Memory(newest=5), "broken", judged=True, why="x" * 9999).why) == 501


def test_a_lost_memory_is_taken_from_the_history_and_the_documents() -> None:
    kept = [Kept(4, SOON_S, "sha256:4", b""), Kept(5, SOON_S, "sha256:5", b"")]
    notes = [("tiny", "done", ""), ("release 4", "done", ""), ("release 5", "rolled back", "it crashed")]
    assert recalled(notes, kept) == Memory("sha256:5", 5, SOON_S, good=4, failed=5, why="it crashed")
    assert recalled(notes[:2], kept) == Memory("sha256:5", 5, SOON_S, good=4)
    assert recalled([*notes, ("release 5", "done", "")], kept) == Memory("sha256:5", 5, SOON_S, good=5, before=4)
    mended = [*notes[:2], ("release 5", "done", ""), ("release 5", "done", "")]
    assert recalled(mended, kept).before == 4
    assert recalled(notes, kept[:1]) == Memory("sha256:4", 4, SOON_S, good=4)
    assert recalled([("release x", "done", ""), ("", "done", "")], []) == Memory()


@given(st.floats(1, 3600), st.integers(0, 200), st.integers(0, 2**32))
def test_pauses_grow_to_a_limit_and_are_never_in_step(usual_s: float, failures: int, seed: int) -> None:
    wait_s = pause_s(usual_s, failures, random.Random(seed))
    assert usual_s * (1 - JITTER) <= wait_s <= max(usual_s, BACKOFF_S_MAX) * (1 + JITTER)
    if not failures:
        assert wait_s <= usual_s * (1 + JITTER)
    assert wait_s != pause_s(usual_s, failures, random.Random(seed + 1))


def test_rights_are_settled_once_for_a_version_that_runs_well_and_again_after_another_was_begun() -> None:
    known = ended(begun(Memory(newest=5, expires_s=SOON_S)), "done", judged=False, why="")
    assert unsettled(known, 5)
    known = settled(known)
    assert not unsettled(known, 5)
    known = begun(believed(known, 6, SOON_S, ""))
    assert not unsettled(known, 6), "the site may go back to 5"
    failed = ended(known, "rolled back", judged=True, why="ill")
    assert unsettled(failed, 5), "6 was given its rights"
    assert not unsettled(Memory(), 0)
