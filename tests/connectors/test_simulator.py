"""Simulated devices: signals, the recorded weather years, and a fleet on a real MQTT broker that obeys commands once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aiomqtt
import numpy as np
import pytest

from connectors import simulator
from connectors.base import Context, EndOfInput
from connectors.simulator.fleet import Device, Fleet, readings
from connectors.simulator.reader import SignalReader
from connectors.simulator.signal import LEVEL, NOISE, SWING, wave
from connectors.simulator.weather import UNITS, stations
from pipelines.clock import ManualClock
from pipelines.errors import PlanError
from tests.bed import beside, until
from tests.bed.mosquitto import Mosquitto
from tests.connectors.schemas import Motor, Vibration

ROOT = Path(__file__).parents[2]


def test_a_wave_is_the_same_again_and_another_for_another_device_column_or_seed() -> None:
    tick = np.arange(1000)
    device = np.zeros(1000, np.int32)
    values = wave("rms", device, tick, 0)
    assert (values == wave("rms", device, tick, 0)).all()
    assert abs(values.mean() - LEVEL) < 0.5
    assert np.abs(values - LEVEL).max() < SWING + NOISE
    for other in (wave("rms", device + 1, tick, 0), wave("amps", device, tick, 0), wave("rms", device, tick, 1)):
        assert (values != other).mean() > 0.99


async def test_a_simulated_source() -> None:
    clock = ManualClock(10**18)
    reader = SignalReader(
        simulator.source(Motor, devices=2, every="1s", speed=10, ticks=25), Context("s", "1", Path(), clock)
    )
    await reader.connect()
    rows: list[tuple[str, int]] = []
    while len(rows) < 50:
        got = await reader.read(rows_max=1000, linger_s=0.05)
        rows += list(zip(got.batch.keys, got.batch.time.tolist(), strict=True))
        dtypes = [c.dtype.name for c in got.batch.columns.values()]
        assert dtypes == ["float64", "float32", "int64", "bool", "float64"]
    with pytest.raises(EndOfInput):
        await reader.read(rows_max=1000, linger_s=0.05)
    assert rows == [(f"device-{d}", 10**18 + t * 10**9) for t in range(25) for d in (1, 2)]
    assert 2.3 < clock.monotonic_s() - 10**9 < 2.5  # 25 seconds at tenfold speed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": 0}, "each must be more than 0"),
        ({"speed": 0}, "more than 0"),
        ({"every": "often"}, "simulator every"),
    ],
)
def test_mistakes_in_the_description(options: dict[str, object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        simulator.source(Vibration, **options)  # type: ignore[arg-type]  # wrong values on purpose


def test_two_recorded_weather_years() -> None:
    sand_point, greensboro = stations()
    assert [sand_point.name, greensboro.name] == ["Sand Point", "Greensboro Piedmont Triad Int"]
    for station in (sand_point, greensboro):
        assert station.columns.keys() == UNITS.keys()
        assert station.time.shape == (8760,)
        assert (np.diff(station.time) == 3600 * 10**9).all()
        limits = {"ghi": (0, 1200), "temperature": (-30, 45), "wind": (0, 40), "pressure": (900, 1060)}
        for name, (low, high) in limits.items():
            assert low <= station.columns[name].min() <= station.columns[name].max() <= high
    assert (
        str(np.datetime64(int(sand_point.time[0]), "ns").astype("datetime64[s]")) == "2023-01-01T10:00:00"
    )  # 01:00 at UTC-9
    assert sand_point.columns["temperature"][0] == 4.0
    assert [c[0] for c in greensboro.columns.values()] == [0, 10.0, 6.2, 993.0]


def test_weather_does_not_import_pvlib() -> None:
    program = "import sys; from connectors.simulator.weather import stations; stations(); print('pvlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"


def test_columns_as_payloads() -> None:
    time = np.array([0, 10**9 // 2]) + np.datetime64("2026-01-01", "ns").astype(np.int64)
    assert list(readings(time, {"rms": np.array([1.5, 2.5]), "n": np.array([1, 2])})) == [
        (int(time[0]), b'{"time": "2026-01-01T00:00:00.000Z", "rms": 1.5, "n": 1}'),
        (int(time[1]), b'{"time": "2026-01-01T00:00:00.500Z", "rms": 2.5, "n": 2}'),
    ]


def command(**changes: object) -> bytes:
    return json.dumps(
        {"id": "c1", "verb": "set_speed", "args": {"speed": 0.5}, "expires_at_ns": 100} | changes
    ).encode()


def test_a_command_is_executed_once() -> None:
    done: list[object] = []

    def execute(verb: str, args: object) -> bool:
        done.append((verb, args))
        return True

    device = Device("a", "press/a/vib", execute=execute)
    answers = [json.loads(device.obey(command(), now_ns) or b"") for now_ns in (50, 60, 200)]
    assert [(a["id"], a["device"], a["state"], a["at_ns"]) for a in answers] == [
        ("c1", "a", "SUCCEEDED", t) for t in (50, 60, 200)
    ]
    assert done == [("set_speed", {"speed": 0.5})]
    assert device.executions == {"c1": 1}


def test_a_command_that_came_too_late_or_fails() -> None:
    device = Device("a", "press/a/vib", execute=lambda verb, args: False)
    states = [
        json.loads(device.obey(command(id=i, expires_at_ns=100), t) or b"")["state"]
        for i, t in (("1", 101), ("2", 100))
    ]
    assert states == ["EXPIRED", "FAILED"]
    assert device.executions == {"2": 1}


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"id": 1}', b"\xff", b'{"id": "1", "verb": "x", "expires_at_ns": "soon"}']
)
def test_what_is_no_command_is_left_alone(payload: bytes) -> None:
    device = Device("a", "press/a/vib")
    assert device.obey(payload, 0) is None
    assert not device.states


async def test_a_fleet_publishes_at_its_pace_and_obeys(mosquitto: Mosquitto, unique: str) -> None:
    times = np.arange(10) * 10**9 + 10**18
    devices = [
        Device(n, f"{unique}/{n}/vib", readings(times + i * 5 * 10**8, {"rms": times * 1.0}))
        for i, n in enumerate("ab")
    ]
    got: list[tuple[str, dict[str, object]]] = []
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe(f"{unique}/#", qos=1)

        async def listen() -> None:
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                got.append((message.topic.value.removeprefix(f"{unique}/"), json.loads(message.payload)))

        start = asyncio.get_running_loop().time()
        async with beside(listen()), Fleet(mosquitto.url, devices, speed=10) as fleet:
            await fleet.done()
            assert 0.94 < asyncio.get_running_loop().time() - start < 2
            for _ in range(2):
                await client.publish(f"{unique}/a/cmd", command(expires_at_ns=2**62), qos=1)
            await until(lambda: [t for t, _ in got].count("a/ack") == 2)
        assert [d.published for d in devices] == [10, 10]
        assert [d.executions for d in devices] == [{"c1": 1}, {}]
        topics = [t for t, _ in got]
        assert (topics.count("a/vib"), topics.count("b/vib")) == (10, 10)
        assert topics[:4] == ["a/vib", "b/vib", "a/vib", "b/vib"]


async def test_a_device_goes_on_after_its_broker_was_away(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path).start()
    times = np.arange(60) * 10**7
    device = Device("a", "press/a/vib", readings(times, {"rms": np.arange(60.0)}))
    try:
        async with Fleet(broker.url, [device]) as fleet:
            await until(lambda: device.published > 5)
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(10):
                await fleet.done()
    finally:
        broker.stop()
    assert device.published == 60


def test_the_command_line(mosquitto: Mosquitto, unique: str) -> None:
    words = f"-m connectors.simulator --broker {mosquitto.url} --topic {unique}/{{device}}/vib --devices 2 --ticks 5 --speed 0"
    ran = subprocess.run(
        [sys.executable, *words.split()], capture_output=True, text=True, check=True, cwd=ROOT, timeout=30
    )
    assert ran.stdout == "".join(f"device-{i}: 5 readings published, 0 commands executed\n" for i in (1, 2))
    wrong = subprocess.run(
        [sys.executable, *words.split(), "--every", "x"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert wrong.stderr.startswith("simulator: 'x' is not a duration")
