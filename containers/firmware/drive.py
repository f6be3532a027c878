"""Leads a campaign: reads how its sites stand, decides, signs what follows, and says so to the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from connectors.firmware.campaign import Campaign, Plan
from connectors.firmware.life import Entry
from connectors.firmware.status import SiteStatus
from containers.firmware import reach
from containers.firmware.lead import advance
from containers.firmware.shelf import Shelf
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError

POLL_S = 10.0
PAUSED = 3
Report = Callable[[str], None]


def campaign_of(plan: Plan, name: str | None) -> Campaign:
    """The campaign with this id, or the newest; `ConfigError` if there is none."""
    found = [c for c in plan.campaigns if c.id == name] if name else list(plan.campaigns)
    if not found:
        known = ", ".join(c.id for c in plan.campaigns) or "there was none yet"
        raise ConfigError(f"no such campaign ({known}): begin one with  pipeline firmware campaign start")
    return max(found, key=lambda c: (c.begun_s, c.id))


def put(shelf: Shelf, campaign: Campaign, sites: Sequence[SiteFile]) -> dict[str, str]:
    """Sign a campaign as it should be from now on; why some sites did not hear that there is news."""
    others = [c for c in shelf.plan().campaigns if c.id != campaign.id]
    plan = shelf.change_plan(lambda _: (*others, campaign))
    return reach.hint(sites, plan.counter)


@dataclass
class Leader:
    """One campaign. `pause` waits for so many seconds."""

    shelf: Shelf
    campaign: str
    sites: Sequence[SiteFile]
    clock: Clock
    report: Report
    pause: Callable[[float], object]
    known: dict[str, SiteStatus] = field(default_factory=dict)
    devices: dict[str, list[Entry]] = field(default_factory=dict)
    settled_s: float | None = None
    away: dict[str, str] = field(default_factory=dict)  # sites that do not answer, and why

    def run(self) -> int:
        """Until it is over or paused; the exit code."""
        while (code := self.turn()) is None:
            self.pause(POLL_S)
        return code

    def turn(self) -> int | None:
        """Look and decide once; the exit code if it is over."""
        before = set(self.away)
        self.look()
        for site in sorted(set(self.away) - before):
            self.report(f"{site} does not answer, and is not waited for: {self.away[site]}")
        plan = self.shelf.plan()
        campaign = campaign_of(plan, self.campaign)
        step = advance(campaign, plan.counter, self.known, self.clock.now_ns() / 1e9, self.settled_s, set(self.away))
        self.settled_s = step.settled_s
        if step.note:
            self.report(f"{self.campaign}: {step.note}")
        if step.campaign:
            put(self.shelf, step.campaign, self.sites)
        state = (step.campaign or campaign).state
        return 0 if step.done else None if state == "running" else PAUSED

    def look(self) -> None:
        """Read how all sites stand."""
        found, self.away = reach.statuses(self.sites)
        for site, (status, entries) in found.items():
            self.devices[site] = entries
            if status:
                self.known[site] = status
