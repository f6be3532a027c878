"""Leads a campaign: reads how its sites stand, decides, signs what follows, and says so to the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from connectors.firmware.campaign import Campaign, Plan, back_to
from connectors.firmware.life import Entry
from connectors.firmware.status import SiteStatus
from containers.firmware import reach
from containers.firmware.lead import advance, revert_of
from containers.firmware.shelf import Shelf
from containers.site import SiteFile
from pipelines.clock import Clock
from pipelines.errors import ConfigError

POLL_S = 10.0
HALTED = 3  # it paused or was reverted by itself
Report = Callable[[str], None]


def campaign_of(plan: Plan, name: str | None) -> Campaign:
    """The campaign with this id, or the newest; `ConfigError` if there is none."""
    found = [c for c in plan.campaigns if c.id == name] if name else list(plan.campaigns)
    if not found:
        known = ", ".join(c.id for c in plan.campaigns) or "there was none yet"
        raise ConfigError(f"no such campaign ({known}): begin one with  pipeline firmware campaign start")
    return max(found, key=lambda c: (c.begun_s, c.id))


def put(shelf: Shelf, sites: Sequence[SiteFile], *campaigns: Campaign) -> dict[str, str]:
    """Sign campaigns as they should be from now on; why some sites did not hear that there is news."""
    new = {c.id: c for c in campaigns}
    plan = shelf.change_plan(lambda old: ({c.id: c for c in old} | new).values())
    return reach.hint(sites, plan.counter)


def no_way_back(shelf: Shelf, campaign: Campaign) -> str:
    """Why a campaign cannot be reverted; empty if it can, as far as what is signed tells."""
    old, new = (shelf.manifest(campaign.model, path) for path in (campaign.revert_to, campaign.path))
    version = back_to(campaign)
    if old is None:
        return f"{version} is not in the repository any more: publish what it holds under a new version, for a new campaign"
    held, must = old.security_version, new.security_version if new else 0
    if held < must:
        return (
            f"{version} has security version {held}, and devices with {campaign.version} refuse less than {must}: publish what "
            f"it holds under a new version with security version {must}"
        )
    return ""


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
        """Until it, or the one that reverts it, is over or paused; the exit code."""
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
            if step.campaign.state == "paused" and campaign.revert_to:
                return self._revert(step.campaign)
            put(self.shelf, self.sites, step.campaign)
        state = (step.campaign or campaign).state
        if step.done:
            return HALTED if campaign.replaces else 0
        return None if state == "running" else HALTED

    def _revert(self, halted: Campaign) -> int | None:
        """Begin to lead the campaign that brings the version before back; the exit code if there is no way back."""
        if why := no_way_back(self.shelf, halted):
            self.report(f"{halted.id}: not reverted: {why}")
            put(self.shelf, self.sites, replace(halted, reason=f"{halted.reason}; not reverted: {why}"))
            return HALTED
        ids = [c.id for c in self.shelf.plan().campaigns]
        given_up, back = revert_of(halted, ids, self.clock.now_ns() / 1e9)
        put(self.shelf, self.sites, given_up, back)
        self.report(f"{back.id}: devices with {back.replaces} are brought back to {back.version}")
        self.campaign, self.settled_s = back.id, None
        return None

    def look(self) -> None:
        """Read how all sites stand."""
        found, self.away = reach.statuses(self.sites)
        for site, (status, entries) in found.items():
            self.devices[site] = entries
            if status:
                self.known[site] = status
