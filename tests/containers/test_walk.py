"""The rollout at work, on an engine that fails where the test says: everything goes back, or nothing was touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from containers.commands import Command, CreateVolume, RemoveContainer, StartContainer, StopContainer
from containers.rollout import Container, Record, Swap
from containers.walk import Rollout
from pipelines.clock import ManualClock
from pipelines.errors import Unavailable
from tests.containers.kit import found


@dataclass
class FaultyEngine:
    """Holds containers in memory; a command for which `fault` is true fails, a container in `ill` never gets healthy."""

    containers: dict[str, Container]
    fault: Callable[[Command], bool] = lambda _: False
    ill: frozenset[str] = frozenset()
    interrupt: frozenset[str] = frozenset()
    done: list[Command] = field(default_factory=list)
    words: dict[str, Callable[[], str]] = field(default_factory=dict)  # what services answer; the others do not

    def run(self, command: Command) -> None:
        if self.fault(command):
            raise Unavailable(f"fault at {command}")
        self.done.append(command)
        match command:
            case StartContainer(name):
                if name in self.interrupt:
                    raise KeyboardInterrupt
                health = "starting" if name in self.ill else "healthy"
                self.containers[name] = replace(self.containers[name], state="running", health=health)
            case StopContainer(name):
                self.containers[name] = replace(self.containers[name], state="exited")
            case RemoveContainer(name):
                self.containers.pop(name, None)

    def container(self, name: str, *, probe: bool = True) -> Container | None:
        return self.containers.get(name)

    def said(self, name: str) -> str:
        return self.words.get(name, lambda: "")()

    def logs(self, name: str, lines: int) -> str:
        return f"the last {lines} lines of {name}\n"

    @property
    def running(self) -> set[str]:
        return {c.name.removeprefix("sitestream-hall1-") for c in self.containers.values() if c.state == "running"}


@dataclass
class Deploy:
    """Replaces r1 of upload and process by r2, on a faulty engine."""

    engine: FaultyEngine
    said: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    @classmethod
    def on(cls, **faults: Any) -> Deploy:
        services = ("upload", "process")
        old = [found(s, 1) for s in services]
        new = [found(s, 2, state="created", health="starting") for s in services]
        return cls(FaultyEngine({c.name: c for c in (*old, *new)}, **faults))

    def report(self, text: str, *, bad: bool = False) -> None:
        self.said.append(text)

    def rollout(
        self, *, roll_back: bool = True, prepare: Callable[[], None] = lambda: None, soak_s: float = 0.0
    ) -> Rollout:
        swaps = [Swap(s, _name(s, 1), _name(s, 2), made=True) for s in ("upload", "process")]
        record = Record(2, {s: _name(s, 2) for s in ("upload", "process")}, "2026-01-01")
        engine: Any = self.engine
        return Rollout(
            engine, "hall1", record, swaps, prepare, self.report, 5.0, roll_back, self.clock, soak_s,
            pause=self.clock.advance, progress=self.phases.append,
        )  # fmt: skip


def _name(service: str, revision: int) -> str:
    return f"sitestream-hall1-{service}-r{revision}"


OLD, NEW = {"upload-r1", "process-r1"}, {"upload-r2", "process-r2"}


def test_all_well() -> None:
    deploy = Deploy.on()
    assert deploy.rollout().run() == "done"
    assert deploy.engine.running == NEW
    assert [type(c) for c in deploy.engine.done] == [
        StopContainer,
        StartContainer,
        StopContainer,
        StartContainer,
        CreateVolume,
    ]
    assert _name("upload", 1) in deploy.engine.containers  # kept, to go back to


@pytest.mark.parametrize(
    "fault",
    [
        lambda c: c == StopContainer(_name("upload", 1)),
        lambda c: c == StartContainer(_name("upload", 2)),
        lambda c: c == StopContainer(_name("process", 1)),
        lambda c: c == StartContainer(_name("process", 2)),
        lambda c: isinstance(c, CreateVolume),
    ],
)
def test_whatever_fails_all_goes_back(fault: Callable[[Command], bool]) -> None:
    deploy = Deploy.on(fault=fault)
    assert deploy.rollout().run() == "rolled back"
    assert deploy.engine.running == OLD
    assert not [c for c in deploy.engine.containers if c.endswith("r2")]
    assert any(said.startswith("fault at") for said in deploy.said)


@pytest.mark.parametrize("ill", ["upload", "process"])
def test_a_service_that_does_not_get_healthy_shows_its_log_and_all_goes_back(ill: str) -> None:
    deploy = Deploy.on(ill=frozenset({_name(ill, 2)}))
    assert deploy.rollout().run() == "rolled back"
    assert deploy.engine.running == OLD
    assert f"last 50 lines of {_name(ill, 2)}:\nthe last 50 lines of {_name(ill, 2)}" in deploy.said
    assert f"{ill} was not healthy within 5 s: starting" in deploy.said
    assert 5 <= deploy.clock.monotonic_s() < 9


def test_a_service_that_fails_after_its_own_gate_takes_all_back() -> None:
    deploy = Deploy.on()
    rollout = deploy.rollout()
    plain = deploy.engine.run

    def upload_dies_when_process_starts(command: Command) -> None:
        plain(command)
        if command == StartContainer(_name("process", 2)):
            name = _name("upload", 2)
            deploy.engine.containers[name] = replace(deploy.engine.containers[name], state="exited", exit_code=137)

    deploy.engine.run = upload_dies_when_process_starts  # type: ignore[method-assign]
    assert rollout.run() == "rolled back"
    assert deploy.engine.running == OLD
    assert "upload exited with code 137 after it had been healthy" in deploy.said


def test_who_looks_on_hears_what_is_going_on() -> None:
    deploy = Deploy.on()
    starting = iter([0, 0, 5])
    deploy.engine.words[_name("process", 2)] = lambda: _words(restored=next(starting, 5) > 0)
    assert deploy.rollout(soak_s=2).run() == "done"
    assert list(dict.fromkeys(deploy.phases)) == [
        "ship", "swap upload", "gate upload: healthy", "swap process", "gate process: restoring state",
        "gate process: healthy", "soak 2 s left", "soak 1 s left", "commit",
    ]  # fmt: skip


def _words(*, taken: int = 1, dead: int = 0, restored: bool = True) -> str:
    return (
        f'{{"conditions": {{"restored": {str(restored).lower()}}}}}\n'
        f'sitestream_consumed_records_total{{kind="data",service="process"}} {taken}\n'
        f'sitestream_dead_letter_records_total{{reason="type",service="process"}} {dead}\n'
    )


def test_in_the_soak_all_must_stay_well() -> None:
    deploy = Deploy.on()
    assert deploy.rollout(soak_s=30).run() == "done"
    assert deploy.clock.monotonic_s() >= 30
    deploy = Deploy.on()
    upload, since_s = _name("upload", 2), 8.0

    def dies() -> str:
        if deploy.clock.monotonic_s() > since_s:
            deploy.engine.containers[upload] = replace(deploy.engine.containers[upload], restarts=1)
        return ""

    deploy.engine.words[upload] = dies
    assert deploy.rollout(soak_s=30).run() == "rolled back"
    assert deploy.engine.running == OLD
    assert any(re.fullmatch(r"upload ended in the soak, after \d s", said) for said in deploy.said)
    assert f"last 50 lines of {upload}:\nthe last 50 lines of {upload}" in deploy.said
    assert any(re.fullmatch(r"what ran before is back after 1\.\d s", said) for said in deploy.said)


def test_ctrl_c_in_the_soak_goes_back() -> None:
    deploy = Deploy.on()
    rollout = deploy.rollout(soak_s=30)

    def interrupt(phase: str) -> None:
        if phase == "soak 20 s left":
            raise KeyboardInterrupt

    rollout.progress = interrupt
    assert rollout.run() == "rolled back"
    assert rollout.interrupted
    assert deploy.engine.running == OLD


@pytest.mark.parametrize(("dead_before", "end"), [(0, "rolled back"), (90, "done")])
def test_dead_letters_count_against_those_of_the_version_before(dead_before: int, end: str) -> None:
    deploy = Deploy.on()
    deploy.engine.words[_name("process", 1)] = lambda: _words(taken=100, dead=dead_before)
    deploy.engine.words[_name("process", 2)] = lambda: _words(taken=10, dead=10)
    assert deploy.rollout().run() == end
    found = [said for said in deploy.said if said.startswith("process: 10 of 10 records since its start went to")]
    assert bool(found) is (end == "rolled back")


def test_ctrl_c_goes_back_and_is_told_apart() -> None:
    deploy = Deploy.on(interrupt=frozenset({_name("process", 2)}))
    rollout = deploy.rollout(roll_back=False)  # also then: nobody would look at it
    assert rollout.run() == "rolled back"
    assert rollout.interrupted
    assert deploy.engine.running == OLD


def test_without_rollback_the_failed_version_stays() -> None:
    deploy = Deploy.on(ill=frozenset({_name("process", 2)}))
    assert deploy.rollout(roll_back=False).run() == "broken"
    assert deploy.engine.running == NEW


def test_an_old_version_that_does_not_come_back_is_told() -> None:
    deploy = Deploy.on(ill=frozenset({_name("process", 2), _name("process", 1)}))
    assert deploy.rollout().run() == "broken"
    assert deploy.said[-1] == "process was not healthy within 120 s: starting"


def test_an_old_version_that_was_ill_before_only_has_to_run_again() -> None:
    deploy = Deploy.on(ill=frozenset({_name("process", 2), _name("process", 1)}))
    deploy.engine.containers[_name("process", 1)] = found("process", 1, health="unhealthy")  # its devices are away, say
    assert deploy.rollout().run() == "rolled back"
    assert deploy.engine.running == OLD


def test_what_was_not_touched_yet_is_left_alone_on_the_way_back() -> None:
    deploy = Deploy.on(ill=frozenset({_name("upload", 2), _name("process", 1)}))
    assert deploy.rollout().run() == "rolled back"
    assert StartContainer(_name("process", 1)) not in deploy.engine.done


def test_what_fails_before_anything_is_touched_touches_nothing() -> None:
    deploy = Deploy.on()

    def prepare() -> None:
        raise Unavailable("no disk left")

    assert deploy.rollout(prepare=prepare).run() == "refused"
    assert deploy.engine.running == OLD
    assert {c for c in deploy.engine.containers if c.endswith("r2")} == set()
    assert "no disk left" in deploy.said


def test_a_container_that_somebody_removes_meanwhile_is_a_failure() -> None:
    deploy = Deploy.on(ill=frozenset({_name("upload", 2)}))
    deploy.engine.logs = lambda name, lines: ""  # type: ignore[method-assign]
    plain = deploy.engine.run

    def vanish(command: Command) -> None:
        plain(command)
        if command == StartContainer(_name("upload", 2)):
            del deploy.engine.containers[_name("upload", 2)]

    deploy.engine.run = vanish  # type: ignore[method-assign]
    assert deploy.rollout().run() == "rolled back"
    assert f"{_name('upload', 2)} has been removed by somebody else" in deploy.said
