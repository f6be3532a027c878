"""A fleet in virtual time: real rosters, real decisions, devices that take their time, and plans that arrive late or never."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from connectors.firmware.campaign import Campaign, Plan
from connectors.firmware.life import AT_RISK, SECOND_NS, Timeouts
from connectors.firmware.manifest import Image, Manifest
from connectors.firmware.protocol import Report, Said
from connectors.firmware.roster import Job, Roster, order_again, order_of
from connectors.firmware.status import SiteStatus
from containers.firmware.lead import advance, revert_of

IMAGE = Image("m/2/fw.bin", 1000, "0" * 64, Manifest(model="m", hardware=("A",), version="2", security_version=1))
BEFORE = Image("m/1/fw.bin", 1000, "1" * 64, Manifest(model="m", hardware=("A",), version="1", security_version=1))
IMAGES = {image.path: image for image in (IMAGE, BEFORE)}
TICK_S, LEAD_S = 20, 60


@dataclass
class Sim:
    """One device: what it does when it may, and how it ends."""

    name: str
    end: str = "good"  # good, bricks, rolls back
    offline: bool = False
    version: str = "1"
    boot: int = 1
    said: Said = Said.IDLE
    campaign: str = ""


@dataclass
class SimSite:
    """A site with its roster; it reads the plan some time after it was written, or never."""

    name: str
    devices: dict[str, Sim]
    delay_s: float
    roster: Roster = field(init=False)
    plan: Plan = field(default_factory=lambda: Plan(counter=0))
    changed: bool = True

    def __post_init__(self) -> None:
        self.roster = Roster(self.name)

    def jobs(self) -> dict[str, Job]:
        """As the desk makes them."""
        return {m: Job(c, IMAGES[c.path], ready=True) for m, c in self.plan.newest().items()}

    def status(self) -> SiteStatus:
        """What is on record."""
        standings = {j.campaign.id: self.roster.standing(j) for j in self.jobs().values()}
        return SiteStatus(counter=self.plan.counter, campaigns=standings)


class Fleet:
    """`bad`: share of bad hardware; a site in `deaf` never hears of a plan again after the first."""

    def __init__(self, sites: int, devices: int, seed: int, bad: float = 0.0, offline: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.sites: dict[str, SimSite] = {}
        for s in range(sites):
            made = {f"s{s}d{d}": self._device(f"s{s}d{d}", bad, offline) for d in range(devices)}
            self.sites[f"s{s}"] = SimSite(f"s{s}", made, self.random.uniform(0, 600))
        self.now_s, self.counter = 0, 0
        self.plan = Plan(counter=0)
        self.deaf: set[str] = set()
        self.bricked: set[str] = set()
        self.most_at_risk = 0  # or bricked, at the same time
        self._risked: dict[str, int] = {}
        self.settled_s: float | None = None
        self.notes: list[str] = []
        self._due: list[tuple[float, int, str, Report]] = []
        self._plans: list[tuple[float, int, str, Plan]] = []
        self._n = 0
        for site in self.sites.values():
            for d in site.devices.values():
                self._say(site, d, Said.IDLE if not d.offline else Said.OFFLINE, 0)

    @property
    def size(self) -> int:
        """Devices."""
        return sum(len(s.devices) for s in self.sites.values())

    def _device(self, name: str, bad: float, offline: float) -> Sim:
        end = self.random.choice(["bricks", "rolls back"]) if self.random.random() < bad else "good"
        return Sim(name, end, offline=self.random.random() < offline)

    def _say(self, site: SimSite, d: Sim, said: Said, after_s: float) -> None:
        self._n += 1
        report = Report(
            device=d.name, model="m", hardware="A", version=d.version, security_version=1, state=said, boot=d.boot,
            campaign=d.campaign,
        )  # fmt: skip
        heapq.heappush(self._due, (self.now_s + after_s, self._n, site.name, report))

    def publish(self, *campaigns: Campaign) -> None:
        """A new plan, which each site hears of in its time."""
        self.counter += 1
        new = {c.id: c for c in (*self.plan.campaigns, *campaigns)}
        self.plan = Plan(counter=self.counter, campaigns=tuple(new.values()))
        for site in self.sites.values():
            if site.name not in self.deaf:
                self._n += 1
                heapq.heappush(self._plans, (self.now_s + site.delay_s, self._n, site.name, self.plan))

    def start(self, **changes: object) -> None:
        """Begin a campaign for all."""
        self.run_for(TICK_S * 2)
        fields = {"canary": tuple(list(self.sites)[:5]), "quotas": dict.fromkeys(self.sites, 0)} | changes
        blank = Campaign(id="c", model="m", path=IMAGE.path, version="2", begun_s=0, timeouts=SHORT, **fields)  # type: ignore[arg-type]
        self.publish(blank)
        self.settled_s = None

    def run_for(self, seconds: float, lead: bool = False) -> bool:
        """Let time pass; with `lead` the operator's command runs. Whether the campaign is over."""
        end = self.now_s + seconds
        while self.now_s < end:
            self.now_s += TICK_S
            self._hear()
            self._step()
            if lead and self.now_s % LEAD_S == 0 and self._lead():
                return True
        return False

    def _hear(self) -> None:
        while self._plans and self._plans[0][0] <= self.now_s:
            _, _, name, plan = heapq.heappop(self._plans)
            if plan.counter > self.sites[name].plan.counter:
                self.sites[name].plan, self.sites[name].changed = plan, True
        while self._due and self._due[0][0] <= self.now_s:
            _, _, name, report = heapq.heappop(self._due)
            site = self.sites[name]
            entry = site.roster.hear(report, site.jobs(), self.now_s * SECOND_NS)
            site.changed = True
            if entry:
                site.roster.record(entry)
            elif again := order_again(site.roster.entries[report.device], report):
                self._order(site, site.devices[report.device], again)

    def _step(self) -> None:
        for site in self.sites.values():
            if site.changed or self.now_s % 300 == 0:
                site.changed = False
                for after in site.roster.step(site.jobs(), self.now_s * SECOND_NS, window=True):
                    before = site.roster.entries[after.device]
                    site.roster.record(after)
                    site.changed = True
                    if do := order_of(before, after):
                        self._order(site, site.devices[after.device], do)
                self._risked[site.name] = sum(
                    e.state in AT_RISK or e.device in self.bricked for e in site.roster.entries.values()
                )
        self.most_at_risk = max(self.most_at_risk, sum(self._risked.values()))

    def _order(self, site: SimSite, d: Sim, do: str) -> None:
        r, job = self.random, site.jobs()["m"]
        if d.name in self.bricked:
            return
        if do == "download":
            d.campaign = job.campaign.id
            self._say(site, d, Said.DOWNLOADING, r.uniform(1, 30))
            self._say(site, d, Said.VERIFIED, r.uniform(60, 300))
        elif do == "install":
            self._say(site, d, Said.REBOOTING, 60)
            if d.end == "bricks":
                self.bricked.add(d.name)
                return
            d.boot += 1
            if d.end == "good":
                d.version = job.image.manifest.version
                self._say(site, d, Said.CONFIRMING, 120)
            self._say(site, d, Said.COMMITTED if d.end == "good" else Said.ROLLED_BACK, r.uniform(150, 400))

    def _lead(self) -> bool:
        campaign = self.plan.newest()["m"]
        statuses = {s.name: s.status() for s in self.sites.values()}
        step = advance(campaign, self.counter, statuses, self.now_s, self.settled_s, self.deaf)
        self.settled_s = step.settled_s
        if step.note:
            self.notes.append(f"{self.now_s} s: {step.note}")
        if step.campaign and step.campaign.state == "paused" and campaign.revert_to:
            self.publish(*revert_of(step.campaign, [c.id for c in self.plan.campaigns], self.now_s))
            self.settled_s = None
            return False
        if step.campaign:
            self.publish(step.campaign)
        return step.done or bool(step.campaign and step.campaign.state != "running")

    def versions(self) -> Counter[str]:
        """Devices by what they run."""
        return Counter(d.version for s in self.sites.values() for d in s.devices.values())

    def counts(self) -> Counter[str]:
        """Devices by state."""
        return Counter(e.state.value for s in self.sites.values() for e in s.roster.entries.values())


SHORT = Timeouts(answer_s=600, download_s=1200, install_s=900, reboot_s=900, confirm_s=900)
