"""The Modbus reader against pymodbus servers: types, poll groups, refusals, silence, hanging devices, broken connections."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymodbus.framer import FramerType

from connectors import modbus
from connectors.base import QUALITY, Context, Read
from connectors.collector import Collector, Framer, Limits
from connectors.modbus import coil, discrete_input, holding, input_register, poll
from connectors.modbus.reader import ModbusReader
from connectors.outlet import Outlet, Record
from pipelines import metrics
from pipelines.batch import TIME_MIN
from pipelines.clock import SystemClock
from pipelines.errors import NotConnected
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import Col, Key, Quality, Schema
from pipelines.wire import decode
from tests.connectors.modbus_plant import Proxy, Unit, served, wired


class Press(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    temperature = Col[float]("°C")
    strokes = Col[int]()
    on = Col[bool]()
    quality = Quality()


class Level(Schema):
    device = Key[str]()
    level = Col[float]("m")
    total = Col[float]("m3", absent=-1.0)
    quality = Quality()


REGISTERS: Mapping[Any, modbus.Register] = {
    Press.rms: holding(100, "float32", word_order="little", scale=0.5, unit="mm/s"),
    Press.temperature: input_register(110, "int16", scale=0.1, offset=-5),
    Press.strokes: holding(104, "uint32"),
    Press.on: coil(3),
}


def words() -> dict[int, int]:
    high, low = struct.unpack(">HH", struct.pack(">f", 12.5))
    return {100: low, 101: high, 102: 0, 103: 0, 104: 1, 105: 2, **dict.fromkeys(range(106, 110), 0), 110: 2**16 - 10}


def unit(number: int = 1) -> Unit:
    return Unit(number, words(), {3: True, 8: False})


@asynccontextmanager
async def reading(source: modbus.ModbusSource[Any]) -> AsyncIterator[ModbusReader]:
    reader = ModbusReader(source, Context("s", "1", Path("/nowhere"), SystemClock()))
    try:
        await reader.connect()
        yield reader
    finally:
        await reader.close()


async def rows(
    reader: ModbusReader, enough: Callable[[list[dict[str, Any]]], bool], within_s: float = 8
) -> list[dict[str, Any]]:
    """Rows as dicts, until it is enough."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(within_s):
        while not enough(found):
            got = await reader.read(rows_max=100, linger_s=0.02)
            found += as_rows(got)
            await got.ack()
    return found


def as_rows(got: Read) -> list[dict[str, Any]]:
    columns = {name.rpartition(".")[2]: c.tolist() for name, c in got.batch.columns.items()}
    return [
        {"device": key, "time": time} | {name: values[i] for name, values in columns.items()}
        for i, (key, time) in enumerate(zip(got.batch.keys, got.batch.time.tolist(), strict=True))
    ]


def of(found: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    return [r for r in found if r["device"] == device]


def errors(stream: str, reason: str) -> float:
    return metrics.source_errors.labels("s", stream, reason)._value.get()  # type: ignore[no-any-return]  # untyped


async def test_types_and_only_requests_that_read() -> None:
    """Two units behind one gateway share a connection; what passes on it are functions 1 to 4."""
    one, two = unit(1), unit(2)
    two.bits[3] = False
    async with served(one, two) as port, Proxy.before(port) as proxy:
        devices = {f"press-{n}": f"modbus://127.0.0.1:{proxy.port}?unit={n}" for n in (1, 2)}
        source = modbus.source(Press, devices=devices, registers=REGISTERS, every="50ms", stream="types")
        before = SystemClock().now_ns()
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(of(r, "press-1")) >= 3 and len(of(r, "press-2")) >= 3)
        for device, on in (("press-1", True), ("press-2", False)):
            for r in of(found, device):
                assert (r["rms"], r["strokes"], r["on"], r["quality"]) == (6.25, 65538, on, GOOD)
                assert r["temperature"] == pytest.approx(-6)
            times = [r["time"] for r in of(found, device)]
            assert before < times[0]
            assert times == sorted(set(times))
            assert times[-1] < SystemClock().now_ns()
        assert proxy.connections == 1
        assert {(u, f) for u, f, _, _ in proxy.requests} == {(u, f) for u in (1, 2) for f in (1, 3, 4)}
        assert {r[1:] for r in proxy.requests} == {(1, 3, 1), (3, 100, 6), (4, 110, 1)}  # one read for 100 to 105


