"""Carries a rollout out: asks the schedule whose turn it is, has threads attempt the sites, puts on record what comes of it."""

from __future__ import annotations

import math
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from containers.fleet.events import Finished, Outcome, Restarted, Started, Tick
from containers.fleet.journal import Journal
from containers.fleet.schedule import Complete, Schedule, Start, Wait
from containers.fleet.view import Watcher
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

POLL_S_MAX = 0.5  # so soon wishes from other terminals are taken up
INTERRUPTED = 130


Attempt: TypeAlias = Callable[[str, Callable[[str], None]], Outcome]
"""Brings one site up to date: takes its name and what is to be told each phase, in a few words.

It is called from several threads, for different sites, and must be safe to repeat: a crash of this process leaves attempts half
done. What it raises counts, too: `Unavailable` as offline (it will be tried again), another error of ours as failed (the site
runs what it ran before), anything else as broken.
"""


@dataclass
class Driver:
    """Carries out the rollout of a journal until it is over, or only sites that are offline are left for `wait_s`."""

    journal: Journal
    attempt: Attempt
    watcher: Watcher
    wait_s: float = 0.0
    clock: Clock = field(default_factory=SystemClock)
    _inbox: queue.SimpleQueue[tuple[str, Outcome | str]] = field(default_factory=queue.SimpleQueue)
    _interrupted: bool = False
    _told: bool = False
    _alone_since_s: float = math.inf  # when for the first time only sites that are offline were left

    def __post_init__(self) -> None:
        """Time goes on from the newest event, and never back, whatever is done to the machine's clock."""
        monotonic_s = self.clock.monotonic_s()
        self._zero_s = max(self.clock.now_ns() / 1e9, self.schedule.now_s) - monotonic_s

    def run(self) -> int:
        """The exit code. The first Ctrl-C lets what is under way finish and starts nothing more, the second leaves at once."""
        if self.schedule.counts["working"] or self.schedule.counts["pending"]:
            self.journal.record(Restarted(self._now_s()))
        with self._signals(), self.watcher:
            while self._turn():
                pass
            if self.schedule.complete:
                self.journal.finish(self._now_s())
        if self._interrupted and not self.schedule.complete:
            return INTERRUPTED
        return self.schedule.exit_code

    @property
    def schedule(self) -> Schedule:
        """Where the rollout stands."""
        return self.journal.schedule

    def _turn(self) -> bool:
        """Start what can be started, then wait for something to happen; False when it is time to leave."""
        for wish in self.journal.take_wishes():
            self.watcher.event(wish, self.schedule)
        self.schedule.apply(Tick(self._now_s()))
        decision = self.schedule.decide()
        while isinstance(decision, Start) and not self._interrupted:
            self._start(decision.site)
            decision = self.schedule.decide()
        if self._interrupted and not self._told:
            self._told = True
            self.watcher.interrupted(self.schedule)
        self.watcher.refresh(self.schedule)
        if self._time_to_leave(decision):
            return False
        until_s = decision.until_s if isinstance(decision, Wait) else math.inf
        self._receive(min(POLL_S_MAX, max(0.0, until_s - self._now_s())))
        return True

    def _start(self, site: str) -> None:
        event = Started(self._now_s(), site)
        self.journal.record(event)
        self.watcher.event(event, self.schedule)
        # a daemon: the second Ctrl-C must not wait for it
        threading.Thread(target=self._work, args=(site,), name=f"rollout {site}", daemon=True).start()

    def _work(self, site: str) -> None:
        try:
            outcome = self.attempt(site, lambda phase: self._inbox.put((site, phase)))
        except Unavailable as e:
            outcome = Outcome("offline", str(e))
        except SitestreamError as e:
            outcome = Outcome("failed", str(e))
        except BaseException as e:  # whatever it is, nobody knows how it left the site
            outcome = Outcome("broken", f"{type(e).__name__}: {e}")
        self._inbox.put((site, outcome))

    def _receive(self, timeout_s: float) -> None:
        """What threads have to say: wait for the first, take all there are."""
        try:
            site, said = self._inbox.get(timeout=timeout_s)
            while True:
                self._take(site, said)
                site, said = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _take(self, site: str, said: Outcome | str) -> None:
        if isinstance(said, str):
            self.watcher.phase(site, said)
            return
        event = Finished(self._now_s(), site, said)
        self.journal.record(event)
        self.watcher.event(event, self.schedule)

    def _time_to_leave(self, decision: Start | Wait | Complete) -> bool:
        if isinstance(decision, Complete) or (self._interrupted and not self.schedule.counts["working"]):
            return True
        if not self.schedule.only_pending:
            return False
        self._alone_since_s = min(self._alone_since_s, self._now_s())
        return self._now_s() - self._alone_since_s >= self.wait_s

    def _now_s(self) -> float:
        return self._zero_s + self.clock.monotonic_s()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C twice: first with patience, then without."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(*_: object) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
