"""Which site's turn it is in a rollout. No I/O and no clock: events go in, decisions come out.

The state is what the events add up to, so a journal of them is all that a rollout needs to survive a crash. Waves are quotas of
sites that *answered*: a site that is offline is set aside, another takes its place, and it catches up when it returns. So
nobody who is away holds up the others, and a canary is never a site that nobody could reach. Each event costs O(log sites).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from containers.fleet.events import (
    Aborted,
    Event,
    Finished,
    Outcome,
    Over,
    Paused,
    Restarted,
    Resumed,
    Started,
    Superseded,
    Tick,
)
from containers.fleet.policy import Policy
from pipelines.errors import StateError

State = Literal["waiting", "working", "done", "unchanged", "failed", "broken", "pending", "superseded", "skipped"]
Status = Literal["running", "paused", "halted", "aborted"]

TRANSITIONS: dict[tuple[State, str], State] = {
    ("waiting", "start"): "working",
    ("pending", "start"): "working",
    ("working", "done"): "done",
    ("working", "unchanged"): "unchanged",
    ("working", "failed"): "failed",
    ("working", "broken"): "broken",
    ("working", "offline"): "pending",
    ("working", "restart"): "waiting",  # an attempt is atomic and can be repeated
    ("waiting", "supersede"): "superseded",
    ("pending", "supersede"): "superseded",
    ("waiting", "stop"): "skipped",
    ("pending", "stop"): "skipped",
}
OPEN: tuple[State, ...] = ("waiting", "working", "pending")
FAILED: tuple[State, ...] = ("failed", "broken")
ANSWERED: tuple[State, ...] = ("done", "unchanged", *FAILED)
STOPPED: tuple[Status, ...] = ("halted", "aborted")


@dataclass(slots=True)
class SiteStatus:
    """Where a site stands."""

    state: State = "waiting"
    since_s: float = 0.0  # when it came into this state
    wave: int = 0  # in which it was tried first, from 1; 0 before
    attempts: int = 0
    offline: int = 0  # attempts in a row that did not reach it
    retry_at_s: float = math.inf  # of a pending site
    outcome: Outcome | None = None  # of the newest attempt that has ended
    superseded_by: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an attempt now."""

    site: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be started before this time, unless something happens. Infinity: only an event will change that."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Complete:
    """Every site has its final state."""


Decision = Start | Wait | Complete