async def test_rtu_over_tcp_and_discrete_inputs() -> None:
    class Door(Schema):
        device = Key[str]()
        shut = Col[bool]()
        name = Col[str]()
        bits = Col[bool]()

    device = Unit(9, {0: 0x4142, 1: 0x4300, 2: 0b100}, {5: True})
    async with served(device, framer=FramerType.RTU) as port:
        source = modbus.source(
            Door,
            devices={"d": f"modbus+rtu://127.0.0.1:{port}?unit=9"},
            registers={
                Door.shut: discrete_input(5),
                Door.name: holding(0, "string", length=2),
                Door.bits: holding(2, bit=2),
            },
            every="50ms",
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(r) >= 3)
        for r in found:
            assert (r["shut"], r["name"], r["bits"], r[QUALITY]) == (True, "ABC", True, GOOD)
    assert {f for f, _, _ in device.asked} == {2, 3}


async def test_a_serial_line() -> None:
    """One of its units answers too late: nobody takes its answers for another's."""
    one, two, late = unit(7), unit(8), Unit(9, dict.fromkeys(words(), 77), {3: False})

    async def wait(u: Unit, function: int, address: int, count: int) -> None:
        await asyncio.sleep(0.33)

    late.act = wait
    async with wired(one, two, late) as path:
        address = f"modbus+serial://{path}?baud=19200&parity=N"
        devices = {"a": f"{address}&unit=7", "b": f"{address}&unit=8", "late": f"{address}&unit=9"}
        source = modbus.source(
            Press, devices=devices, registers=REGISTERS, every="100ms", timeout="300ms", stream="serial"
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: all(len(of(r, d)) >= n for d, n in (("a", 4), ("b", 4), ("late", 2))))
    assert {(r["rms"], r["strokes"], r["quality"]) for d in "ab" for r in of(found, d)} == {(6.25, 65538, GOOD)}
    assert {r["quality"] for r in of(found, "late")} == {BAD}


async def test_a_refusal_is_said_once_and_costs_one_column(caplog: pytest.LogCaptureFixture) -> None:
    """Registers 0 to 3 and 6 are there, 4 and 5 are not: the merged request is refused, and cut."""
    device = Unit(1, {0: 5, 1: 6, 2: 7, 3: 0, 6: 9})
    registers = {Level.level: holding(0), Level.total: holding(6)}
    async with served(device) as port, Proxy.before(port) as proxy:
        devices = {"t": f"modbus://127.0.0.1:{proxy.port}"}
        source = modbus.source(Level, devices=devices, registers=registers, every="50ms", stream="gaps")
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(r) >= 5)
        assert {(r["level"], r["total"], r["quality"]) for r in found} == {(5, 9, GOOD)}
        assert [(start, count) for _, _, start, count in proxy.requests[:3]] == [(0, 7), (0, 1), (6, 1)]
        assert {r[2:] for r in proxy.requests[3:]} == {(0, 1), (6, 1)}  # it is remembered
        registers = {Level.level: holding(4), Level.total: holding(0)}
        absent = modbus.source(Level, devices=devices, registers=registers, every="50ms", stream="absent")
        proxy.requests.clear()
        async with reading(absent) as reader:
            found = await rows(reader, lambda r: len(r) >= 5)
        assert {r["quality"] for r in found} == {UNCERTAIN}
        assert {r["total"] for r in found} == {5}
        assert all(np.isnan(r["level"]) for r in found)
        assert [r[2:] for r in proxy.requests].count((4, 1)) == 1
    said = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert len(said) == 1
    assert "absent: t refuses holding 4 uint16, which is Level.level: exception 2 (illegal_address): correct" in said[0]
    assert errors("absent", "illegal_address") == 1


