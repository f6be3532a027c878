"""What is on record of campaigns, devices and refusals, once each, and the command that shows it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from connectors.firmware import audit, topics_of
from connectors.firmware.audit import Record, of_device, of_plan, of_site
from connectors.firmware.life import ENDED, Entry, State
from connectors.firmware.roster import Standing
from connectors.firmware.status import Known, SiteStatus
from containers.cli import main
from containers.embedded import EmbeddedKafka
from pipelines.clock import SystemClock
from pipelines.runtime import kafka as kafkas
from tests.bed import until
from tests.containers.kit import SITE, write_site
from tests.firmware.device import Device, living
from tests.firmware.plant import Site, Web, publish
from tests.firmware.test_life import NOW, USUAL
from tests.firmware.test_service import where
from tests.firmware.test_trust import newest


def status(**changes: Any) -> SiteStatus:
    return SiteStatus(counter=1, **changes)


def known(state: str = "running", stage: int = 0, reason: str = "") -> dict[str, Known]:
    return {"c": Known(state, stage, "2", reason)}


NONE = status()
HALTED = {"c": Standing(lost=2, quota=2)}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (NONE, status(known=known()), [("anna", "BEGUN", "stage 0")]),
        (NONE, status(known=known("paused", 1, "why")), [("anna", "BEGUN", "stage 1"), ("anna", "PAUSED", "why")]),
        (status(known=known()), status(known=known()), []),
        (status(known=known()), status(known=known("paused", 0, "why")), [("anna", "PAUSED", "why")]),
        (status(known=known("paused")), status(known=known()), [("anna", "RESUMED", "")]),
        (status(known=known("paused")), status(known=known("aborted", 0, "why")), [("anna", "ABORTED", "why")]),
        (status(known=known()), status(known=known(stage=2)), [("anna", "STAGE", "stage 2")]),
        (NONE, status(campaigns=HALTED), [("firmware", "HALTED", "2 devices are lost, and 2 may be")]),
        (status(campaigns=HALTED), status(campaigns=HALTED), []),
        (NONE, status(refused="forged"), [("firmware", "REFUSED", "forged")]),
        (status(refused="forged"), status(refused="forged", held="x"), []),
        (status(refused="forged"), NONE, []),
    ],
)
def test_what_a_site_is_told_and_refuses(
    before: SiteStatus, after: SiteStatus, found: list[tuple[str, str, str]]
) -> None:
    records = [*of_plan(before, after, "anna", NOW), *of_site(before, after, NOW)]
    assert [(r.who, r.state, r.detail) for r in records] == found


def entry(state: State, offered: bool = True, campaign: str = "c") -> Entry:
    return Entry(**USUAL, state=state, campaign=campaign, offered_ns=NOW * offered)


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (entry(State.IDLE, offered=False), entry(State.ASSIGNED, offered=False), None),
        (entry(State.ASSIGNED, offered=False), entry(State.ASSIGNED), "OFFERED"),
        (entry(State.COMMITTED), entry(State.ASSIGNED, campaign="next"), "OFFERED"),
        (entry(State.ASSIGNED), entry(State.DOWNLOADING), None),
        (entry(State.DOWNLOADING), entry(State.VERIFIED), None),
        (entry(State.VERIFIED), entry(State.IDLE), "RELEASED"),
        (entry(State.VERIFIED), entry(State.INSTALLING), "INSTALLING"),
        (entry(State.INSTALLING), entry(State.INSTALLING), None),
        *((entry(State.CONFIRMING), entry(end), end.value) for end in State if end in ENDED),
        (None, entry(State.IDLE, offered=False), None),
    ],
)
def test_what_becomes_of_a_device(before: Entry | None, after: Entry, state: str | None) -> None:
    found = of_device(before, after, "d", NOW)
    assert (found and found.state) == state


async def test_plans_and_refusals_are_on_record_once_whatever_restarts(site: Site, tmp_path: Path, web: Web) -> None:
    site.campaign("c1", publish(site.shelf, tmp_path), quota=1)
    device = Device(f"{site.name}-d", site.root)

    async def recorded(*states: str) -> list[Record]:
        async def there() -> list[Record]:
            found = await audit.read(site.brokers, site.name)
            assert [r.state for r in found] == list(states)
            return found

        found: list[Record] = await until(there, 20, f"records {states}")
        return found

    told = ["BEGUN", "OFFERED", "INSTALLING", "COMMITTED"]
    async with site.service(), living([device], *where(site)):
        by_device = [r for r in await recorded(*told) if r.device]
        assert [(r.who, r.campaign, r.version) for r in by_device] == [
            ("firmware", "c1", "1.0"), ("firmware", "c1", "1.0"), (device.name, "c1", "2.0"),
        ]  # fmt: skip
    timestamp = newest(tmp_path, "timestamp")
    web.instead = {
        f"metadata/{timestamp.name}": timestamp.read_bytes()
        .replace(b'"version":', b'"version" :')
        .replace(b'sig":"', b'sig":"00')
    }
    for _ in range(2):  # a second life refuses the same, and says it only once
        async with site.service():
            refused = (await recorded(*told, "REFUSED"))[-1]
            await asyncio.sleep(2)  # it looks again meanwhile
            await recorded(*told, "REFUSED")
    assert (refused.who, "timestamp was signed by 0/1 keys" in refused.detail) == ("firmware", True)
    web.instead = {}
    site.shelf.keys.rotate("campaigns-1")
    site.change(state="paused", reason="by an operator")
    async with site.service():
        paused = (await recorded(*told, "REFUSED", "PAUSED"))[-1]
    assert (paused.who, paused.campaign, paused.detail) == ("campaigns-2", "c1", "by an operator")
    whole, _ = await site.status()
    assert whole is not None
    assert whole.refused == ""


def test_the_command(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    now = SystemClock().now_ns()
    old = Record(at_ns=now - 7200 * 10**9, who="campaigns-1", state="BEGUN", campaign="c", version="2")
    new = Record(at_ns=now, who="d1", state="FAILED", campaign="c", device="d1", version="1", detail="not signed")

    async def put() -> None:
        await kafkas.ensure(kafka.bootstrap, topics_of(unique))
        producer = await kafkas.producer(kafka.bootstrap)
        for record in (old, new):
            line = record.line(unique)
            await producer.send_and_wait(line.topic, line.value, partition=0)
        await kafkas.stopped(producer)

    text = SITE.replace("hall1", unique).replace("kafka:9092", kafka.bootstrap)
    words = ["firmware", "audit", "--site", str(write_site(tmp_path, text))]
    assert "nothing is on record" in CliRunner().invoke(main, words).stdout
    asyncio.run(put())
    lines = CliRunner().invoke(main, words).stdout.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["WHO", "CAMPAIGN", "DEVICE", "VERSION", "STATE", "DETAIL"], ["campaigns-1", "c", "2", "BEGUN"],
        ["d1", "c", "d1", "1", "FAILED", "not", "signed"],
    ]  # fmt: skip
    for more in (["--device", "d1"], ["--since", "1h"]):
        value = json.loads(CliRunner().invoke(main, [*words, *more, "-o", "json"]).stdout)
        assert (value["site"], value["records"]) == (unique, [msgspec.to_builtins(new)])
