"""The devices of a site and what is to be done with them next. Pure: reports and time in, entries and orders out.

Every entry is put on record before anything that follows from it is done. A device may install only when

    lost devices + devices at risk < quota of the site,

so what may break, were everything that is under way to break, is never more than the quota. What is under way of a campaign
before has as long as the campaign that is in force gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from connectors.firmware.campaign import Campaign
from connectors.firmware.life import AT_RISK, BEFORE_RISK, ENDED, LOST, OPEN, READY, Entry, Event, State
from connectors.firmware.manifest import Device, Image, refusal
from connectors.firmware.protocol import EVENTS, Report, Said
from pipelines.errors import LimitExceeded

DEVICES_MAX = 20_000  # of a site
DOWNLOADS_MAX = 32  # at the same time
_IDENTITY = tuple(f.name for f in msgspec.structs.fields(Device))


@dataclass(frozen=True)
class Job:
    """A campaign that counts here, and its image."""

    campaign: Campaign
    image: Image
    ready: bool  # the image is here, whole and verified

    @property
    def running(self) -> bool:
        """Whether devices may go on."""
        return self.campaign.state == "running"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a campaign stands at a site."""

    devices: int = 0  # that it may ever take in: the model, the hardware, another version, or the one that it replaces
    counts: dict[str, int] = {}  # of those that it has taken in, by state
    offered: int = 0
    busy: int = 0  # online and not at their end, or at risk
    lost: int = 0
    at_risk: int = 0  # in campaigns before it, too
    quota: int = 0

    @property
    def halted(self) -> bool:
        """Whether so many are lost that no other device may follow."""
        return self.lost > 0 and self.lost >= self.quota


class Roster:
    """Entries by device. Every method but `record` only says what should become of them."""

    def __init__(self, site: str, entries: Iterable[Entry] = ()) -> None:
        self._site = site
        self.entries = {e.device: e for e in entries}
        self.online: set[str] = set()

    def record(self, entry: Entry) -> None:
        """Take note of an entry that Kafka has acknowledged."""
        self.entries[entry.device] = entry

    def hear(self, report: Report, jobs: Mapping[str, Job], now_ns: int) -> Entry | None:
        """The entry after a device's report; None if that says nothing new. `LimitExceeded` if there are too many devices."""
        (self.online.discard if report.state is Said.OFFLINE else self.online.add)(report.device)
        identity = {name: getattr(report, name) for name in _IDENTITY}
        old = self.entries.get(report.device)
        if old is None:
            if len(self.entries) >= DEVICES_MAX:
                raise LimitExceeded(f"device {report.device} is not taken in: {DEVICES_MAX} are known (DEVICES_MAX)")
            return Entry(**identity, boot=report.boot, since_ns=now_ns)
        if report.boot < old.boot or report.state is Said.OFFLINE:
            return None  # from an earlier life of the device: MQTT may deliver again
        entry = msgspec.structs.replace(old, **identity)
        if report.campaign == entry.campaign and report.state in EVENTS:
            job = jobs.get(entry.model)
            entry = _heard(entry, report, job if job and job.campaign.id == entry.campaign else None, now_ns)
        if report.boot > entry.boot and not entry.granted:
            entry = msgspec.structs.replace(entry, boot=report.boot)
        return entry if entry != old else None

    def step(self, jobs: Mapping[str, Job], now_ns: int, *, window: bool) -> list[Entry]:
        """What time, the plan and the quotas do now. `jobs` by model; `window`: a maintenance window is open."""
        changed: dict[str, Entry] = {}
        for device, entry in self.entries.items():
            after = self._timed(entry, jobs, now_ns) or self._placed(entry, jobs, now_ns)
            if after:
                changed[device] = after
        now = {**self.entries, **changed}.values()
        lost = Counter(e.campaign for e in now if e.state in LOST)
        at_risk = Counter(e.model for e in now if e.state in AT_RISK)
        for job in jobs.values():
            c = job.campaign
            mine = [e for e in now if e.campaign == c.id and e.state in OPEN]
            for entry in self._moved(job, mine, lost[c.id], lost[c.id] + at_risk[c.model], now_ns, window=window):
                changed[entry.device] = entry
        return list(changed.values())

    def _timed(self, entry: Entry, jobs: Mapping[str, Job], now_ns: int) -> Entry | None:
        if entry.state is State.ASSIGNED and entry.offered_ns and entry.device not in self.online:
            return msgspec.structs.replace(entry, offered_ns=0)  # it has gone: it is asked again when it is back
        job = jobs.get(entry.model)
        counts = job and (entry.campaign == job.campaign.id or entry.state in AT_RISK)  # also of the campaign before
        if not job or not counts or not entry.overdue(job.campaign.timeouts, now_ns):
            return None
        silent = "it never answered" if entry.state is State.ASSIGNED else f"nothing new since {entry.state}"
        return entry.after(Event.TIME_OUT, now_ns, silent)

    def _placed(self, entry: Entry, jobs: Mapping[str, Job], now_ns: int) -> Entry | None:
        """Out of a campaign that counts no more, or into the one that does."""
        job = jobs.get(entry.model)
        if entry.state in BEFORE_RISK and not (
            job and job.campaign.id == entry.campaign and job.campaign.state != "aborted"
        ):
            return entry.after(Event.RELEASE, now_ns)
        if job is None or not job.running or (entry.campaign == job.campaign.id and entry.state is not State.IDLE):
            return None
        wanted = _eligible(entry, job) and job.campaign.includes(self._site, entry.device)
        return entry.assigned(job.campaign.id, now_ns) if wanted else None

    def _moved(
        self, job: Job, mine: list[Entry], lost: int, risk: int, now_ns: int, *, window: bool
    ) -> Iterator[Entry]:
        """Grants and offers. `risk`: lost, or at risk in this campaign or one before it."""
        quota, may_go = job.campaign.quotas.get(self._site, 0), job.running and job.ready
        loading = sum(e.state is State.DOWNLOADING or bool(e.offered_ns and e.state is State.ASSIGNED) for e in mine)
        free = max(0, DOWNLOADS_MAX - loading)
        for entry in sorted(mine, key=lambda e: e.since_ns):
            here = may_go and entry.device in self.online
            if entry.state in READY and here and risk < quota and (window or job.campaign.emergency):
                risk += 1
                yield _sure(entry.after(Event.GRANT, now_ns))
            elif entry.state is State.VERIFIED:
                yield _sure(entry.after(Event.WAIT, now_ns))
            elif entry.state is State.ASSIGNED and not entry.offered_ns and here and free and lost < quota:
                free -= 1
                yield msgspec.structs.replace(entry, offered_ns=now_ns, since_ns=now_ns)

    def standing(self, job: Job) -> Standing:
        """How a campaign stands here."""
        c = job.campaign
        mine = [e for e in self.entries.values() if e.campaign == c.id and e.state is not State.IDLE]
        others = [
            e for e in self.entries.values() if (e.campaign != c.id or e.state is State.IDLE) and _eligible(e, job)
        ]
        at_risk = sum(e.state in AT_RISK and e.model == c.model for e in self.entries.values())
        to_come = sum(
            e.device in self.online and e.state not in AT_RISK and c.includes(self._site, e.device) for e in others
        )
        return Standing(
            devices=len(mine) + len(others),
            counts=dict(sorted(Counter(e.state.value for e in mine).items())),
            offered=sum(bool(e.offered_ns) or e.state is not State.ASSIGNED for e in mine),
            busy=to_come + at_risk + sum(e.state in BEFORE_RISK and e.device in self.online for e in mine),
            lost=sum(e.state in LOST for e in mine),
            at_risk=at_risk,
            quota=c.quotas.get(self._site, 0),
        )


