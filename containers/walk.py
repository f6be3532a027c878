"""Swaps containers: walks the table `rollout.TRANSITIONS`, doing what each state says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from containers import names, rollout
from containers.commands import CreateVolume, RemoveContainer, RemoveVolume, StartContainer, StopContainer
from containers.engine import Engine
from containers.rollout import Container, Event, Record, State, Swap
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

LOG_LINES = 50
POLL_S = 0.2
BACK_S_MIN = 120.0  # for a version that goes back into service: it was healthy before, so patience is right


class Report(Protocol):
    """Where progress goes."""

    def __call__(self, text: str, *, bad: bool = False) -> None:
        """One line, or several of a log."""
        ...


@dataclass
class Rollout:
    """Swaps containers one by one, each behind its gate; on failure all go back. `run` gives the final state."""

    engine: Engine
    site: str
    record: Record  # what is written when all is well
    swaps: Sequence[Swap]
    prepare: Callable[[], None]  # all that can be done while the old containers run
    report: Report
    timeout_s: float
    roll_back: bool = True
    clock: Clock = field(default_factory=SystemClock)
    pause: Callable[[float], None] = time.sleep
    journal: Callable[[State, str], None] = lambda state, why: None  # told of the beginning and of how and why it ended
    interrupted: bool = False
    why: str = ""  # it failed
    _turn: int = 0
    _well: set[str] = field(default_factory=set)  # old ones that were healthy: they must be so again if they come back

    def run(self) -> State:
        """Until one of `rollout.EXIT_CODES` is reached. Ctrl-C counts as a failure, so it rolls back."""
        steps: Mapping[State, Callable[[], Event]] = {
            "ship": self._ship, "swap": self._swap, "gate": self._gate, "commit": self._commit, "undo": self._undo,
        }  # fmt: skip
        state: State = "ship"
        self.journal(state, "")
        try:
            while state in steps:
                state = rollout.TRANSITIONS[state, self._event(state, steps[state])]
        finally:
            self.journal(state if state in rollout.EXIT_CODES else "broken", self.why)
        return state

    def _event(self, state: State, step: Callable[[], Event]) -> Event:
        try:
            return step()
        except SitestreamError as e:
            self.why = self.why or str(e)
            self.report(str(e), bad=True)
        except KeyboardInterrupt:
            self.why = self.why or "interrupted"
            if state == "undo":
                raise
            self.interrupted = True
            self.report("interrupted", bad=True)
        return "failed" if self.roll_back or self.interrupted or state in ("ship", "undo") else "failed for good"

    def _ship(self) -> Event:
        try:
            self.prepare()
        except BaseException:
            for swap in self.swaps:
                if swap.new and swap.made:
                    self.engine.run(RemoveContainer(swap.new))
            raise
        return "ok"

    def _swap(self) -> Event:
        if not self.swaps:
            return "ok"
        swap = self.swaps[self._turn]
        if swap.old:
            if self._seen(swap.old).health == "healthy":
                self._well.add(swap.old)
            self.report(f"{swap.service}: stopping {swap.old}")
            self.engine.run(StopContainer(swap.old))
        if swap.new:
            self.report(f"{swap.service}: starting {swap.new}")
            self.engine.run(StartContainer(swap.new))
        return "ok"

    def _gate(self) -> Event:
        if not self.swaps:
            return "ok"
        swap = self.swaps[self._turn]
        if swap.new:
            self._wait_until_healthy(swap.new, self.timeout_s)
            self.report(f"{swap.service}: healthy")
        self._turn += 1
        return "more" if self._turn < len(self.swaps) else "ok"

    def _wait_until_healthy(self, name: str, timeout_s: float) -> None:
        begun, healthy_since = self.clock.monotonic_s(), math.inf
        while True:
            seen, now = self._seen(name), self.clock.monotonic_s()
            healthy_since = min(healthy_since, now) if seen.health == "healthy" else math.inf
            verdict, why = rollout.verdict(
                seen, waited_s=now - begun, healthy_s=now - healthy_since, timeout_s=timeout_s
            )
            if verdict == "healthy":
                return
            if verdict == "failed":
                self._show_log(name)
                raise Unavailable(why)
            self.pause(POLL_S)

    def _seen(self, name: str) -> Container:
        seen = self.engine.container(name)
        if seen is None:
            raise Unavailable(f"{name} has been removed by somebody else")
        return seen

    def _show_log(self, name: str) -> None:
        self.report(f"last {LOG_LINES} lines of {name}:\n{self.engine.logs(name, LOG_LINES).rstrip()}", bad=True)

    def _commit(self) -> Event:
        for swap in self.swaps:  # those that came first may have failed since
            if swap.new and (trouble := self._seen(swap.new).trouble):
                self._show_log(swap.new)
                raise Unavailable(f"{swap.service} {trouble} after it had been healthy")
        self.engine.run(_write(self.site, self.record))
        return "ok"

    def _undo(self) -> Event:
        self.report("going back to what ran before", bad=True)
        self.engine.run(
            RemoveVolume(names.record(self.site, self.record.revision))
        )  # the failure may have come just after it
        for swap in reversed(self.swaps):
            if swap.new:
                self.engine.run(RemoveContainer(swap.new) if swap.made else StopContainer(swap.new))
        touched = [swap.old for swap in reversed(self.swaps[: self._turn + 1]) if swap.old]
        for name in touched:
            self.engine.run(StartContainer(name))
        for name in touched:
            if name in self._well:
                self._wait_until_healthy(name, max(self.timeout_s, BACK_S_MIN))
        return "ok"


def _write(site: str, record: Record) -> CreateVolume:
    """The command that makes a record: one call, so there is no half of it."""
    labels = {names.SITE: site, names.RECORD: msgspec.json.encode(record).decode()}
    return CreateVolume(names.record(site, record.revision), labels)
