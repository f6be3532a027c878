"""The whole way on real parts: devices on MQTT, four services, Kafka, S3, and commands back to the devices; with kills."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from prometheus_client.metrics import MetricWrapperBase

from connectors.control.status import CommandState, states
from connectors.simulator.fleet import Device, Fleet
from containers.embedded import EmbeddedKafka
from pipelines import metrics
from pipelines.clock import SystemClock
from tests.bed import until
from tests.bed.mosquitto import Mosquitto
from tests.bed.prometheus import Prometheus
from tests.bed.s3 import S3
from tests.bed.services import Services

PIPELINE = """
from connectors import control, mqtt, parquet
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling

class Vibration(Schema):
    device = Key[str]()
    n = Col[int]()
    rms = Col[float]("mm/s")

class Second(Schema):
    readings = agg.count()
    total = agg.sum(Vibration.n)
    high = agg.max(Vibration.rms)

class Shock(Schema):
    high = Second.high

press = Pipeline("press")
vibration = press.read(mqtt.source(Vibration, broker="{broker}", topic="{site}/{{device}}/vib", time_unit="ns", silence="3s"))
vibration.to(parquet.dataset("raw", every="2s"))
second = vibration.window(tumbling("1s", late="2s"), Second)
second.to(parquet.dataset("second", every="2s"))
second.late.to(parquet.dataset("late", every="2s"))
shocks = second.select(Shock).where(Shock.high > 9)
shocks.to(control.command(topic="{site}/{{device}}/cmd", verb="slow_down", expires="1m", speed=0.5, why=Shock.high))
"""
DEVICES, READINGS = 5, 400


@pytest.fixture
def services(
    unique: str, kafka: EmbeddedKafka, mosquitto: Mosquitto, s3: S3, tmp_path: Path
) -> Iterator[tuple[str, Services]]:
    site = unique
    pipeline = tmp_path / "press.py"
    pipeline.write_text(PIPELINE.format(broker=mosquitto.url, site=site))
    (tmp_path / "s3_access_key").write_text(s3.access_key)
    (tmp_path / "s3_secret_key").write_text(s3.secret_key)
    settings = {
        "site": site, "brokers": kafka.bootstrap, "pipeline": str(pipeline), "partitions": 2, "store": f"s3://{s3.bucket}/{site}",
    }  # fmt: skip
    options = {"upload": {"s3_endpoint": s3.endpoint, "s3_region": s3.region}}
    with Services(tmp_path, settings, options) as running:
        yield site, running


def device(site: str, number: int) -> Device:
    """A device with READINGS readings over 8 s from now, of which one is a shock."""
    start, step = SystemClock().now_ns(), 20_000_000
    made = [
        (
            start + i * step,
            b'{"time": %d, "n": %d, "rms": %s}' % ((start + i * step), i, b"12.5" if i == 200 else b"1.5"),
        )
        for i in range(READINGS)
    ]
    return Device(f"press-{number}", f"{site}/press-{number}/vib", made)


def rows(s3: S3, site: str, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Rows of a table, by a reader that is not ours, straight from the files behind the S3 server."""
    glob = Path(s3.folder) / s3.bucket / site / table / "site=*" / "date=*" / "*.parquet"
    try:
        return duckdb.connect().execute(f"SELECT {columns} FROM read_parquet('{glob}')").fetchall()
    except duckdb.IOException:
        return []


async def test_every_reading_arrives_once_and_every_shock_slows_its_press(
    services: tuple[str, Services], kafka: EmbeddedKafka, mosquitto: Mosquitto, s3: S3
) -> None:
    site, running = services
    seed = random.Random(11)
    devices = [device(site, i) for i in range(DEVICES)]
    async with Fleet(mosquitto.url, devices) as fleet:
        for name in ("process", "collect", "upload", "process"):
            await asyncio.sleep(seed.uniform(0.5, 2))
            await asyncio.to_thread(running.kill9, name)
        await fleet.done()

        def arrived() -> bool:
            found = rows(s3, site, "second", "device, readings") + [(d, 1) for (d,) in rows(s3, site, "late", "device")]
            return sum(n for _, n in found) >= DEVICES * READINGS and len({d for d, _ in found}) == DEVICES

        async def succeeded() -> list[CommandState]:
            found = [c for c in await states(kafka.bootstrap, site) if c.state == "SUCCEEDED"]
            return found if len(found) >= DEVICES else []

        await until_in_thread(arrived, 60, "all windows in the store")
        told: list[CommandState] = await until(succeeded, 30, "a command for each device")

    raw = Counter(rows(s3, site, "raw", "device, n"))
    assert set(raw) == {(d.name, n) for d in devices for n in range(READINGS)}, "a reading is missing"
    second = rows(s3, site, "second", "device, window_start, readings, total, high")
    late = rows(s3, site, "late", "device, n")
    assert len({row[:2] for row in second}) == len(second), "a window is there twice"
    assert sum(r[2] for r in second) + len(late) == sum(raw.values()), "windows and late rows hold what was collected"
    assert sum(r[3] for r in second) + sum(r[1] for r in late) == sum(n * c for (_, n), c in raw.items())
    assert math.isclose(max(r[4] for r in second), 12.5)
    assert {d.name: list(d.executions.values()) for d in devices} == {d.name: [1] for d in devices}
    assert {c.device for c in told} == {d.name for d in devices}


async def test_prometheus_scrapes_every_service_and_knows_all_its_metrics(
    services: tuple[str, Services], mosquitto: Mosquitto, prometheus: Callable[..., Prometheus]
) -> None:
    site, running = services
    server = prometheus([f"127.0.0.1:{port}" for port in running.ports.values()])

    def value(expression: str) -> float:
        return sum(v for _, v in server.query(expression))

    def holds(expression: str, number: float) -> bool:
        return value(expression) == number

    expected = {
        "sum(sitestream_source_records_total)": READINGS,
        "sum(sitestream_records_in_total)": READINGS,
        "sum(sitestream_upload_rows_total{table='raw'})": READINGS,
        "count(sitestream_build_info)": 4,
        "sum(sitestream_uplink_up)": 1,
        "sum(sitestream_source_connected)": 1,
        "sum(sitestream_commands_total{state='SUCCEEDED'})": 1,
        "count(up == 1)": 4,
    }
    async with Fleet(mosquitto.url, [device(site, 0)]) as fleet:
        await fleet.done()
        for expression, number in expected.items():  # the device is there until its command has come
            await until_in_thread(partial(holds, expression, number), 40, f"{expression} == {number}")
    watermark = value("min(sitestream_watermark_timestamp_seconds)")
    assert abs(watermark - SystemClock().now_ns() / 1e9) < 60
    scraped = {labels["__name__"] for labels, _ in server.query('{__name__=~"sitestream_.*"}')}
    assert scraped <= declared(), "a metric that pipelines/metrics.py does not declare"


async def until_in_thread(probe: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Ask a slow probe without holding up the devices, which live in this event loop."""

    async def ask() -> bool:
        return await asyncio.to_thread(probe)

    assert await until(ask, timeout_s, what) is True


def declared() -> set[str]:
    """Every series name that `pipelines.metrics` can export."""
    families = [f for m in vars(metrics).values() if isinstance(m, MetricWrapperBase) for f in m.describe()]
    suffixes = ("", "_total", "_created", "_bucket", "_count", "_sum", "_info")
    return {f.name + suffix for f in families for suffix in suffixes}