def _eligible(entry: Entry, job: Job) -> bool:
    m = job.image.manifest
    return entry.version != m.version and job.campaign.replaces in ("", entry.version) and not refusal(m, entry)


def _heard(entry: Entry, report: Report, job: Job | None, now_ns: int) -> Entry:
    event, detail = EVENTS[report.state], report.detail
    if entry.granted and event in (Event.DOWNLOAD, Event.VERIFY) and report.boot <= entry.boot:
        return entry  # said before it heard that it may install: it may be doing that by now
    if event is Event.COMMIT and job and report.version != job.image.manifest.version:
        event, detail = Event.FAIL, f"it says COMMITTED and runs version {report.version}"
    after = entry.after(event, now_ns, detail)
    if after is None and entry.state is State.DOWNLOADING and report.offset > entry.offset:
        after = msgspec.structs.replace(entry, since_ns=now_ns)
    if after and after.state is State.DOWNLOADING:
        after = msgspec.structs.replace(after, offset=report.offset)
    return after or entry


def _sure(entry: Entry | None) -> Entry:
    assert entry is not None
    return entry


def order_of(before: Entry | None, after: Entry) -> str:
    """What a device must be told once `after` is on record: an `Order.do`, or nothing."""
    was = before.state if before else State.IDLE
    told = before and before.offered_ns and (was, before.campaign) == (State.ASSIGNED, after.campaign)
    if after.state is State.ASSIGNED and after.offered_ns and not told:
        return "download"
    if after.state is State.INSTALLING and was is not State.INSTALLING:
        return "install"
    return "cancel" if was in BEFORE_RISK and after.state in (State.IDLE, State.STALLED) else ""


def order_again(entry: Entry, report: Report) -> str:
    """What to tell a device anew that says less than what is on record: it did not hear the order, or has forgotten it."""
    ended = (Said.COMMITTED, Said.ROLLED_BACK, Said.FAILED)
    if report.state is Said.IDLE or (report.state in ended and report.campaign != entry.campaign):
        return "download" if entry.offered_ns and entry.state in (State.ASSIGNED, State.DOWNLOADING) else ""
    if report.state not in (Said.DOWNLOADING, Said.VERIFIED):
        return ""
    if entry.campaign != report.campaign or entry.state in (State.IDLE, *ENDED):
        return "cancel"
    unheard = entry.state is State.INSTALLING and report.state is Said.VERIFIED and report.boot == entry.boot
    return "install" if unheard else ""
