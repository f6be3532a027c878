"""The collect service as a process of its own, between a real MQTT broker and a real Kafka, with kill -9."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiomqtt
import numpy as np
import pytest

from connectors.simulator.fleet import Device, Fleet, Reading
from containers.child import Child, free_port
from containers.embedded import EmbeddedKafka
from pipelines.batch import TIME_MAX, Batch
from pipelines.runtime import kafka as access
from pipelines.wire import FrameInfo, decode
from tests.bed import until
from tests.bed.mosquitto import Mosquitto
from tests.connectors.schemas import Vibration

ROOT = Path(__file__).parents[2]
ROW = Vibration.measured()
PARTITIONS = 2
PIPELINE = """
from connectors import mqtt, replay, simulator
from connectors.conditions import deadband, swinging_door
from pipelines.dsl import Pipeline
from tests.connectors.schemas import Vibration

p = Pipeline("p")
"""


class Collect:
    """The service. Entered, it runs until the end of the block; `.child` can be killed and started again."""

    def __init__(self, folder: Path, site: str, brokers: str, *reads: str, **options: str) -> None:
        self.site, self.brokers, self.port = site, brokers, free_port()
        (folder / "pipeline.py").write_text(PIPELINE + "".join(f"p.read({read})\n" for read in reads))
        settings = {
            "site": site, "brokers": brokers, "pipeline": str(folder / "pipeline.py"), "partitions": PARTITIONS,
            "metrics_port": self.port, "options": options,
        }  # fmt: skip
        (folder / "collect.json").write_text(json.dumps(settings))
        self.words = [sys.executable, "-m", "connectors.collect", "--config", str(folder / "collect.json")]
        self.log = folder / "collect.log"
        self.child = Child("collect", self.words, self.log, env={"PYTHONPATH": str(ROOT)})

    def start(self, *, healthy: bool = True) -> Self:
        self.child.start(lambda: self.get("healthz")[0] == 200 if healthy else self.get("healthz")[0] > 0)
        return self

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        found = re.search(rf"^sitestream_{name}\{{[^}}]*\}} (\S+)$", self.get("metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def frames(self, stream: str = "vibration") -> list[tuple[int, FrameInfo, Batch]]:
        return [
            (p, FrameInfo.of(h), decode(v, ROW)) for p, h, v in await records(self.brokers, f"{self.site}.{stream}")
        ]

    async def values(self) -> list[float]:
        """The value of every reading in Kafka."""
        return [v for _, _, b in await self.frames() for v in b.columns["Vibration.rms"].tolist()]


async def records(brokers: str, topic: str) -> list[tuple[int, Any, bytes]]:
    """(partition, headers, value) of every record of a topic."""
    consumer = await access.consumer(brokers, topic)
    try:
        partitions = list(await until(consumer.assignment, 5, f"the partitions of {topic}"))
        ends = await consumer.end_offsets(partitions)
        found: list[tuple[int, Any, bytes]] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for partition, got in (await consumer.getmany(timeout_ms=100)).items():
                found += [(partition.partition, r.headers, r.value) for r in got]
        return found
    finally:
        await consumer.stop()


def mqtt_read(url: str, site: str, **options: object) -> str:
    more = "".join(f", {k}={v!r}" for k, v in options.items())
    return f"mqtt.source(Vibration, broker={url!r}, topic='{site}/{{device}}/vib'{more})"


def devices(site: str, count: int, each: int, every_ms: int) -> list[Device]:
    """Each reading of the fleet has another value."""

    def readings(device: int) -> Iterator[Reading]:
        for i in range(each):
            yield i * every_ms * 10**6, b'{"rms": %d}' % (device * each + i)

    return [Device(f"d{d}", f"{site}/d{d}/vib", readings(d)) for d in range(count)]


async def test_kill_9_in_the_middle_loses_nothing(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    collect = Collect(tmp_path, unique, kafka.bootstrap, mqtt_read(mosquitto.url, unique))
    collects.append(collect.start())
    async with Fleet(mosquitto.url, devices(unique, 4, 500, every_ms=8)) as fleet:
        for _ in range(3):
            await asyncio.sleep(0.7)
            await until(lambda: collect.metric("source_records_total") > 0, 5, "readings since the start")
            collect.child.kill9()
            await asyncio.sleep(0.3)
            collect.start()
        await fleet.done()
        assert [d.published for d in fleet.devices] == [500] * 4
    values = await until(partial(_complete, collect, 2000), 15, "every reading in Kafka")
    assert set(values) == set(range(2000))
    frames = await collect.frames()
    for device in range(4):  # repeated after a crash perhaps, but in order
        own = [v for _, _, b in frames for v in b.columns["Vibration.rms"].tolist() if v // 500 == device]
        assert list(dict.fromkeys(own)) == list(range(device * 500, device * 500 + 500))
    assert {p for p, i, b in frames if len(b)} == {0, 1}


async def _complete(collect: Collect, count: int) -> list[float]:
    values = await collect.values()
    missing = sorted(set(range(count)) - set(values))
    assert not missing, f"{len(missing)} are missing, such as {missing[:5]}"
    return values


async def test_the_mqtt_broker_restarts(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    broker = Mosquitto(tmp_path).start()
    collect = Collect(tmp_path, unique, kafka.bootstrap, mqtt_read(broker.url, unique))
    collects.append(collect.start())
    async with Fleet(broker.url, devices(unique, 2, 300, every_ms=8)) as fleet:
        await asyncio.sleep(0.8)
        await asyncio.to_thread(broker.stop)
        await until(lambda: collect.metric("source_connected") == 0, 5, "collect to see that the broker is away")
        await asyncio.to_thread(broker.start)
        await fleet.done()
        assert await until(partial(_complete, collect, 600), 15, "every reading in Kafka")
    assert collect.metric("source_connected") == 1
    broker.stop()


async def test_kafka_is_away_for_a_while(
    mosquitto: Mosquitto, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        collect = Collect(tmp_path, unique, kafka.bootstrap, mqtt_read(mosquitto.url, unique))
        collects.append(collect.start())
        async with Fleet(mosquitto.url, devices(unique, 2, 300, every_ms=8)) as fleet:
            await asyncio.sleep(0.8)
            await asyncio.to_thread(kafka.kill9)
            await fleet.done()
        await asyncio.to_thread(kafka.start)
        assert await until(partial(_complete, collect, 600), 40, "every reading in Kafka")


async def test_collect_starts_before_kafka(
    mosquitto: Mosquitto, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    port = free_port()
    collect = Collect(tmp_path, unique, f"127.0.0.1:{port}", mqtt_read(mosquitto.url, unique))
    collects.append(collect.start(healthy=False))
    await until(lambda: "no Kafka broker answers at" in collect.log.read_text(), 5)
    assert json.loads(collect.get("healthz")[1]) == {"healthy": False, "conditions": {"kafka": False, "sources": False}}
    collect.child.stop()
    assert "Traceback" not in collect.log.read_text()


async def test_a_silent_fleet_a_bad_reading_metrics_and_the_stop(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    read = mqtt_read(mosquitto.url, unique, silence="200ms")
    collect = Collect(tmp_path, unique, kafka.bootstrap, read, heartbeat="100ms")
    collects.append(collect.start())
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.publish(f"{unique}/a/vib", '{"rms": 1, "time": "2026-01-01T00:00:00Z"}', qos=1)
        await client.publish(f"{unique}/a/vib", '{"rms": "high"}', qos=1)
    await asyncio.sleep(1.2)
    top = int(np.datetime64("2026-01-01", "ns").astype(np.int64))
    for partition in range(PARTITIONS):
        marks = [i.watermark for p, i, _ in await collect.frames() if p == partition]
        assert marks == sorted(marks)
        assert top + 0.5e9 < marks[-1] < top + 1.2e9  # it went on with the clock, 200 ms behind
    ((_, headers, payload),) = await records(kafka.bootstrap, f"{unique}.dead")
    letter = {k: v.decode() for k, v in headers}
    assert payload == b'{"rms": "high"}'
    assert letter == {
        "service": "collect", "reason": "type", "origin": f"{unique}/a/vib",
        "message": f"{unique}/a/vib: rms is 'high': a number is needed",
    }  # fmt: skip
    assert [collect.metric(m) for m in ("source_records_total", "source_connected", "source_devices")] == [1, 1, 1]
    assert collect.metric("dead_letter_records_total") == 1
    assert collect.metric("source_last_record_timestamp_seconds") > 1.7e9
    collect.child.kill9()
    collect.start()
    newest = await until(
        lambda: _newest(collect, above=marks[-1]), 10, "windows of a fleet that is silent since a restart to close"
    )
    assert newest < top + 30e9
    process = collect.child._process
    assert process is not None
    process.terminate()
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert "Traceback" not in collect.log.read_text()


async def _newest(collect: Collect, above: int) -> int:
    newest = max(i.watermark for _, i, _ in await collect.frames())
    return newest if newest > above else 0


async def test_one_source_that_fails_does_not_stop_another(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    broken = mqtt_read(f"mqtt://127.0.0.1:{free_port()}", unique, stream="broken")
    missing = f"replay.source(Vibration, {str(tmp_path / '*.csv')!r}, stream='missing')"
    good = "simulator.source(Vibration, every='10ms')"
    collect = Collect(tmp_path, unique, kafka.bootstrap, broken, missing, good)
    collects.append(collect.start(healthy=False))
    await until(lambda: collect.metric("source_records_total") > 30, 10)
    assert json.loads(collect.get("healthz")[1]) == {"healthy": False, "conditions": {"kafka": True, "sources": False}}
    told = ("broken: MQTT broker 127.0.0.1", "missing: replay: no file matches")
    await until(lambda: all(line in collect.log.read_text() for line in told), 10, "both failures to be told")
    assert "Traceback" not in collect.log.read_text()


async def test_a_replay_to_its_end(kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]) -> None:
    lines = [f"2026-01-01T00:{i // 60:02}:{i % 60:02}Z,d{i % 3},{i}" for i in range(600)]
    (tmp_path / "a.csv").write_text("\n".join(["time,device,rms", *lines]) + "\n")
    collect = Collect(
        tmp_path, unique, kafka.bootstrap, f"replay.source(Vibration, {str(tmp_path / 'a.csv')!r}, speed=0)"
    )
    collects.append(collect.start())
    await until(lambda: "all has been read" in collect.log.read_text(), 10)
    frames = await collect.frames()
    assert sorted(v for _, _, b in frames for v in b.columns["Vibration.rms"].tolist()) == list(range(600))
    for partition in range(PARTITIONS):
        assert [i.watermark for p, i, _ in frames if p == partition][-1] == TIME_MAX
    await asyncio.sleep(0.6)
    assert collect.get("healthz")[0] == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows_max": "many"}, "collect: options.rows_max 'many' is not a whole number\n"),
        ({"rows_max": "0"}, "collect: options.rows_max is 0: at least 1 is needed\n"),
        ({"linger": "fast"}, "collect: 'fast' is not a duration"),
        ({"collector": "A B"}, "collect: collector name 'A B' cannot be used"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, options: dict[str, str], says: str) -> None:
    collect = Collect(tmp_path, "site", "127.0.0.1:1", "simulator.source(Vibration)", **options)
    ran = subprocess.run(collect.words, capture_output=True, text=True, cwd=ROOT, timeout=20, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith(says)
    assert ran.stderr.count("\n") == 1
