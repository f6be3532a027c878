"""A rollout in virtual time: the very schedule that carries out real ones, over sites that are made up.

All bytes go through one uplink that the transfers under way share fairly. A site that is offline costs the time until the
connection is given up; one that is online is connected to, gets its bytes, swaps its containers and passes its gates, each in its
own random time. One that pulls looks for its release now and then, fetches it over a line of its own, and is read now and then;
that it is away is known at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from containers.fleet.events import Aborted, Event, Finished, Outcome, Restarted, Started, Tick
from containers.fleet.policy import Policy
from containers.fleet.schedule import OPEN, Complete, Schedule, Start, Wait

Step = Literal["connect", "give up", "swap", "abort"]


@dataclass(frozen=True)
class World:
    """What the fleet is like. The same world and policy give the same rollout."""

    sites: int = 10_000
    offline: float = 0.2  # share of sites that are away when the rollout begins
    failing: float = 0.01  # share of sites where the new version does not become healthy
    site_bytes: int = 1_000_000  # that an update ships to each site
    uplink_bits_per_s: float = 10e6
    away_s_mean: float = 2 * 3600.0  # of those that are away; exponential, and no longer than `away_s_max`
    away_s_max: float = 24 * 3600.0
    connect_s: tuple[float, float] = (0.3, 3.0)  # uniform: connection, plan
    connect_timeout_s: float = 10.0
    swap_s_median: float = 15.0  # stop, start, gates; lognormal
    swap_s_sigma: float = 0.4
    pulling: float = 0.0  # share of sites that pull, evenly among the others
    poll_s: float = 60.0  # of such a site, from one look to the next
    look_s: float = 5.0  # from one look at its report to the next
    pull_bits_per_s: float = 10e6  # of its own line to the repository
    seed: int = 1

    @property
    def names(self) -> list[str]:
        """Of all sites."""
        return [f"site-{i:05}" for i in range(self.sites)]


class Link:
    """Transfers of one size that share a link fairly. Each operation costs O(log transfers).

    Kept in *served bits*: how much a transfer that had been there from the start would have got by now. One that joins is done
    when that has grown by its size, whoever comes and goes meanwhile.
    """

    def __init__(self, bits_per_s: float) -> None:
        self.bits_per_s = bits_per_s
        self._served = self._at_s = 0.0
        self._ends: list[tuple[float, str]] = []

    def add(self, name: str, bits: float, now_s: float) -> None:
        """A transfer begins."""
        self._advance(now_s)
        heapq.heappush(self._ends, (self._served + bits, name))

    def next_s(self) -> float:
        """When the next transfer is done, if none comes before; infinity if there is none."""
        if not self._ends:
            return math.inf
        return self._at_s + max(0.0, self._ends[0][0] - self._served) * len(self._ends) / self.bits_per_s

    def pop(self, now_s: float) -> str:
        """The transfer that is done at this time, which is `next_s`."""
        self._advance(now_s)
        return heapq.heappop(self._ends)[1]

    def _advance(self, now_s: float) -> None:
        if self._ends:
            self._served += (now_s - self._at_s) * self.bits_per_s / len(self._ends)
        self._at_s = now_s


@dataclass
class Run:
    """A rollout that was simulated."""

    world: World
    policy: Policy
    schedule: Schedule
    events: list[Event]
    online: list[str]  # sites that were there when it began
    final_s: dict[str, float] = field(default_factory=dict)  # site -> when its attempt that counts ended

    def minutes(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """From the start of the rollout to the end of the attempt, of each online site that was attempted; ascending."""
        return np.sort([self.final_s[s] / 60 for s in self.online if s in self.final_s])


def simulate(world: World, policy: Policy, *, abort_at_s: float = math.inf) -> Run:
    """Roll out to the whole world until every site has its final state."""
    return _Simulation(world, policy, abort_at_s).run()


class _Simulation:
    def __init__(self, world: World, policy: Policy, abort_at_s: float) -> None:
        random, names = np.random.default_rng(world.seed), world.names
        away = np.minimum(random.exponential(world.away_s_mean, world.sites), world.away_s_max)
        self.back_s = dict(zip(names, np.where(random.random(world.sites) < world.offline, away, 0.0), strict=True))
        self.fails = dict(zip(names, random.random(world.sites) < world.failing, strict=True))
        swap_s = random.lognormal(math.log(world.swap_s_median), world.swap_s_sigma, world.sites)
        self.swap_s = dict(zip(names, swap_s, strict=True))
        self.connect_s = dict(zip(names, random.uniform(*world.connect_s, world.sites), strict=True))
        fetch_s = world.site_bytes * 8 / world.pull_bits_per_s
        waits_s = random.uniform(0, world.poll_s, world.sites) + fetch_s + random.uniform(0, world.look_s, world.sites)
        pulls = np.diff(np.floor(np.arange(world.sites + 1) * world.pulling)) > 0
        self.pull_s = {name: s for name, s, pull in zip(names, waits_s, pulls, strict=True) if pull}
        self.world, self.link, self.now_s = world, Link(world.uplink_bits_per_s), 0.0
        self.timers: list[tuple[float, Step, str]] = [(abort_at_s, "abort", "")] if abort_at_s < math.inf else []
        online = [name for name in names if self.back_s[name] == 0.0]
        self.of = Run(world, policy, Schedule(policy, names, [Tick(0.0)]), [], online)

    def run(self) -> Run:
        while not isinstance(decision := self.of.schedule.decide(), Complete):
            if isinstance(decision, Start):
                self._start(decision.site)
            else:
                self._wait(decision)
        return self.of

    def _apply(self, event: Event) -> None:
        self.of.schedule.apply(event)
        self.of.events.append(event)

    def _start(self, site: str) -> None:
        self._apply(Started(self.now_s, site))
        if self.back_s[site] > self.now_s:
            known_s = self.connect_s[site] if site in self.pull_s else self.world.connect_timeout_s
            self._after(known_s, "give up", site)
        elif site in self.pull_s:
            self._after(self.pull_s[site] + self.swap_s[site], "swap", site)
        else:
            self._after(self.connect_s[site], "connect", site)

    def _after(self, seconds: float, step: Step, site: str) -> None:
        heapq.heappush(self.timers, (self.now_s + seconds, step, site))

    def _wait(self, decision: Wait) -> None:
        """Until the next thing happens."""
        timer_s, link_s = self.timers[0][0] if self.timers else math.inf, self.link.next_s()
        self.now_s = min(timer_s, link_s, decision.until_s)
        if self.now_s == link_s:
            site = self.link.pop(self.now_s)
            self._after(self.swap_s[site], "swap", site)
        elif self.now_s == timer_s:
            self._step(*heapq.heappop(self.timers)[1:])
        else:
            self._apply(Tick(self.now_s))

    def _step(self, step: Step, site: str) -> None:
        match step:
            case "connect":
                self.link.add(site, self.world.site_bytes * 8, self.now_s)
            case "give up":
                self._apply(Finished(self.now_s, site, Outcome("offline", "no answer")))
            case "swap":
                kind: Literal["failed", "done"] = "failed" if self.fails[site] else "done"
                self.of.final_s[site] = self.now_s
                self._apply(Finished(self.now_s, site, Outcome(kind, bytes_shipped=self.world.site_bytes)))
            case "abort":
                self._apply(Aborted(self.now_s))


def violations(policy: Policy, sites: Sequence[str], events: Sequence[Event]) -> list[str]:
    """What should never be seen in the events of a rollout that has come to its end; none if all is well.

    Counts by itself, so that it does not share the schedule's mistakes; where to stop is the schedule's word.
    """
    found: list[str] = []
    schedule, working, ended = Schedule(policy, sites), set[str](), dict[str, int]()
    for event in events:
        if isinstance(event, Started):
            found += [f"{event.site} was started twice at once"] if event.site in working else []
            found += [f"{event.site} was started after its end"] if event.site in ended else []
            found += [f"{event.site} was started while {schedule.status}"] if schedule.status != "running" else []
            working.add(event.site)
            found += [f"{len(working)} were working at once"] if len(working) > policy.max_parallel else []
        if isinstance(event, Restarted):
            working.clear()
        if isinstance(event, Finished):
            working.discard(event.site)
            if event.outcome.kind != "offline":
                ended[event.site] = ended.get(event.site, 0) + 1
        schedule.apply(event)
    found += [f"{site} ended {n} times" for site, n in ended.items() if n > 1]
    found += [f"{site} is still {of.state}" for site, of in schedule.sites.items() if of.state in OPEN]
    return found
