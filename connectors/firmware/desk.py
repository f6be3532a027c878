"""Where reports, the plan and time meet the roster: each permission is on record in Kafka before a device hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from connectors.firmware import SERVICE, audit
from connectors.firmware.campaign import PLAN_ROLE
from connectors.firmware.delivery import Store, chunks
from connectors.firmware.life import ENDED, Entry, State
from connectors.firmware.mirror import Signed
from connectors.firmware.protocol import CHUNK_BYTES_MAX, Order, Report, Said, decode_report, topic
from connectors.firmware.roster import Job, Roster, Standing, order_again, order_of
from connectors.firmware.status import REFUSED_CHARS_MAX, SITE_KEY, Known, SiteStatus, device_key
from connectors.firmware.windows import Window, is_open
from connectors.link import Link
from pipelines import metrics
from pipelines.clock import Clock
from pipelines.errors import BadData, LimitExceeded, NotConnected
from pipelines.runtime.account import Account, Line
from pipelines.runtime.serve import Health

log = logging.getLogger(SERVICE)
LOOK_S = 0.2
PROGRESS_S = 2.0  # so often the bytes that devices have are put on record
AGAIN_S = 5.0  # a device that asks for the same again sooner is not answered: the answer may still be under way
TOUCH_S = 10.0  # so often at least Kafka is asked whether the right to write is still ours


class Desk:
    """The owner of the roster."""

    def __init__(
        self, site: str, status: SiteStatus | None, entries: Iterable[Entry], account: Account, link: Link, store: Store,
        url: str, windows: tuple[Window, ...], clock: Clock, health: Health,
    ) -> None:  # fmt: skip
        self._site, self._account, self._link, self._store, self._url = site, account, link, store, url.rstrip("/")
        self._windows, self._clock, self._health = windows, clock, health
        self._roster = Roster(site, entries)
        self._signed: Signed | None = None
        self._jobs: dict[str, Job] = {}
        self._here: dict[str, Path] = {}  # images by sha256
        self._answered: dict[str, tuple[str, float]] = {}  # by device: what it asked for last, and when it got it
        self._dirty: set[str] = set()  # devices whose entries are not on record as they are
        self._later: set[str] = set()  # the same, where it is only that some more bytes have come
        self._later_s = 0.0
        self._status = status or SiteStatus(counter=0)
        self._refused = self._status.refused
        self._audit: list[audit.Record] = []  # what must be on record together with the entries that are dirty
        self._least = 0  # a plan with this counter was said to exist

    def plan(self, signed: Signed, here: dict[str, Path]) -> None:
        """From now on this is what is signed, and these images are here, whole and verified."""
        self._signed, self._here = signed, here
        self._store.offer(here)

    def hint(self, counter: int) -> None:
        """A plan with this counter is said to exist: nothing new is begun until it is here."""
        self._least = counter

    def refuse(self, why: str) -> None:
        """What the mirror has is not believed, or is again if there is no reason."""
        self._refused = why[:REFUSED_CHARS_MAX]

    async def hear(self, at: str, payload: bytes) -> None:
        """Take in what a device says, and give it the chunks that it asks for."""
        if not payload:  # somebody took a retained report away
            return
        try:
            report = decode_report(at, payload)
            entry = self._roster.hear(report, self._jobs, self._clock.now_ns())
        except (BadData, LimitExceeded) as e:
            reason = e.reason if isinstance(e, BadData) else "limit"
            metrics.errors.labels(self._site, SERVICE, reason).inc()
            log.warning("MQTT topic %s: %s", at, e)
            return
        if entry:
            self._note(entry, entry.device)
        known = self._roster.entries.get(report.device)
        if known is None or report.state is Said.OFFLINE:
            return
        if entry is None and (again := order_again(known, report)):
            if self._due(report.device, again):
                await self._tell(known, again)
        elif report.want and known.campaign == report.campaign and known.state is State.DOWNLOADING:
            await self._give(known, report)

    def _note(self, entry: Entry, who: str) -> None:
        before = self._roster.entries.get(entry.device)
        if record := audit.of_device(before, entry, who, self._clock.now_ns()):
            self._audit.append(record)
        self._roster.record(entry)
        moved = before is None or before.state is not entry.state
        (self._dirty if moved or entry.state is not State.DOWNLOADING else self._later).add(entry.device)
        if moved:
            log.info("%s %s %s %s", entry.device, entry.campaign or "-", entry.state, entry.detail)
            if entry.state in ENDED:
                metrics.firmware_ends.labels(self._site, entry.model, entry.state.value).inc()

    async def run(self, stop: asyncio.Event) -> None:
        """Offer, grant and give up until told to stop. `Unavailable` if Kafka is lost, or another took over."""
        touched_s = 0.0
        while not stop.is_set():
            moved = self._moved()
            lines = [*self._lines(), *self._site_line()]
            beside, self._audit = [record.line(self._site) for record in self._audit], []
            if lines or beside or self._clock.monotonic_s() - touched_s > TOUCH_S:
                await (self._account.write(lines, beside) if lines or beside else self._account.touch())
                touched_s = self._clock.monotonic_s()
                self._health.set(connected=True)
            for before, after in moved:
                if do := order_of(before, after):
                    await self._tell(after, do)
            await _wait(stop, LOOK_S)

    def _moved(self) -> list[tuple[Entry | None, Entry]]:
        if self._signed is None:
            return []
        now_ns = self._clock.now_ns()
        self._jobs = _jobs(self._signed, self._here, held=bool(self._held(now_ns)))
        changes = self._roster.step(self._jobs, now_ns, window=is_open(self._windows, now_ns / 1e9))
        moved = [(self._roster.entries.get(e.device), e) for e in changes]
        for entry in changes:
            self._note(entry, SERVICE)
        return moved

    def _held(self, now_ns: int) -> str:
        """Why nothing new may begin."""
        if self._signed is None:
            return "nothing signed is known yet"
        if now_ns >= self._signed.expires_ns:
            return "what is signed has expired: run  pipeline firmware refresh  and bring the repository to the mirror"
        if self._signed.plan.counter < self._least:
            return f"plan {self._least} is said to exist, and the mirror has {self._signed.plan.counter}"
        return ""

    def _lines(self) -> list[Line]:
        if self._clock.monotonic_s() - self._later_s > PROGRESS_S:
            self._dirty |= self._later
            self._later.clear()
            self._later_s = self._clock.monotonic_s()
        lines: list[Line] = [(0, device_key(d), msgspec.json.encode(self._roster.entries[d])) for d in self._dirty]
        self._dirty.clear()
        return lines

    def _site_line(self) -> Sequence[Line]:
        now_ns, signed = self._clock.now_ns(), self._signed
        status = replace(self._status, refused=self._refused)
        if signed:
            standings = {job.campaign.id: self._roster.standing(job) for job in self._jobs.values()}
            known = {
                c.id: Known(c.state, c.stage, c.version, c.reason)
                for c in signed.plan.campaigns
                if self._site in c.quotas
            }
            held = self._held(now_ns)
            status = replace(status, counter=signed.plan.counter, held=held, campaigns=standings, known=known)
        self._measure(status.campaigns)
        if status == self._status:
            return []
        told = audit.of_plan(self._status, status, signed.signers if signed else "", now_ns)
        does = audit.of_site(self._status, status, now_ns)
        self._audit = [*told, *self._audit, *does]  # devices move because of the plan, and a site stops because of them
        self._status = status
        return [(0, SITE_KEY, msgspec.json.encode(status))]

    def _measure(self, standings: dict[str, Standing]) -> None:
        found = Counter(e.state for e in self._roster.entries.values())
        for state in State:
            metrics.firmware_devices.labels(self._site, state.value).set(found[state])
        for model, job in self._jobs.items():
            metrics.firmware_stage.labels(self._site, model).set(job.campaign.stage)
            metrics.firmware_quota.labels(self._site, model).set(standings[job.campaign.id].quota)
            metrics.firmware_lost.labels(self._site, model).set(standings[job.campaign.id].lost)

    async def _tell(self, entry: Entry, do: str) -> None:
        job = self._jobs.get(entry.model)
        counts = job is not None and job.campaign.id == entry.campaign and job.running and job.ready
        if do == "cancel" or job is None:
            order = Order(do="cancel", campaign=entry.campaign)
        elif not counts:
            return  # it says so again, and is told when it may
        elif do == "install":
            order = Order(do=do, campaign=entry.campaign, boot=entry.boot, sha256=job.image.sha256)
        else:
            order = self._offer(entry, job)
        await self._publish(topic(entry.device, "order"), order.encode(), 1)

    def _offer(self, entry: Entry, job: Job) -> Order:
        assert self._signed is not None
        image = job.image
        return Order(
            do="download", campaign=entry.campaign, path=image.path, length=image.length, sha256=image.sha256,
            chunk_bytes=CHUNK_BYTES_MAX, url=f"{self._url}/{entry.device}/{image.sha256}" if self._url else "",
            token=self._store.token(entry.device, image.sha256) if self._url else "",
            roots=self._signed.roots_after(entry.root), metadata=self._signed.metadata[image.manifest.model],
        )  # fmt: skip

    def _due(self, device: str, asked: str) -> bool:
        """Whether a device is to be answered, or was just now."""
        before, at_s = self._answered.get(device, ("", 0.0))
        now_s = self._clock.monotonic_s()
        if before == asked and now_s - at_s < AGAIN_S:
            return False
        self._answered[device] = (asked, now_s)
        return True

    async def _give(self, entry: Entry, report: Report) -> None:
        job = self._jobs.get(entry.model)
        if job is None or not job.running or job.campaign.id != entry.campaign:
            return
        place = self._here.get(job.image.sha256)
        if place is None or not self._due(report.device, str(report.offset)):
            return
        for chunk in chunks(place, job.image.sha256, report.offset, report.want):
            await self._publish(topic(report.device, "chunk"), chunk, 0)
            metrics.firmware_bytes.labels(self._site, "mqtt").inc(len(chunk))

    async def _publish(self, at: str, payload: bytes, qos: int) -> None:
        try:
            await self._link.publish(at, payload, qos)
        except NotConnected as e:
            log.info("%s: %s; the device asks again", at, e)

    async def connected(self) -> None:
        """The devices can be reached: what they said last comes again, for it is retained."""


def _jobs(signed: Signed, here: dict[str, Path], *, held: bool) -> dict[str, Job]:
    return {
        model: Job(campaign, image, ready=not held and image.sha256 in here)
        for model, campaign in signed.plan.newest().items()
        if (image := signed.images.get(campaign.id)) and model != PLAN_ROLE and image.manifest.model == model
    }


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
