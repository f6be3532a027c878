"""Where twins meet the world: tells devices their settings, hears what they have, puts both on record as the ledger is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from connectors.control import DESIRED_LEVEL, REPORTED_LEVEL, DeviceTopic, audit
from connectors.control.account import Alone
from connectors.control.commands import Command
from connectors.control.devices import Devices, Profile
from connectors.control.reconciler import Reconciler
from connectors.control.switch import Switch
from connectors.control.telling import Telling
from connectors.control.twin import TWINS_MAX, Desired, Report, Reported, Twin, Twins, decode_report, for_device
from connectors.control.writers import Writer
from connectors.link import Link
from pipelines import metrics, topics
from pipelines.clock import Clock
from pipelines.errors import BadData, NotConnected
from pipelines.runtime.account import Beside, newest_as

log = logging.getLogger("control.twins")
LOOK_S = 0.25
HEARD_MAX, WAITING_MAX = 500, 10_000  # reports that are put on record together, and that wait for it
Side = Desired | Reported
_BLOCKED, _DELIVERED, _RENUMBERED = "BLOCKED", "DELIVERED", "RENUMBERED"  # in the audit, beside twin.State


def filters(devices: Devices | None) -> list[str]:
    """The MQTT subscriptions that hear what devices say of their settings."""
    return sorted({t.beside(REPORTED_LEVEL, "+") for t, _ in _topics(devices)})


def _topics(devices: Devices | None) -> list[tuple[DeviceTopic, Profile]]:
    profiles = devices.profiles.values() if devices else []
    return [(DeviceTopic.of(p.topic), p) for p in profiles if p.topic and p.settings]


class TwinDesk:
    """The owner of the twins. `devices` is None where there is no document: then there are none.

    `direct`: by way (`Profile.way`), what writes to devices that cannot tell their settings themselves. `seed`: of all waits.
    """

    def __init__(
        self,
        site: str,
        devices: Devices | None,
        sides: Sequence[Side],
        link: Link | None,
        direct: Mapping[str, Writer],
        switch: Switch,
        clock: Clock,
        seed: int | None = None,
    ) -> None:
        self._site, self._devices, self._link, self._switch, self._clock = site, devices, link, switch, clock
        self._twins = Twins(sides)
        self._direct = Reconciler(
            devices, direct, self._twins, switch, clock, self._written, self._allowed, self._take, seed
        )
        self._telling = Telling(self._twins, clock.monotonic_s(), seed, lambda device: not self._direct.owns(device))
        self._heard: list[tuple[str, Report]] = []
        self._audit: list[Beside] = []
        self._blocked: dict[str, int] = {}  # version of what the profile does not allow any more, by device
        self._news = asyncio.Event()
        self._names = [
            (re.compile(re.escape(t.beside(REPORTED_LEVEL, "\0")).replace(re.escape("\0"), "([^/]+)")), p)
            for t, p in _topics(devices)
        ]

    def unexpected(self, command: Command) -> str:
        """See `Twins.unexpected`."""
        return self._twins.unexpected(command)

    def set(self, command: Command, now_ns: int) -> Desired | None:
        """See `Twins.set`."""
        return self._twins.set(command, now_ns)

    def version(self, device: str) -> int:
        """Of what is desired."""
        return self._twins[device].version

    def record(self, *desired: Desired) -> None:
        """Take note of what is on record, and tell the device."""
        for side in desired:
            self._twins.record(side)
            self._changed(side.device)
        self._news.set()

    def _changed(self, device: str) -> None:
        if self._direct.owns(device):
            self._direct.changed(device)
        else:
            self._telling.changed(device, self._clock.monotonic_s())

    def yields(self, device: str) -> bool:
        """Whether a command may go to a device now; see `Reconciler.yields`."""
        return self._direct.yields(device)

    def owns(self, topic: str) -> bool:
        """Whether an MQTT topic is one on which devices say how their settings are."""
        return any(name.fullmatch(topic) for name, _ in self._names)

    def hear(self, topic: str, payload: bytes) -> None:
        """Take in what a device says of its settings."""
        try:
            device, profile = self._speaker(topic)
            self._take(device, decode_report(payload, profile.settings))
        except BadData as e:
            metrics.errors.labels(self._site, "control", e.reason).inc()
            log.warning("MQTT topic %s: %s", topic, e)

    def _take(self, device: str, report: Report) -> None:
        if len(self._heard) >= WAITING_MAX or self._twins.full(device):
            metrics.errors.labels(self._site, "control", "limit").inc()
            log.warning("%s: %d reports wait, or %d devices have a twin", device, WAITING_MAX, TWINS_MAX)
            return
        self._heard.append((device, report))
        self._news.set()

    def _speaker(self, topic: str) -> tuple[str, Profile]:
        for name, profile in self._names:
            found = name.fullmatch(topic)
            if found and self._devices and self._devices.profile_of(found[1]) is profile:
                return found[1], profile
        raise BadData("no profile with settings is for this device", reason="report")

    def connected(self) -> None:
        """The devices can be reached."""
        self._telling.connected(self._clock.monotonic_s())
        self._news.set()

    async def run(self, alone: Alone, in_flight: Callable[[str], bool], stop: asyncio.Event) -> None:
        """Tell and hear until told to stop. `alone` keeps others from the record meanwhile, `in_flight` says whether a device
        has a command; `Unavailable` if Kafka is lost.
        """
        async with self._direct.ending():
            while not stop.is_set():
                self._news.clear()
                await self._tell()
                await self._direct.begin(alone, in_flight)
                await self._keep(alone)
                metrics.twins_different.labels(self._site).set(len(self._twins.different))
                metrics.twin_difference.labels(self._site).set(self._twins.oldest_ns / 1e9)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
        await self._keep(alone)

    async def _tell(self) -> None:
        for desired in self._telling.due(self._clock.monotonic_s()):
            if self._switch.why_off() or self._link is None or not self._link.connected:
                return
            if desired is not self._twins[desired.device].desired:
                continue  # something newer came meanwhile
            if (at := self._address(desired)) is None:
                continue
            try:
                await self._link.publish(at, for_device(desired))
            except NotConnected as e:
                log.warning("%s: %s", desired.device, e)
                return
            if desired is self._twins[desired.device].desired and self._told(desired):
                self._note(desired, _DELIVERED)

    def _told(self, desired: Desired) -> bool:
        return self._telling.told(desired, self._clock.monotonic_s())

    def _address(self, desired: Desired) -> str | None:
        """Where a device hears; None if it is not told."""
        profile = self._devices.profile_of(desired.device) if self._devices else None
        if not self._allowed(desired) or profile is None or not profile.topic:
            self._told(desired)
            return None
        return DeviceTopic.of(profile.topic).beside(DESIRED_LEVEL, desired.device)

    def _allowed(self, desired: Desired) -> bool:
        """Whether its profile still allows what was desired once; an audit line if not."""
        profile = self._devices.profile_of(desired.device) if self._devices else None
        why = profile.settings_refusal(desired.values) if profile else "no profile is for this device any more"
        if why and self._blocked.get(desired.device) != desired.version:
            self._blocked[desired.device] = desired.version
            self._note(desired, _BLOCKED, f"it is not told any more: {why}: set it anew or unset it")
        return not why

    def _written(self, desired: Desired, values: audit.Values, detail: str) -> Beside:
        return self._line(Twin(desired), values, _DELIVERED, f"version {desired.version}, {detail}")

    async def _keep(self, alone: Alone) -> None:
        """Put on record what was heard and done."""
        while self._heard or self._audit:
            heard, self._heard = self._heard[:HEARD_MAX], self._heard[HEARD_MAX:]
            lines, self._audit = self._audit, []
            async with alone() as put:
                before = {device: self._twins[device] for device, _ in heard}
                changed = self._merged(heard)
                lines += [line for (_, device), side in changed.items() for line in self._lines(before[device], side)]
                if lines:
                    await put(lines)
                for side in changed.values():
                    self._twins.record(side)
                    if isinstance(side, Desired):
                        self._changed(side.device)
                for device in before:
                    self._telling.heard(device, self._clock.monotonic_s())

    def _merged(self, heard: Sequence[tuple[str, Report]]) -> dict[tuple[type[Side], str], Side]:
        """The newest sides after all reports, in the order in which they came."""
        now_ns = self._clock.now_ns()
        trial = Twins(side for device, _ in heard for side in _sides(self._twins[device]))
        changed: dict[tuple[type[Side], str], Side] = {}
        for device, report in heard:
            for side in trial.hear(device, report, now_ns):
                trial.record(side)
                changed[type(side), device] = side
        return changed

    def _lines(self, before: Twin, side: Side) -> list[Beside]:
        """The record of a new side, and its audit line."""
        after = before.having(side)
        if isinstance(side, Desired):
            detail = f"version {side.version}: the device has heard of a version {before.version} or newer before"
            return [line_of(self._site, side), self._line(after, side.values, _RENUMBERED, detail)]
        old = before.reported.values if before.reported else {}
        names = old.keys() | side.values.keys()
        changed = {n: side.values.get(n) for n in sorted(names) if old.get(n) != side.values.get(n)}
        who = "it was read after" if self._direct.owns(side.device) else "the device says that it has"
        detail = f"{who} version {side.applied}" + (f": {side.detail}" if side.detail else "")
        return [line_of(self._site, side), self._line(after, changed, after.state.value, detail)]

    def _note(self, desired: Desired, state: str, detail: str = "") -> None:
        """Say something in the log, and soon in the audit."""
        detail = detail or f"version {desired.version}"
        self._audit.append(self._line(Twin(desired), desired.values, state, detail))

    def _line(self, twin: Twin, values: audit.Values, state: str, detail: str) -> Beside:
        side = twin.desired or twin.reported
        assert side is not None
        log.info("%s: %s (%s)", side.device, state, detail)
        by, command = (twin.desired.by, twin.desired.command) if twin.desired else ("", "")
        return audit.twin(self._site, self._clock.now_ns(), side.device, by, command, values, state, detail)


def _sides(twin: Twin) -> list[Side]:
    return [side for side in (twin.desired, twin.reported) if side]


def line_of(site: str, side: Side) -> Beside:
    """How a side is on record."""
    topic = topics.twin_desired(site) if isinstance(side, Desired) else topics.twin_reported(site)
    return Beside(topic, msgspec.json.encode(side), side.device.encode())


async def read(brokers: str, site: str) -> list[Side]:
    """Both sides of every twin on record, none if the site never had any. `StateError` if a record is none."""
    what = "side of a twin"
    desired = await newest_as(brokers, topics.twin_desired(site), Desired, what)
    return [*desired, *await newest_as(brokers, topics.twin_reported(site), Reported, what)]
