"""Deploy's decisions: what differs, what a broken-off deploy left to mend, what follows upon what, what can go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from containers import rollout
from containers.commands import RemoveContainer, RemoveVolume, StartContainer, StopContainer
from containers.rollout import EXIT_CODES, TRANSITIONS, Actual, Change, Container, Record, State, Swap
from pipelines.errors import ConfigError
from tests.containers.kit import SITE, as_found, found, wanted


def _record(revision: int, *containers: Container) -> Record:
    return Record(revision, {c.service: c.name for c in containers}, "2026-01-01T00:00:00+00:00")


def test_a_first_deploy_creates_everything(tmp_path: Path) -> None:
    changes = rollout.changes(list(wanted(tmp_path).values()), {})
    assert [(c.service, c.mark) for c in changes] == [
        ("upload", "+"),
        ("control", "+"),
        ("process", "+"),
        ("collect", "+"),
    ]
    assert rollout.summary(changes) == "+4 ~0 -0"


def test_what_runs_as_it_must_is_kept_and_what_differs_is_replaced_with_the_reason(tmp_path: Path) -> None:
    old = {s: as_found(d) for s, d in wanted(tmp_path).items()}
    new = wanted(tmp_path, SITE + "[services.process]\nlog_level = 'DEBUG'")
    marks = {c.service: (c.mark, c.why) for c in rollout.changes(list(new.values()), old)}
    assert marks == {"upload": ("=", ()), "control": ("=", ()), "process": ("~", ("settings",)), "collect": ("=", ())}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"state": "exited", "exit_code": 1}, "it exited with code 1"),
        ({"state": "restarting"}, "it is restarting"),
        ({"health": "unhealthy"}, "it is unhealthy"),
    ],
)
def test_what_is_as_it_must_be_but_not_well_is_replaced(tmp_path: Path, state: dict[str, Any], why: str) -> None:
    want = wanted(tmp_path)["process"]
    (change,) = rollout.changes([want], {"process": as_found(want, **state)})
    assert change == Change("process", "~", (why,))


def test_a_service_without_work_goes(tmp_path: Path) -> None:
    (change,) = rollout.changes([], {"control": found("control")})
    assert (change.service, change.mark) == ("control", "-")


def test_state_that_the_new_version_cannot_take_over_is_told_before(tmp_path: Path) -> None:
    old = as_found(wanted(tmp_path)["process"])
    version = old.pipeline.split()[1]
    (change,) = rollout.changes([wanted(tmp_path, window="2s")["process"]], {"process": old})
    assert change.state_of == version
    assert rollout.summary([change]) == "+0 ~1 -0; 1 state-breaking"
    told = SITE + f"[services.process.options]\ndiscard_state = '{version}'"
    (change,) = rollout.changes([wanted(tmp_path, told, window="2s")["process"]], {"process": old})
    assert change.state_of == ""


def test_a_new_step_breaks_no_state_and_the_plan_says_so(tmp_path: Path) -> None:
    old = as_found(wanted(tmp_path)["process"])
    more = """
class Minute(Schema):
    n = agg.sum(Second.n)