@pytest.mark.parametrize(("code", "reason"), [(4, "device_failure"), (6, "busy"), (11, "gateway_target")])
async def test_exceptions_are_bad_readings(code: int, reason: str) -> None:
    device = unit()

    async def act(u: Unit, function: int, address: int, count: int) -> int | None:
        return code if len(u.asked) <= (2 if code == 11 else 6) else None

    device.act = act
    async with served(device) as port:
        source = modbus.source(
            Press, devices={"a": f"modbus://127.0.0.1:{port}"}, registers=REGISTERS, every="50ms", stream=reason
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: bool(r) and r[-1]["quality"] == GOOD)
    assert [r["quality"] for r in found][:2] == [BAD, BAD]
    assert found[-1]["strokes"] == 65538
    assert errors(reason, reason) >= 2


async def test_a_device_that_hangs_delays_nobody_else() -> None:
    """On a connection of its own not at all; behind the same gateway it is asked less and less often."""
    hangs, beside, alone = unit(1), unit(2), unit(3)

    async def never(u: Unit, function: int, address: int, count: int) -> None:
        await asyncio.sleep(0.6)

    hangs.act = never
    async with served(hangs, beside) as gateway, served(alone) as port:
        devices = {
            "hangs": f"modbus://127.0.0.1:{gateway}?unit=1",
            "beside": f"modbus://127.0.0.1:{gateway}?unit=2",
            "alone": f"modbus://127.0.0.1:{port}?unit=3",
        }
        source = modbus.source(
            Press,
            devices=devices,
            registers=REGISTERS,
            every="100ms",
            timeout="2s",
            timeouts={"hangs": "200ms"},
            stream="hang",
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(of(r, "alone")) >= 30)
    assert {r["quality"] for r in of(found, "alone")} == {GOOD}
    assert {r["quality"] for r in of(found, "hangs")} == {BAD}
    assert np.diff([r["time"] for r in of(found, "alone")]).max() < 0.35e9
    assert 2 <= len(of(found, "hangs")) <= 6
    assert sum(r["quality"] == GOOD for r in of(found, "beside")) >= 3


async def test_an_answer_that_comes_too_late_is_no_answer_to_the_next() -> None:
    """Every answer comes after the next question was asked: not one is taken for it."""
    device = Unit(1, {0: 0})
    asked: list[int] = []  # when, of the answer with the value n at n - 1

    async def count(u: Unit, function: int, address: int, n: int) -> None:
        u.words[0] += 1
        asked.append(SystemClock().now_ns())

    device.act = count
    async with served(device) as port, Proxy.before(port) as proxy:
        source = modbus.source(
            Level, devices={"t": f"modbus://127.0.0.1:{proxy.port}"}, every="50ms", timeout="80ms", stream="late",
            registers={Level.level: holding(0), Level.total: holding(0)},
        )  # fmt: skip
        async with reading(source) as reader:
            await rows(reader, lambda r: len(r) >= 2)
            proxy.delay_s = 0.12
            found = await rows(reader, lambda r: sum(x["quality"] == BAD for x in r) >= 2)
            proxy.delay_s = 0.0
            found += await rows(reader, lambda r: sum(x["quality"] == GOOD for x in r) >= 3)
    for r in found:
        if r["quality"] == GOOD:  # one of the request before would be older than the timeout
            assert abs(r["time"] - asked[int(r["level"]) - 1]) < 0.07e9


async def test_connections_are_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with served(unit()) as port, served(unit()) as other, Proxy.before(port) as proxy:
        devices = {"a": f"modbus://127.0.0.1:{proxy.port}", "b": f"modbus://127.0.0.1:{other}"}
        source = modbus.source(Press, devices=devices, registers=REGISTERS, every="50ms", stream="anew")
        async with reading(source) as reader:
            await rows(reader, lambda r: len(of(r, "a")) >= 2)
            proxy.cut()
            found = await rows(reader, lambda r: bool(of(r, "a")) and of(r, "a")[-1]["quality"] == GOOD)
    assert BAD in [r["quality"] for r in of(found, "a")] or proxy.connections == 2
    assert {r["quality"] for r in of(found, "b")} == {GOOD}
    assert proxy.connections == 2


