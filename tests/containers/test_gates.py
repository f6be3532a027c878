"""Gates: who may stay, who must go back, and what is said of it; some against a reference that is slow and obvious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import gates
from containers.gates import ERRORS_MIN, HEALTHY_S_MIN, STALL_S, Figures, Look, Policy, judge
from containers.scrape import Readings, readings
from tests.containers.kit import found

GATE, SOAK = Policy("hall1", 10), Policy("hall1", 10, soak_s=60)
AT_WORK = Figures(taken=10, data=5, waiting=0)


def at(at_s: float, figures: Figures | None = AT_WORK, *, ill: str = "", ended: str = "") -> Look:
    return Look(at_s, ended, ill, figures)


@pytest.mark.parametrize(
    ("looks", "policy", "verdict", "why"),
    [
        ([at(0, ill="restoring state")], GATE, "wait", "restoring state"),
        ([at(0), at(0.5)], GATE, "wait", "healthy"),  # but not yet for long enough
        ([at(0), at(1)], GATE, "passed", ""),
        ([at(0), at(0.9, ill="x"), at(1), at(1.5)], GATE, "wait", "healthy"),
        ([at(0, ill="x"), at(98.5), at(99.5)], GATE, "passed", ""),
        ([at(0, ill="x"), at(10, ill="x")], GATE, "failed", "process was not healthy within 10 s: x"),
        ([at(0, ill="x"), at(9.9), at(10)], GATE, "failed", "process was not healthy within 10 s"),
        ([at(0, ended="ended with code 1")], GATE, "failed", "process ended with code 1 while starting"),
        ([at(0), at(59)], SOAK, "wait", "healthy"),
        ([at(0), at(60)], SOAK, "passed", ""),
        ([at(0), at(5), at(6, ill="x"), at(14, ill="x")], SOAK, "wait", "x"),  # a link may fail for a moment
        ([at(0), at(5, ill="x"), at(10, ill="x")], SOAK, "failed", "process was unhealthy for 10 s in the soak: x"),
        ([at(0), at(58), at(59, ill="x"), at(61, ill="x")], SOAK, "wait", "x"),
        ([at(0), at(7, ended="ended")], SOAK, "failed", "process ended in the soak, after 7 s"),
    ],
)  # fmt: skip
def test_health(looks: Sequence[Look], policy: Policy, verdict: str, why: str) -> None:
    assert judge("process", looks, policy) == (verdict, why)


def test_process_has_to_take_a_record_or_to_know_that_there_is_none() -> None:
    unknown, backlog = Figures(), Figures(waiting=24)
    assert judge("process", [at(0, unknown), at(2, unknown)], GATE) == ("wait", "looking for input")
    assert judge("process", [at(0, backlog), at(2, backlog)], GATE) == ("wait", "24 records wait and none is taken yet")
    assert judge("process", [at(0, backlog), at(2, Figures(taken=1, waiting=23))], GATE)[0] == "passed"
    assert judge("process", [at(0, unknown), at(2, Figures(waiting=0))], GATE)[0] == "passed"
    assert judge("upload", [at(0, unknown), at(2, backlog)], GATE)[0] == "passed"  # the store may be away
    assert judge("process", [at(0, None), at(2, None)], GATE)[0] == "passed"  # it says nothing of itself
    still = [
        at(t, backlog) for t in range(int(STALL_S) + 1)
    ]  # one record was the mark of a transaction, say: nothing more came
    assert judge("process", still, replace(GATE, patience_s=60))[0] == "passed"


def test_who_takes_nothing_while_input_goes_on_stands_still() -> None:
    looks = [at(t, Figures(taken=7, waiting=100 + t)) for t in range(int(STALL_S) + 1)]
    assert judge("upload", looks[:-1], SOAK)[0] == "wait"
    verdict, why = judge("upload", looks, SOAK)
    assert (verdict, why) == ("failed", "upload stands still: none of 115 records was taken for 15 s, and more came in")


def test_a_watermark_that_stands_while_records_come_in() -> None:
    looks = [at(t, Figures(taken=t, data=t, waiting=0, watermark=9.0)) for t in range(int(STALL_S) + 1)]
    verdict, why = judge("process", looks, SOAK)
    assert verdict == "failed"
    assert why.startswith("process: time stands still: its watermark did not move for 15 s, while 15 records came in")
    quiet = [at(t, Figures(taken=t, data=min(t, 3), waiting=0, watermark=9.0)) for t in range(int(STALL_S) + 1)]
    assert judge("process", quiet, SOAK)[0] == "wait"


def test_who_dead_letters_what_the_version_before_could_use_has_failed() -> None:
    now = Figures(taken=1200, data=900, dead={"type": 800, "not_json": 12}, waiting=0)
    verdict, why = judge("process", [at(0, now)], GATE)
    assert verdict == "failed"
    assert why == (
        "process: 812 of 900 records since its start went to the dead-letter topic hall1.dead (12 not_json, 800 type); 10% may, "
        "the version before had 0%: each letter's header `message` says why, and so does the log"
    )
    as_before = replace(GATE, before=Figures(data=100, dead={"type": 80}))  # the devices are to blame
    assert judge("process", [at(0, now), at(1, now)], as_before)[0] == "passed"
    assert judge("process", [at(0, now), at(1, now)], replace(GATE, errors_max=1))[0] == "passed"
    few = Figures(taken=4, data=4, dead={"type": ERRORS_MIN - 1}, waiting=0)
    assert judge("process", [at(0, few), at(1, few)], GATE)[0] == "passed"


def test_what_was_written_under_another_schema_is_no_fault_until_the_writer_is_replaced() -> None:
    old = Figures(taken=40, data=30, dead={"schema": 30}, waiting=0)
    assert judge("process", [at(0, old), at(1, old)], GATE)[0] == "failed"
    assert judge("process", [at(0, old), at(1, old)], replace(GATE, forgiven="schema"))[0] == "passed"
    assert judge("process", [at(0, old), at(60, old)], SOAK)[0] == "passed"  # what was before the soak counts no more
    more = Figures(taken=50, data=40, dead={"schema": 40}, waiting=0)
    verdict, why = judge("process", [at(0, old), at(9, more)], SOAK)
    assert verdict == "failed"
    assert why.startswith(
        "process: 10 of 10 records since the soak began went to the dead-letter topic hall1.dead (10 schema)"
    )


METRICS = """{"healthy": false, "conditions": {"connected": true, "assigned": true, "restored": false}}
# TYPE sitestream_consumed_records_total counter
sitestream_consumed_records_total{kind="data",service="process",site="hall1"} 30.0
sitestream_consumed_records_total{kind="heartbeat",service="process",site="hall1"} 12.0
# TYPE sitestream_dead_letter_records_total counter
sitestream_dead_letter_records_total{reason="type",service="process",site="hall1"} 3.0
# TYPE sitestream_source_records_total counter
sitestream_source_records_total{site="hall1",stream="reading"} 97.0
# TYPE sitestream_consumer_lag_records gauge
sitestream_consumer_lag_records{partition="0",site="hall1",topic="a"} 4.0
sitestream_consumer_lag_records{partition="1",site="hall1",topic="a"} 1.0
# TYPE sitestream_watermark_timestamp_seconds gauge
sitestream_watermark_timestamp_seconds{partition="0",pipeline="tiny",site="hall1",stream="reading"} 100.0
"""


def test_what_a_service_says_becomes_figures() -> None:
    said = readings(METRICS)
    assert said is not None
    seen = gates.look(5.0, found(), said)
    assert seen == Look(5.0, "", "restoring state", Figures(42, 30, {"type": 3.0}, 5.0, 100.0))
    assert gates.figures("collect", replace(said)) == Figures(data=97)
    spooling = Readings({**said.samples, ("sitestream_spool_bytes", frozenset()): 1.0})
    assert gates.figures("upload", spooling).waiting is None  # it takes no more than the store takes from it
    assert readings("") is None
    assert readings("<html>") is None


@pytest.mark.parametrize(
    ("changes", "ended", "ill"),
    [
        ({}, "", ""),
        ({"health": "starting"}, "", "starting"),
        ({"health": "unhealthy"}, "", "starting"),
        ({"state": "exited", "exit_code": 1}, "ended with code 1", ""),
        ({"state": "restarting", "exit_code": 2}, "ended with code 2", ""),
        ({"restarts": 1}, "ended", ""),
    ],
)
def test_a_service_that_says_nothing_is_as_its_engine_finds_it(changes: dict[str, Any], ended: str, ill: str) -> None:
    assert gates.look(0, found(**changes), None) == Look(0, ended, ill, None)


# against references


STEPS = st.lists(
    st.tuples(
        st.floats(0.1, 4),  # s since the look before
        st.sampled_from(["", "", "", "", "x"]),
        st.integers(0, 2),  # taken
        st.integers(0, 2),  # waiting more
        st.sampled_from([0, 0, 0, 5]),  # watermark moves
        st.sampled_from([0, 0, 0, 1]),  # dead
    ),
    min_size=1,
    max_size=40,
)
POLICIES = st.builds(
    Policy,
    st.just("hall1"),
    patience_s=st.sampled_from([3.0, 10.0, 40.0]),
    soak_s=st.sampled_from([0.0, 5.0, 30.0]),
    errors_max=st.sampled_from([0.1, 1.0]),
)


def story(steps: Sequence[tuple[float, str, int, int, int, int]]) -> list[Look]:
    looks, now_s, taken, waiting, watermark, dead = [], 0.0, 0, 0, 1, 0
    for gap_s, ill, takes, more, moves, dies in steps:
        now_s += gap_s
        taken, waiting, watermark, dead = taken + takes, waiting + more, watermark + moves, dead + dies
        looks.append(at(now_s, Figures(taken, taken, {"type": dead}, waiting, watermark), ill=ill))
    return looks


@given(STEPS, POLICIES)
def test_dropping_old_looks_changes_no_verdict(
    steps: Sequence[tuple[float, str, int, int, int, int]], policy: Policy
) -> None:
    kept: list[Look] = []
    looks = story(steps)
    for n, new in enumerate(looks, 1):
        kept = gates.recent([*kept, new], policy)
        verdict = judge("process", kept, policy)
        assert verdict == judge("process", looks[:n], policy)
        if verdict[0] != "wait":
            break
    span_s = max(STALL_S, policy.patience_s)
    assert sum(n.at_s < kept[-1].at_s - span_s for n in kept) <= 2


@given(STEPS, POLICIES)
def test_who_passes_was_well_long_enough_and_who_fails_has_a_reason(
    steps: Sequence[tuple[float, str, int, int, int, int]], policy: Policy
) -> None:
    looks = story(steps)
    verdict, _ = judge("process", looks, policy)
    now, last = looks[-1].at_s, looks[-1].figures
    assert last is not None
    well = all(not n.ill for n in looks if n.at_s >= now - HEALTHY_S_MIN)
    old = [n for n in looks if n.at_s <= now - STALL_S]
    stands = bool(old) and not old[-1].ill and old[-1].figures is not None and (
        (old[-1].figures.taken == last.taken and old[-1].figures.waiting != last.waiting)
        or (old[-1].figures.watermark == last.watermark and last.taken > old[-1].figures.taken)
    )  # fmt: skip
    dies = sum(last.dead.values()) >= ERRORS_MIN and policy.errors_max < 1
    late = now - looks[0].at_s >= policy.patience_s
    if verdict == "passed":
        assert well
        assert now - looks[0].at_s >= policy.soak_s
    if verdict == "failed":
        assert stands or dies or late
    if late and not policy.soak_s and not well:
        assert verdict == "failed"
