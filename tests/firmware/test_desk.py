"""The desk alone: what it measures, also in a second life, and in which order it puts on record what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest
from prometheus_client import REGISTRY

from connectors.firmware import desk as desks
from connectors.firmware.audit import Record
from connectors.firmware.campaign import Plan
from connectors.firmware.delivery import Store
from connectors.firmware.desk import Desk
from connectors.firmware.life import Entry, State
from connectors.firmware.mirror import Signed
from connectors.firmware.protocol import Report, Said, topic
from connectors.firmware.status import SITE_KEY, SiteStatus
from connectors.link import Link
from pipelines import metrics
from pipelines.clock import ManualClock
from pipelines.runtime.account import Account, Beside, Line
from pipelines.runtime.serve import Health
from tests.firmware.fleet import IMAGE
from tests.firmware.test_life import NOW, USUAL, campaign, said


class Kept:
    """An account in memory."""

    def __init__(self) -> None:
        self.site: SiteStatus | None = None
        self.audit: list[str] = []  # states

    async def write(self, lines: Sequence[Line], beside: Sequence[Beside] = ()) -> None:
        """Put on record."""
        for _, key, value in lines:
            if key == SITE_KEY and value:
                self.site = msgspec.json.decode(value, type=SiteStatus)
        self.audit += [msgspec.json.decode(b.value, type=Record).state for b in beside]

    async def touch(self) -> None:
        """The right is not lost."""


class Deaf:
    """A link whose other end says nothing."""

    async def publish(self, *_: object) -> None:
        """It is lost."""


async def live(site: str, kept: Kept, entries: Sequence[Entry], *reports: Report, signed: bool = True) -> None:
    """One life of the service: what is signed is known after its first turn, then it hears a report before each."""
    link, store, clock = cast(Link, Deaf()), Store(b"k" * 32, lambda _: None), ManualClock(NOW)
    desk = Desk(site, kept.site, entries, cast(Account, kept), link, store, "", (), clock, Health())
    plan = Plan(counter=1, campaigns=(campaign(quotas={site: 1}, canary=(site,)),))
    stop, left = asyncio.Event(), list(reports)

    async def turn(*_: object) -> None:
        if signed:
            desk.plan(Signed(plan, "anna", {"c": IMAGE}, {"m": ()}, {}, NOW + 10**15), {IMAGE.sha256: Path()})
        if left:
            report = left.pop(0)
            await desk.hear(topic(report.device, "report"), msgspec.json.encode(report))
        elif clock.now_ns() > NOW:
            stop.set()
        else:
            clock.advance(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desks, "_wait", turn)
        await desk.run(stop)


def devices(site: str) -> dict[str, float | None]:
    """As they are measured, by state."""
    states = ("COMMITTED", "IDLE", "FAILED")
    return {s: REGISTRY.get_sample_value("sitestream_firmware_devices", {"site": site, "state": s}) for s in states}


def forget(site: str) -> None:
    """As the process of a second life has measured nothing yet."""
    for state in State:
        metrics.firmware_devices.remove(site, state.value)
    for gauge in ("stage", "quota", "lost"):
        getattr(metrics, f"firmware_{gauge}").remove(site, "m")


ENTRIES = (Entry(**USUAL, state=State.COMMITTED, campaign="c"), Entry(**USUAL | {"device": "e", "hardware": "Z"}))


async def test_a_second_life_measures_although_nothing_has_changed(unique: str) -> None:
    kept = Kept()
    await live(unique, kept, ENTRIES)
    settled = kept.site
    forget(unique)
    await live(unique, kept, ENTRIES)
    assert kept.site == settled
    assert devices(unique) == {"COMMITTED": 1, "IDLE": 1, "FAILED": 0}
    labels = {"site": unique, "model": "m"}
    found = [REGISTRY.get_sample_value(f"sitestream_firmware_{n}", labels) for n in ("stage", "quota", "lost_devices")]
    assert found == [0, 1, 0]


async def test_devices_are_measured_while_nobody_says_what_is_signed(unique: str) -> None:
    await live(unique, Kept(), ENTRIES, signed=False)
    assert devices(unique) == {"COMMITTED": 1, "IDLE": 1, "FAILED": 0}


async def test_a_device_that_has_no_part_in_the_campaign_is_measured_once_it_is_there(unique: str) -> None:
    await live(unique, Kept(), ENTRIES[:1], said("d", Said.IDLE), said("e", Said.IDLE, hardware="Z"))
    assert devices(unique) == {"COMMITTED": 1, "IDLE": 1, "FAILED": 0}


async def test_the_plan_is_on_record_before_what_devices_do_because_of_it_and_that_before_the_halt(unique: str) -> None:
    kept = Kept()
    steps = [said("d", state, campaign="c") for state in (Said.DOWNLOADING, Said.VERIFIED, Said.FAILED)]
    await live(unique, kept, (), said("d", Said.IDLE), *steps)
    assert kept.audit == ["BEGUN", "OFFERED", "INSTALLING", "FAILED", "HALTED"]