async def test_nobody_is_there() -> None:
    async with served(unit()) as port:
        pass
    source = modbus.source(Press, devices={"a": f"modbus://127.0.0.1:{port}"}, registers=REGISTERS, stream="nobody")
    with pytest.raises(
        NotConnected, match=rf"none of 1 Modbus connections is up: Modbus at 127.0.0.1:{port} cannot be reached"
    ):
        async with reading(source):
            pass
    gone = modbus.source(
        Press, devices={"a": "modbus+serial:///dev/ttyNONE?unit=1"}, registers=REGISTERS, stream="gone"
    )
    with pytest.raises(NotConnected, match="/dev/ttyNONE cannot be reached"):
        async with reading(gone):
            pass


async def test_columns_that_are_asked_for_less_often_have_their_last_value() -> None:
    device = Unit(1, {0: 0, 50: 0})

    async def count(u: Unit, function: int, address: int, n: int) -> int | None:
        u.words[address] += 1
        return 4 if address == 50 and u.words[50] > 2 else None

    device.act = count
    async with served(device) as port:
        source = modbus.source(
            Level,
            devices={"t": f"modbus://127.0.0.1:{port}"},
            registers=[
                poll("400ms", {Level.total: holding(50)}),
                poll("50ms", {Level.level: holding(0)}, offset="10ms"),
            ],
            stream="groups",
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: bool(r) and r[-1]["quality"] == UNCERTAIN)
    assert [r["level"] for r in found] == list(range(1, len(found) + 1))
    totals = [r["total"] for r in found]
    assert totals == [*sorted(totals[:-1]), -1.0]  # 1 at once, 2 after 400 ms, and too old 800 ms after that
    assert set(totals) == {1.0, 2.0, -1.0}
    assert 10 <= len(found) <= 30
    assert {r["quality"] for r in found[:-1]} == {GOOD}


async def test_polls_that_are_late_are_left_out_and_counted() -> None:
    device = unit()

    async def slow(u: Unit, function: int, address: int, count: int) -> None:
        await asyncio.sleep(0.05)

    device.act = slow
    async with served(device) as port:
        source = modbus.source(
            Press, devices={"a": f"modbus://127.0.0.1:{port}"}, registers=REGISTERS, every="20ms", stream="slow"
        )
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(r) >= 4)
    assert {r["quality"] for r in found} == {GOOD}
    assert metrics.collect_missed.labels("s", "slow")._value.get() >= 3 * 6


async def test_polling_goes_on_while_nobody_reads() -> None:
    """As while Kafka is away: nothing is lost, and what came first is given first."""
    device = Unit(1, {0: 0})

    async def count(u: Unit, function: int, address: int, n: int) -> None:
        u.words[0] += 1

    device.act = count
    async with served(device) as port:
        source = modbus.source(
            Level, devices={"t": f"modbus://127.0.0.1:{port}"}, every="20ms", stream="away",
            registers={Level.level: holding(0), Level.total: holding(0)},
        )  # fmt: skip
        async with reading(source) as reader:
            await asyncio.sleep(0.5)
            here = device.words[0]
            found = as_rows(await reader.read(rows_max=1000, linger_s=0))
            assert len(found) >= here - 1 >= 8
            assert [r["level"] for r in found] == list(range(1, len(found) + 1))


async def test_without_a_quality_column_a_row_that_lacks_a_value_is_bad() -> None:
    class Two(Schema):
        device = Key[str]()
        a = Col[float]()
        b = Col[float]()

    device = Unit(1, {0: 5})

    async def busy(u: Unit, function: int, address: int, count: int) -> int | None:
        return 6 if function == 4 else None

    device.act = busy
    async with served(device) as port:
        source = modbus.source(
            Two, devices={"t": f"modbus://127.0.0.1:{port}"}, every="50ms", stream="two",
            registers={Two.a: holding(0), Two.b: input_register(0)},
        )  # fmt: skip
        async with reading(source) as reader:
            found = await rows(reader, lambda r: len(r) >= 2)
    assert {(r["a"], r[QUALITY]) for r in found} == {(5, BAD)}


