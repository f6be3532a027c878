"""The order of things around a broker: rights before the next service, and on the way back the broker before the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from containers.commands import StartContainer
from containers.deployer import Deployment
from containers.rollout import Actual, Change, Record, Swap, changes
from containers.walk import Rollout
from pipelines.clock import ManualClock
from pipelines.errors import Unavailable
from tests.containers.kit import found
from tests.containers.test_walk import FaultyEngine

SERVICES = ("broker", "process")


@dataclass
class Attempt:
    """Replaces r1 of broker and process by r2."""

    engine: FaultyEngine
    rollout: Rollout

    @property
    def started(self) -> list[str]:
        return [c.name.removeprefix("sitestream-hall1-") for c in self.engine.done if isinstance(c, StartContainer)]


def attempt(**faults: Any) -> Attempt:
    old = [found(s, 1) for s in SERVICES]
    new = [found(s, 2, state="created", health="starting") for s in SERVICES]
    engine = FaultyEngine({c.name: c for c in (*old, *new)}, **faults)
    clock, on = ManualClock(), [Swap(s, _name(s, 1), _name(s, 2), made=True) for s in SERVICES]
    record = Record(2, {s: _name(s, 2) for s in SERVICES}, "2026-01-01")
    any_engine: Any = engine
    made = Rollout(any_engine, "hall1", record, on, lambda: None, lambda text, bad=False: None, 5.0, clock=clock)
    made.pause = clock.advance
    return Attempt(engine, made)


def _name(service: str, revision: int) -> str:
    return f"sitestream-hall1-{service}-r{revision}"


def test_rights_are_made_once_the_broker_answers_and_before_the_next_service() -> None:
    now = attempt()
    seen: list[list[str]] = []
    now.rollout.once_healthy["broker"] = lambda: seen.append(now.started)
    assert now.rollout.run() == "done"
    assert seen == [["broker-r2"]]


def test_if_they_cannot_be_made_all_goes_back() -> None:
    now = attempt()

    def refuse() -> None:
        raise Unavailable("kafka.disk is too small")

    now.rollout.once_healthy["broker"] = refuse
    assert now.rollout.run() == "rolled back"
    assert now.rollout.why == "kafka.disk is too small"
    assert now.engine.running == {"broker-r1", "process-r1"}


def test_on_the_way_back_the_broker_is_started_first_and_waited_for() -> None:
    now = attempt(ill=frozenset({_name("process", 2)}))
    assert now.rollout.run() == "rolled back"
    assert now.started == ["broker-r2", "process-r2", "broker-r1", "process-r1"]
    never = attempt(ill=frozenset({_name("process", 2), _name("broker", 1)}))
    assert never.rollout.run() == "broken"  # it was healthy, and is not again: the others would only fail on it
    assert never.started[-1] == "broker-r1"


def test_a_broker_that_a_site_does_not_want_any_more_goes_last() -> None:
    gone = changes([], {"broker": found("broker")})
    assert gone == [Change("broker", "-", ("the site file names other brokers",))]
    assert Deployment((), Actual()).fresh == []