second.window(tumbling("1m", late="0s"), Minute).to(parquet.dataset("tiny/minute"))
"""
    (change,) = rollout.changes([wanted(tmp_path, more=more)["process"]], {"process": old})
    assert change.state_of == ""
    assert [str(fate) for fate in change.state] == ["keep second: unchanged", "migrate minute: new; begins empty"]
    (change,) = rollout.changes([wanted(tmp_path, window="2s")["process"]], {"process": old})
    assert [fate.what for fate in change.state] == ["reset"]
    assert "tumbling 1s" in change.state[0].why


def test_the_newest_record_says_what_is_current() -> None:
    one, two = found(revision=1), found(revision=2)
    assert Actual((one, two), (_record(1, one), _record(2, two))).current == {"process": two}
    assert Actual((one, two), (_record(1, one), _record(2, two), _record(3, one))).current == {"process": one}


def test_without_any_record_what_runs_is_current() -> None:
    stopped, running = found(revision=1, state="exited"), found(revision=2)
    assert Actual((stopped, running)).current == {"process": running}


def test_a_site_at_rest_needs_no_repair() -> None:
    old, now = found(revision=1, state="exited"), found(revision=2)
    assert rollout.repair(Actual((old, now), (_record(1, old), _record(2, now)))) == []
    assert rollout.repair(Actual()) == []


@pytest.mark.parametrize(("old", "new"), [("running", "created"), ("exited", "created"), ("exited", "running")])
def test_a_deploy_that_was_broken_off_is_undone(old: str, new: str) -> None:
    before, unfinished = found(revision=1, state=old), found(revision=2, state=new)
    todo = rollout.repair(Actual((before, unfinished), (_record(1, before),)))
    back = [StartContainer(before.name)] if old == "exited" else []
    assert todo == [RemoveContainer(unfinished.name), *back]


def test_a_rollback_that_was_broken_off_is_undone() -> None:
    one, two = found(revision=1, state="running"), found(revision=2, state="exited")
    todo = rollout.repair(Actual((one, two), (_record(1, one), _record(2, two))))
    assert todo == [StopContainer(one.name), StartContainer(two.name)]


def test_a_first_deploy_that_was_broken_off_leaves_no_containers_behind() -> None:
    assert rollout.repair(Actual((found(state="created"),))) == [RemoveContainer(found().name)]


def test_back_goes_to_the_revision_before_or_to_a_given_one() -> None:
    records = tuple(_record(n) for n in (3, 4, 5))
    assert rollout.target_of(Actual(records=records), None).revision == 4
    assert rollout.target_of(Actual(records=records), 3).revision == 3
    with pytest.raises(ConfigError, match=r"there is no revision 5 to go back to; the engine keeps: 3, 4"):
        rollout.target_of(Actual(records=records), 5)
    with pytest.raises(ConfigError, match=r"there is no earlier revision to go back to; the engine keeps: none"):
        rollout.target_of(Actual(records=records[:1]), None)


def test_going_back_swaps_only_what_differs() -> None:
    up, one, two, extra = found("upload"), found(revision=1), found(revision=2), found("control", 2)
    actual = Actual((up, one, two, extra), (_record(1, up, one), _record(2, up, two, extra)))
    swaps = rollout.swaps_back(actual, actual.records[0])
    assert swaps == [Swap("process", two.name, one.name), Swap("control", extra.name, None)]


def test_going_back_to_a_container_that_was_removed_is_refused() -> None:
    one, two = found(revision=1), found(revision=2)
    actual = Actual((two,), (_record(1, one), _record(2, two)))
    with pytest.raises(
        ConfigError, match=r"revision 1 cannot be brought back: sitestream-hall1-process-r1 was removed"
    ):
        rollout.swaps_back(actual, actual.records[0])


def test_the_table_of_transitions_is_complete() -> None:
    ends = set(EXIT_CODES)
    working = {state for state in get_args(State) if state not in ends}
    assert {state for state, _ in TRANSITIONS} == working
    assert {(state, event) for state in working for event in ("ok", "failed")} <= set(TRANSITIONS)
    assert set(TRANSITIONS.values()) | {"ship"} == set(get_args(State))
    # once something was touched, nothing but a commit or going back ends it
    assert all(TRANSITIONS[state, "failed"] in ("undo", "broken") for state in working - {"ship"})


def test_what_no_kept_revision_needs_is_removed() -> None:
    containers = [found(revision=n, state="exited") for n in range(1, 6)] + [found(revision=6), found("upload", 1)]
    upload = containers[-1]
    records = tuple(_record(n, upload, found(revision=n)) for n in range(1, 7))
    configs = (*(f"config-process-{n}" for n in range(1, 7)), "config-upload-1", "config-of-a-failed-deploy")
    gone = list(rollout.outdated(Actual(tuple(containers), records, configs), "hall1"))
    assert gone == [
        RemoveContainer("sitestream-hall1-process-r1"),
        RemoveContainer("sitestream-hall1-process-r2"),
        RemoveVolume("config-process-1"),
        RemoveVolume("config-process-2"),
        RemoveVolume("config-of-a-failed-deploy"),
        RemoveVolume("sitestream-hall1-revision-1"),
        RemoveVolume("sitestream-hall1-revision-2"),
    ]


def test_a_container_of_several_revisions_stays_as_long_as_one_of_them() -> None:
    c = found()
    records = tuple(_record(n, c) for n in range(1, 9))
    gone = rollout.outdated(Actual((c,), records, (c.config,)), "hall1")
    assert not [g for g in gone if g in (RemoveContainer(c.name), RemoveVolume(c.config))]


def test_trouble_is_told_in_words() -> None:
    assert found().trouble == ""
    assert replace(found(), state="paused").trouble == "is paused"