class Away(Outlet):
    """Kafka that takes nothing for a while, once."""

    def __init__(self, stop: asyncio.Event, away_s: float) -> None:
        super().__init__("nowhere:1", stop)
        self.away_s, self.taken, self.took = away_s, list[Record](), asyncio.Event()

    async def resume(self, topic: str, partitions: int, source: str) -> int:
        return TIME_MIN

    async def send(self, records: Sequence[Record]) -> None:
        wait_s, self.away_s = self.away_s, 0.0
        await asyncio.sleep(wait_s)
        self.taken += records
        self.took.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what was taken."""
        while not holds():
            self.took.clear()
            await self.took.wait()


async def test_through_the_collector_while_kafka_is_away_and_the_device_restarts() -> None:
    """Each row is in a frame, in order, those without an answer as bad ones without values."""
    device = Unit(1, {0: 0})

    async def count(u: Unit, function: int, address: int, n: int) -> None:
        u.words[0] += 1

    device.act = count
    stop = asyncio.Event()
    kafka = Away(stop, 0.4)
    row = Level.measured()

    def found() -> list[dict[str, Any]]:
        batches = [decode(r.value, row) for r in kafka.taken]
        return [x for b in batches for x in as_rows(Read(b, (), unread))]

    async def unread() -> None: ...

    async with served(device) as port, Proxy.before(port) as proxy:
        source = modbus.source(
            Level, devices={"t": f"modbus://127.0.0.1:{proxy.port}"}, every="20ms", stream="whole", timeout="200ms",
            registers={Level.level: holding(0), Level.total: holding(0)},
        )  # fmt: skip
        reader = ModbusReader(source, Context("s", "1", Path("/nowhere"), SystemClock()))
        collector = Collector(
            source, reader, kafka, Framer("s", "whole", "1", row, 1, 1.0), "s", SystemClock(), Limits(linger_s=0.02)
        )
        running = asyncio.create_task(collector.run(stop))
        async with asyncio.timeout(10):
            await kafka.until(lambda: len(found()) >= 10)
            proxy.cut()
            await kafka.until(lambda: found()[-1]["quality"] == BAD or proxy.connections > 1)
            seen = len(found())
            await kafka.until(lambda: len(found()) >= seen + 5)
            stop.set()
            await running
    good = [r["level"] for r in found() if r["quality"] == GOOD]
    bad = [r for r in found() if r["quality"] == BAD]
    assert good[:10] == list(range(1, 11))
    assert good == sorted(set(good))
    assert len(set(range(1, int(good[-1]) + 1)) - set(good)) <= 1  # one may have been on its way when the link was cut
    assert all(np.isnan(r["level"]) for r in bad)
    times = [r["time"] for r in found()]
    assert times == sorted(times)


async def garbage(data: bytes, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.read(100):
                writer.write(data or request)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = modbus.source(
        Press,
        devices={"a": f"{kind}://127.0.0.1:{port}?unit=1"},
        registers=REGISTERS,
        every="20ms",
        timeout="50ms",
        stream="noise",
    )
    reader = ModbusReader(source, Context("s", "1", Path("/nowhere"), SystemClock()))
    found: list[dict[str, Any]] = []
    for _ in range(10):
        try:
            await reader.connect()
            found += await rows(reader, bool, within_s=3)
        except NotConnected:
            pass
        await reader.close()
        if found:
            break
    assert {r["quality"] for r in found} == {BAD}
    server.close()
    await server.wait_closed()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["modbus", "modbus+rtu"])
@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(300), b"\xff" * 300, b"\1\x83\2\xc0\xf1"]
)
async def test_garbage_is_a_bad_reading(data: bytes, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    await garbage(data, kind, caplog)
