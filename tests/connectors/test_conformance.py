"""Every reader against the conformance suite, each with its real outside world."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import cbor2
import msgspec
import pytest
from aiohttp import web

from connectors import http, modbus, mqtt, opcua, replay, simulator
from connectors.base import Context, Reader
from connectors.http.listener import PushReader
from connectors.http.poller import PollReader
from connectors.modbus.reader import ModbusReader
from connectors.mqtt import link, wire
from connectors.mqtt.link import Account, Link
from connectors.mqtt.reader import MqttReader
from connectors.opcua.reader import OpcuaReader
from connectors.replay.reader import ReplayReader
from connectors.replay.watch import FolderReader
from connectors.simulator.reader import SignalReader
from containers.embedded import EmbeddedMqtt
from pipelines.clock import ManualClock, SystemClock
from pipelines.expr import Expr
from tests.bed.mosquitto import Mosquitto
from tests.bed.opcua import OpcuaServer
from tests.connectors import http_world
from tests.connectors.conformance import Conformance, World, read_all
from tests.connectors.modbus_plant import Unit, served
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


def file_world(folder: Path, write: Callable[[Path, list[str]], None], ending: str, *, watch: bool = False) -> World:
    """Each offer is one more file, of a recording or of a folder that is watched."""
    source = replay.source(Vibration, str(folder / f"*{ending}"), speed=0)
    watched = replay.folder(Vibration, str(folder), every="1ms", settle="0s")
    reader = FolderReader(watched, context()) if watch else ReplayReader(source, context())
    offered = files = 0

    def next_file() -> Path:
        nonlocal files
        files += 1
        return folder / f"{files:03}{ending}"

    async def offer(count: int) -> None:
        nonlocal offered
        path = next_file()
        write(path.with_suffix(".part"), [str(offered + i + 1) for i in range(count)])
        path.with_suffix(".part").rename(path)
        offered += count

    async def offer_bad() -> str:
        path = next_file()
        write(path, ["x"])
        return f"{path}:{2 if ending == '.csv' else 1}"

    return World(lambda: reader, offer, offer_bad, ends=not watch)


def write_csv(path: Path, values: list[str]) -> None:
    path.write_text("time,device,rms\n" + "".join(f"2026-01-01T00:00:00Z,a,{v}\n" for v in values))


class TestReplayOfCsv(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return file_world(tmp_path, write_csv, ".csv")


class TestFolder(Conformance):
    """Files that come one by one."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return file_world(tmp_path, write_csv, ".csv", watch=True)


