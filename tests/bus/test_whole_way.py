"""Four services, each with a certificate and rights of its own, on a real broker: what comes out is exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.control.status import CommandState, states
from connectors.simulator.fleet import Fleet as Devices
from containers import bus
from containers.acls import bearer
from containers.cli import main
from containers.desired import work_for
from containers.site import load_site
from pipelines.clock import SystemClock
from pipelines.load import load
from tests.bed import until
from tests.bed.mosquitto import Mosquitto
from tests.bed.s3 import S3
from tests.bed.services import MODULES, Services
from tests.bus.fleet import Fleet, site_toml
from tests.spine.test_whole_way import PIPELINE, READINGS, device, rows, until_in_thread

SITE = "whole"


@pytest.mark.timeout(200)
async def test_readings_and_commands_arrive_with_least_rights(
    fleet: Fleet, mosquitto: Mosquitto, s3: S3, tmp_path: Path
) -> None:
    (tmp_path / "tiny.py").write_text(PIPELINE.format(broker=mosquitto.url, site=SITE))
    (tmp_path / "site.toml").write_text(site_toml(fleet, SITE))
    site = load_site(tmp_path / "site.toml")
    plan = load(site.pipeline).plan()
    await asyncio.to_thread(bus.grant, site, plan, [p.service for p in work_for(plan)], SystemClock(), revoke=True)
    own = {}
    for service in MODULES:
        folder = fleet.secrets(bearer(SITE, service), tmp_path / f"{service}-secrets")
        (folder / "s3_access_key").write_text(s3.access_key)
        (folder / "s3_secret_key").write_text(s3.secret_key)
        own[service] = {"secrets_dir": str(folder)}
    settings = {
        "site": SITE, "brokers": fleet.kafka.tls_bootstrap, "pipeline": site.pipeline, "partitions": 1,
        "store": f"s3://{s3.bucket}/{SITE}", "kafka_security": "mtls",
    }  # fmt: skip
    options = {"upload": {"s3_endpoint": s3.endpoint, "s3_region": s3.region}}
    devices = [device(SITE, i) for i in range(2)]

    def arrived() -> bool:
        windows: list[tuple[int]] = rows(s3, SITE, "second", "readings")
        return sum(n for (n,) in windows) >= 2 * READINGS

    async def succeeded() -> list[CommandState]:
        found = [c for c in await states(fleet.kafka.bootstrap, SITE) if c.state == "SUCCEEDED"]
        return found if len(found) >= 2 else []

    with Services(tmp_path, settings, options, own) as running:
        async with Devices(mosquitto.url, devices) as live:
            await asyncio.to_thread(running.kill9, "process")  # so that it restores its state as well
            await asyncio.to_thread(running.kill9, "collect")
            await live.done()
            await until_in_thread(arrived, 60, "all windows in the store")
            await until(succeeded, 30, "a command for each device")
    words = ["device", "status", "--site", str(tmp_path / "site.toml")]
    shown = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert (shown.exit_code, shown.stdout.count("SUCCEEDED")) == (0, 2), shown.output
    raw = Counter(rows(s3, SITE, "raw", "device, n"))
    assert set(raw) == {(d.name, n) for d in devices for n in range(READINGS)}
    assert sum(n for (n,) in rows(s3, SITE, "second", "readings")) == sum(raw.values())
    assert {d.name: list(d.executions.values()) for d in devices} == {d.name: [1] for d in devices}
