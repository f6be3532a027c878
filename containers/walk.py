"""Swaps containers: walks the table `rollout.TRANSITIONS`, doing what each state says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from containers import gates, names, rollout
from containers.commands import CreateVolume, RemoveContainer, RemoveVolume, StartContainer, StopContainer
from containers.engine import Engine
from containers.gates import Figures, Policy
from containers.profiles import BROKER
from containers.rollout import Container, Event, Record, State, Swap
from containers.watch import Watch
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

LOG_LINES = 50
POLL_S = 0.2
SOAK_POLL_S = 1.0
WRITERS = ("process", "collect")  # of what others read
BACK_S_MIN = 120.0  # for a version that goes back into service: it was healthy before, so patience is right


class Report(Protocol):
    """Where progress goes."""

    def __call__(self, text: str, *, bad: bool = False) -> None:
        """One line, or several of a log."""
        ...


# Hears what is going on: 'ship', 'swap process', 'gate process: restoring state', 'soak 20 s left', 'commit', 'undo: …'.
Progress = Callable[[str], None]


@dataclass
class Rollout:
    """Swaps containers one by one, each behind its gate; on failure all go back. `run` gives the final state.

    Before the commit all new ones must stay well for `soak_s`. `errors_max`: see `gates.Policy`.
    """

    engine: Engine
    site: str
    record: Record  # what is written when all is well
    swaps: Sequence[Swap]
    prepare: Callable[[], None]  # all that can be done while the old containers run
    report: Report
    timeout_s: float
    roll_back: bool = True
    clock: Clock = field(default_factory=SystemClock)
    soak_s: float = 0.0
    errors_max: float = gates.ERRORS_MAX
    pause: Callable[[float], None] = time.sleep
    progress: Progress = lambda phase: None
    once_healthy: dict[str, Callable[[], None]] = field(default_factory=dict)  # what a service is for: before the next
    journal: Callable[[State, str], None] = lambda state, why: None  # told of the beginning and of how and why it ended
    interrupted: bool = False
    why: str = ""  # it failed
    judged: bool = False  # a new container was seen to be bad; else it failed for a reason that may pass
    _turn: int = 0
    _well: set[str] = field(default_factory=set)  # old ones that were healthy: they must be so again if they come back
    _before: dict[str, Figures | None] = field(default_factory=dict)  # service -> what the old one said at its end

    def run(self) -> State:
        """Until one of `rollout.EXIT_CODES` is reached. Ctrl-C counts as a failure, so it rolls back."""
        steps: Mapping[State, Callable[[], Event]] = {
            "ship": self._ship, "swap": self._swap, "gate": self._gate, "soak": self._soak, "commit": self._commit,
            "undo": self._undo,
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
        self.progress("ship")
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
        self.progress(f"swap {swap.service}")
        if swap.old:
            self._remember(swap.service, swap.old)
            self.report(f"{swap.service}: stopping {swap.old}")
            self.engine.run(StopContainer(swap.old))
        if swap.new:
            self.report(f"{swap.service}: starting {swap.new}")
            self.engine.run(StartContainer(swap.new))
        return "ok"

    def _remember(self, service: str, old: str) -> None:
        last = Watch(self.engine, self.clock, old, Policy(self.site, self.timeout_s))
        last.look()
        self._before[service] = last.figures
        if last.well:
            self._well.add(old)

    def _gate(self) -> Event:
        if not self.swaps:
            return "ok"
        swap = self.swaps[self._turn]
        later = self.swaps[self._turn + 1 :]
        if swap.new:
            forgiven = gates.OTHER_LAYOUT if any(s.service in WRITERS for s in later) else ""
            self._wait([self._watch(swap, forgiven=forgiven)], lambda why: f"gate {swap.service}: {why}")
            self.report(f"{swap.service}: healthy")
            self.once_healthy.get(swap.service, lambda: None)()
        self._turn += 1
        return "more" if later else "ok"

    def _soak(self) -> Event:
        watches = [self._watch(swap, soak_s=self.soak_s) for swap in self.swaps if swap.new]
        if not self.soak_s or not watches:
            return "ok"
        self.report(f"soak: all must stay well for {self.soak_s:g} s")
        end_s = self.clock.monotonic_s() + self.soak_s
        self._wait(watches, lambda _: f"soak {max(0.0, end_s - self.clock.monotonic_s()):.0f} s left", SOAK_POLL_S)
        return "ok"

    def _watch(self, swap: Swap, *, forgiven: str = "", soak_s: float = 0.0) -> Watch:
        assert swap.new
        patience_s = gates.ILL_S_MAX if soak_s else self.timeout_s
        before = self._before.get(swap.service)
        policy = Policy(self.site, patience_s, soak_s, self.errors_max, forgiven, before)
        return Watch(self.engine, self.clock, swap.new, policy)

    def _wait(self, watches: Sequence[Watch], phase: Callable[[str], str], poll_s: float = POLL_S) -> None:
        """Until all have passed; `Unavailable`, with the log, if one fails. `phase`: of why one has not passed yet."""
        while True:
            unmet = [why for w in watches if (why := self._unmet(w))]
            if not unmet:
                return
            self.progress(phase(unmet[0]))
            self.pause(poll_s)

    def _unmet(self, watch: Watch) -> str:
        verdict, why = watch.look()
        if verdict == "failed":
            self.judged = True
            self._show_log(watch.name)
            raise Unavailable(why)
        return why

    def _seen(self, name: str) -> Container:
        seen = self.engine.container(name)
        if seen is None:
            raise Unavailable(f"{name} has been removed by somebody else")
        return seen

    def _show_log(self, name: str) -> None:
        self.report(f"last {LOG_LINES} lines of {name}:\n{self.engine.logs(name, LOG_LINES).rstrip()}", bad=True)

    def _commit(self) -> Event:
        self.progress("commit")
        for swap in self.swaps:  # those that came first may have failed since
            if swap.new and (trouble := self._seen(swap.new).trouble):
                self.judged = True
                self._show_log(swap.new)
                raise Unavailable(f"{swap.service} {trouble} after it had been healthy")
        self.engine.run(_write(self.site, self.record))
        return "ok"

    def _undo(self) -> Event:
        self.progress("undo")
        self.report("going back to what ran before", bad=True)
        begun_s = self.clock.monotonic_s()
        self.engine.run(
            RemoveVolume(names.record(self.site, self.record.revision))
        )  # the failure may have come just after it
        for swap in reversed(self.swaps):
            if swap.new:
                self.engine.run(RemoveContainer(swap.new) if swap.made else StopContainer(swap.new))
        old = {swap.service: swap.old for swap in reversed(self.swaps[: self._turn + 1]) if swap.old}
        if broker := old.pop(BROKER.service, None):  # the others need it
            self.engine.run(StartContainer(broker))
            self._wait([self._back(broker)] if broker in self._well else [], lambda why: f"undo: {why}")
        touched = [*old.values()]
        for name in touched:
            self.engine.run(StartContainer(name))
        self._wait([self._back(name) for name in touched if name in self._well], lambda why: f"undo: {why}")
        self.report(f"what ran before is back after {self.clock.monotonic_s() - begun_s:.1f} s")
        return "ok"

    def _back(self, name: str) -> Watch:
        """What ran before must be healthy again, and no more than that."""
        policy = Policy(self.site, max(self.timeout_s, BACK_S_MIN), work=False)
        return Watch(self.engine, self.clock, name, policy)


def _write(site: str, record: Record) -> CreateVolume:
    """The command that makes a record: one call, so there is no half of it."""
    labels = {names.SITE: site, names.RECORD: msgspec.json.encode(record).decode()}
    return CreateVolume(names.record(site, record.revision), labels)