class TestReplayOfJsonl(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        def write(path: Path, values: list[str]) -> None:
            lines = [
                f'{{"time": "2026-01-01T00:00:00Z", "device": "a", "rms": {v if v.isdigit() else f"{v!r}"}}}\n'
                for v in values
            ]
            path.write_text("".join(lines))

        return file_world(tmp_path, write, ".jsonl")


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


class TestOpcua(Conformance):
    """The reader has been there before: from then on the server keeps what changes."""

    @pytest.fixture
    async def world(self, opcua_server: OpcuaServer, unique: str) -> AsyncIterator[World]:
        good, bad = f"{unique}/a/RMS", f"{unique}/b/RMS"
        for path in (good, bad):
            opcua_server.variable(path)
        nodes: dict[Expr[Any], str | Mapping[str, str]] = {Vibration.rms: f"Objects/{unique}/{{device}}/RMS"}
        reader = OpcuaReader(
            opcua.source(Vibration, server=opcua_server.url, nodes=nodes, every="10ms", sampling="10ms"), context()
        )
        await reader.connect()
        assert await read_all(reader, 2) == [0, 0]
        await reader.close()
        offered = letters = 0

        async def offer(count: int) -> None:
            nonlocal offered
            for _ in range(count):
                offered += 1
                opcua_server.write(good, float(offered))

        async def offer_bad() -> str:
            """A reading of a device whose clock was never set."""
            nonlocal letters
            letters += 1
            opcua_server.write(bad, -float(letters), datetime(1970, 1, 2, tzinfo=UTC))
            return f"Objects/{bad}"

        yield World(lambda: reader, offer, offer_bad, ends=False)
        await reader.close()


class Ticks(ManualClock):
    """Whoever sleeps on it wakes once for each tick."""

    def __init__(self) -> None:
        super().__init__(10**18)
        self.ticks = asyncio.Semaphore(0)
        self.asleep = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if self.ticks.locked():
            self.asleep.set()
        await self.ticks.acquire()
        self.advance(seconds)

    def tick(self) -> None:
        self.asleep.clear()
        self.ticks.release()


class Calm(ModbusReader):
    """On close a poll that is under way is given up; here it may end, so that the suite can count."""

    async def close(self) -> None:
        if self._pollers._tasks:
            await self._clock.asleep.wait()
        await super().close()

    def __init__(self, source: modbus.ModbusSource[Vibration], clock: Ticks) -> None:
        super().__init__(source, context(clock))
        self._clock = clock


class TestModbus(Conformance):
    """One device that counts how often it was asked. It is asked once for each reading that is offered."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async def count(unit: Unit, function: int, address: int, registers: int) -> None:
            unit.words[7] += 1

        unit, clock = Unit(1, {7: 0}), Ticks()
        unit.act = count
        async with served(unit) as port:
            source = modbus.source(
                Vibration, devices={"a": f"modbus://127.0.0.1:{port}"}, registers={Vibration.rms: modbus.holding(7)}
            )
            reader = Calm(source, clock)

            async def offer(count: int) -> None:
                for _ in range(count):
                    clock.tick()

            yield World(lambda: reader, offer, None, ends=False)


class TestHttpPush(Conformance):
    """A gateway that posts each reading by itself, and again what was sent away."""

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        source = http_world.push_source(tmp_path)
        current: list[PushReader] = []

        def listening() -> PushReader | None:
            return current[0] if current and current[0].open else None

        def reader() -> Reader:
            current[:] = [PushReader(source, http_world.context(tmp_path))]
            return current[0]

        gateway = http_world.Gateway(f"http://{source.listen}", listening)
        posting = asyncio.create_task(gateway.run())
        offered = 0

        async def offer(count: int) -> None:
            nonlocal offered
            for _ in range(count):
                offered += 1
                await gateway.post("/r/a", as_json(offered))

        async def offer_bad() -> str:
            await gateway.post("/r/b", b"no")
            return "POST /r/b"

        yield World(reader, offer, offer_bad, ends=False)
        for one in current:
            await one.close()
        posting.cancel()


class CalmPoll(PollReader):
    """As `Calm`."""

    def __init__(self, source: http.PollSource[Vibration], folder: Path, clock: Ticks) -> None:
        super().__init__(source, http_world.context(folder, clock))
        self._ticks = clock

    async def close(self) -> None:
        if self._pollers._tasks:
            await self._ticks.asleep.wait()
        await super().close()


class TestHttpPoll(Conformance):
    """A server that counts how often it was asked, which it is once for each reading that is offered."""

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        clock, given = Ticks(), 0
        bad: set[int] = set()
        turn = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal turn, given
            turn += 1
            if turn in bad:
                return web.Response(body=b"no")
            given += 1
            return web.Response(body=as_json(given))

        async with http_world.served(answer) as url:
            source = http.poll(Vibration, url={"a": url}, every="1s", time=None)
            reader = CalmPoll(source, tmp_path, clock)
            offered = 0

            async def offer(count: int) -> None:
                nonlocal offered
                for _ in range(count):
                    offered += 1
                    clock.tick()

            async def offer_bad() -> str:
                bad.add(offered + 1)
                await offer(1)
                return f"GET {url}"

            yield World(lambda: reader, offer, offer_bad, ends=False)
            await reader.close()
