"""Every reader against the conformance suite, each with its real outside world."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import cbor2
import msgspec
import pytest

from connectors import mqtt, replay, simulator
from connectors.base import Context, Reader
from connectors.mqtt import link, wire
from connectors.mqtt.link import Account, Link
from connectors.mqtt.reader import MqttReader
from connectors.replay.reader import ReplayReader
from connectors.simulator.reader import SignalReader
from containers.embedded import EmbeddedMqtt
from pipelines.clock import ManualClock, SystemClock
from tests.bed.mosquitto import Mosquitto
from tests.connectors.conformance import Conformance, World, read_all
from tests.connectors.schemas import Vibration


def context(clock: ManualClock | SystemClock | None = None, site: str = "s") -> Context:
    return Context(site, "1", Path("/nowhere"), clock or SystemClock())


def as_json(value: int) -> bytes:
    return f'{{"rms": {value}}}'.encode()


async def mqtt_world(
    url: str, site: str, encode: Callable[[int], bytes] = as_json, **options: Any
) -> AsyncGenerator[World, None]:
    """Devices that publish on `{site}/a/vib`."""
    source = mqtt.source(Vibration, broker=url, topic=f"{site}/{{device}}/vib", **options)
    host, port = source.address.hostname or "", source.address.port or 0

    def reader() -> Reader:
        return MqttReader(source, context(site=site))

    first = reader()
    await first.connect()  # from here on the broker keeps what is published
    await first.close()
    async with aiomqtt.Client(host, port) as client:
        offered = 0

        async def offer(count: int) -> None:
            nonlocal offered
            for _ in range(count):
                offered += 1
                await client.publish(f"{site}/a/vib", encode(offered), qos=1)

        async def offer_bad() -> str:
            await client.publish(f"{site}/b/vib", b"\xc1no", qos=1)
            return f"{site}/b/vib"

        yield World(reader, offer, offer_bad, ends=False)


class TestMqttOnMosquitto(Conformance):
    """MQTT 5."""

    @pytest.fixture
    async def world(self, mosquitto: Mosquitto, unique: str) -> AsyncIterator[World]:
        async for world in mqtt_world(mosquitto.url, unique):
            yield world


class TestMqtt311OnMosquitto(Conformance):
    """As with a broker that refuses MQTT 5."""

    @pytest.fixture
    async def world(self, mosquitto: Mosquitto, unique: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
        open_any = MqttReader._open

        async def refuse_5(self: MqttReader, account: Account, version: int) -> Link:
            if version == wire.V5:
                raise wire.VersionRefused("no")
            return await open_any(self, account, version)

        monkeypatch.setattr(MqttReader, "_open", refuse_5)
        async for world in mqtt_world(mosquitto.url, unique):
            yield world


FORMATS: dict[str, tuple[Callable[[int], bytes], dict[str, Any]]] = {
    "msgpack": (lambda v: msgspec.msgpack.encode({"a": {"b": v}}), {"fields": {Vibration.rms: "a.b"}}),
    "cbor": (lambda v: cbor2.dumps({"r": [{"rms": v}]}), {"rows": "r[*]"}),
    "csv:x,rms": (lambda v: f"?,{v}".encode(), {}),
    ">f4": (lambda v: struct.pack(">f", v), {"share": "half"}),
}


class TestMqttFormats(Conformance):
    """Other payloads; one of them through a shared subscription."""

    @pytest.fixture(params=FORMATS)
    async def world(self, mosquitto: Mosquitto, unique: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
        encode, options = FORMATS[request.param]
        async for world in mqtt_world(mosquitto.url, unique, encode, payload=request.param, **options):
            yield world


async def test_a_broker_that_does_not_understand_mqtt_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """amqtt says nothing to the greeting of MQTT 5. (It forgets what was not acknowledged, so it cannot run the suite.)"""
    monkeypatch.setattr(link, "ANSWER_S_MAX", 0.5)
    with EmbeddedMqtt(tmp_path) as broker:
        worlds = mqtt_world(broker.url, "site")
        world = await anext(worlds)
        reader = world.reader()
        await reader.connect()
        await world.offer(3)
        assert await read_all(reader, 3) == [1, 2, 3]
        await reader.close()
        await worlds.aclose()


def file_world(folder: Path, write: Callable[[Path, list[str]], None], ending: str) -> World:
    """Each offer is one more file."""
    source = replay.source(Vibration, str(folder / f"*{ending}"), speed=0)
    reader = ReplayReader(source, context())
    offered = files = 0

    def next_file() -> Path:
        nonlocal files
        files += 1
        return folder / f"{files:03}{ending}"

    async def offer(count: int) -> None:
        nonlocal offered
        write(next_file(), [str(offered + i + 1) for i in range(count)])
        offered += count

    async def offer_bad() -> str:
        path = next_file()
        write(path, ["x"])
        return f"{path}:{2 if ending == '.csv' else 1}"

    return World(lambda: reader, offer, offer_bad, ends=True)


def write_csv(path: Path, values: list[str]) -> None:
    path.write_text("time,device,rms\n" + "".join(f"2026-01-01T00:00:00Z,a,{v}\n" for v in values))


class TestReplayOfCsv(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return file_world(tmp_path, write_csv, ".csv")


class TestReplayOfParquet(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def write(path: Path, values: list[str]) -> None:
            columns = {"time": ["2026-01-01T00:00:00Z"] * len(values), "device": ["a"] * len(values), "rms": values}
            pq.write_table(pa.table(columns), path)

        return file_world(tmp_path, write, ".parquet")


class TestSimulatedSignal(Conformance):
    """One device; its values are replaced by the number of the tick so that the suite knows them."""

    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch) -> World:
        monkeypatch.setattr("connectors.simulator.reader.wave", lambda column, device, tick, seed: tick + 1.0)
        clock = ManualClock(10**18)
        source = simulator.source(Vibration, devices=1, every="1h")
        reader = SignalReader(source, context(clock))
        clock.advance(-3600)  # the first tick is due at once; here it is due with the first offer

        async def offer(count: int) -> None:
            clock.advance(3600 * count)

        return World(lambda: reader, offer, None, ends=False)