class Schedule:
    """A rollout of `policy` over `sites`, in that order, after `events`."""

    def __init__(self, policy: Policy, sites: Sequence[str], events: Iterable[Event] = ()) -> None:
        self.policy = policy
        self.sites = {site: SiteStatus() for site in sites}
        self.counts: Counter[State] = Counter({"waiting": len(self.sites)})
        self.quotas = policy.quotas(len(self.sites))
        self.status: Status = "running"
        self.wave = 1
        self.now_s = -math.inf
        self._full_s = math.inf  # when as many had answered as this wave asks for
        self._fresh = deque(
            self.sites
        )  # and the heap: entries that are not true any more are dropped when they come up
        self._retries: list[tuple[float, str]] = []
        for event in events:
            self.apply(event)

    @property
    def answered(self) -> int:
        """Sites whose attempt has ended, well or not."""
        return sum(self.counts[s] for s in ANSWERED)

    @property
    def failures(self) -> int:
        """Sites that failed or are broken."""
        return sum(self.counts[s] for s in FAILED)

    @property
    def complete(self) -> bool:
        """Whether every site has its final state."""
        return not any(self.counts[s] for s in OPEN)

    @property
    def only_pending(self) -> bool:
        """Whether nothing is left but sites that are offline."""
        return self.counts["pending"] > 0 and not self.counts["waiting"] and not self.counts["working"]

    @property
    def result(self) -> str:
        """The whole rollout in a word: its status while it goes on, or how it ended."""
        if self.status != "running" or not self.complete:
            return "pending" if self.status == "running" and self.only_pending else self.status
        for state in ("broken", "failed", "superseded"):
            if self.counts[state]:
                return state
        return "done"

    @property
    def exit_code(self) -> int:
        """4 a site is broken, 3 one failed, 1 some were left out, 5 not complete, 0 all have the release."""
        if self.failures:
            return 4 if self.counts["broken"] else 3
        if self.counts["skipped"] or self.counts["superseded"]:
            return 1
        return 0 if self.complete else 5

    def apply(self, event: Event) -> None:
        """Take note of an event. `StateError` if it cannot have happened."""
        self.now_s = max(self.now_s, event.at_s)
        self._open_wave()
        match event:
            case Started(site=site):
                self._start(site)
            case Finished(site=site, outcome=outcome):
                self._finish(site, outcome)
            case Paused() | Resumed():
                if self.status not in STOPPED:
                    self.status = "paused" if isinstance(event, Paused) else "running"
            case Aborted():
                self._stop("aborted")
            case Superseded(by=by, sites=sites):
                self._supersede(by, sites)
            case Restarted():
                self._restart()
            case Tick() | Over():
                pass
        self._open_wave()

    def decide(self) -> Decision:
        """What to do now, that is, at the time of the newest event. After a `Start` apply `Started` and ask again."""
        if self.complete:
            return Complete()
        working, taken = self.counts["working"], self.counts["working"] + self.answered
        if self.status != "running" or working >= self.policy.max_parallel:
            return Wait(math.inf)
        if taken >= self.quotas[self.wave - 1]:
            return Wait(self._full_s + self.policy.soak_s)
        if (fresh := self._next_fresh()) is not None:
            return Start(fresh)
        at_s, site = self._next_retry()
        return Start(site) if at_s <= self.now_s else Wait(at_s)

    def _start(self, site: str) -> None:
        if self.status in STOPPED:
            raise StateError(f"site {site} cannot be started: the rollout is {self.status}")
        status = self._move(site, "start")
        status.attempts += 1
        status.wave = status.wave or self.wave

    def _finish(self, site: str, outcome: Outcome) -> None:
        status = self._move(site, outcome.kind)
        status.outcome = outcome
        if outcome.kind == "offline":
            status.offline += 1
            self._retry(site, self.now_s + self.policy.retry_after_s(site, status.offline))
            self._settle(site)
            return
        status.offline = 0
        quota = self.quotas[self.wave - 1]
        if self.failures > self.policy.failures_max(quota, last=self.wave == len(self.quotas)):
            self._stop("halted")
        if self.answered == quota:
            self._full_s = self.now_s

    def _stop(self, status: Status) -> None:
        if self.status in STOPPED:
            return
        self.status = status
        for site, of in self.sites.items():
            if of.state in ("waiting", "pending"):
                self._move(site, "stop")

    def _supersede(self, by: str, sites: Sequence[str]) -> None:
        for site in sites:
            if (status := self.sites.get(site)) is not None:
                status.superseded_by = by
                if status.state in ("waiting", "pending"):
                    self._move(site, "supersede")

    def _restart(self) -> None:
        """What was under way begins again, and what was offline is tried at once."""
        for site, status in self.sites.items():
            if status.state == "working":
                self._move(site, "restart")
                self._settle(site)
            elif status.state == "pending":
                self._retry(site, self.now_s)

    def _retry(self, site: str, at_s: float) -> None:
        self.sites[site].retry_at_s = at_s
        heapq.heappush(self._retries, (at_s, site))

    def _settle(self, site: str) -> None:
        """A site that was working is to be tried again; unless, meanwhile, it is not to be."""
        if self.status in STOPPED:
            self._move(site, "stop")
        elif self.sites[site].superseded_by:
            self._move(site, "supersede")
        elif self.sites[site].state == "waiting":
            self._fresh.appendleft(site)

    def _move(self, site: str, what: str) -> SiteStatus:
        status = self.sites.get(site)
        after = TRANSITIONS.get((status.state, what)) if status else None
        if status is None or after is None:
            where = f"is {status.state}" if status else "is not part of it"
            raise StateError(f"rollout: site {site} {where}, so '{what}' cannot have happened")
        self.counts[status.state] -= 1
        self.counts[after] += 1
        status.state, status.since_s, status.retry_at_s = after, self.now_s, math.inf
        return status

    def _open_wave(self) -> None:
        if self.wave < len(self.quotas) and self.now_s >= self._full_s + self.policy.soak_s:
            self.wave += 1
            self._full_s = math.inf

    def _next_fresh(self) -> str | None:
        while self._fresh and self.sites[self._fresh[0]].state != "waiting":
            self._fresh.popleft()
        return self._fresh[0] if self._fresh else None

    def _next_retry(self) -> tuple[float, str]:
        while self._retries and self.sites[self._retries[0][1]].retry_at_s != self._retries[0][0]:
            heapq.heappop(self._retries)
        return self._retries[0] if self._retries else (math.inf, "")
