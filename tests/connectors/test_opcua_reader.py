"""The OPC UA reader against a real server: what is found, what comes, and what happens when things break."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import pytest
from asyncua import Client, ua

from connectors import opcua
from connectors.base import QUALITY, Context, quality_column
from connectors.opcua import browse, guard, link, wire
from connectors.opcua.reader import OpcuaReader
from connectors.secrets import secret
from pipelines import Arrival, Col, Key, Quality, Schema, metrics
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, LimitExceeded, NotConnected
from pipelines.expr import Expr
from pipelines.quality import BAD, GOOD, UNCERTAIN
from tests.bed.opcua import PASSWORD, USERNAME, OpcuaServer, Papers, papers
from tests.bed.opcua_proxy import Proxy
from tests.connectors.schemas import Vibration

V = ua.VariantType
LOOKS = {"Hello", *guard.ALLOWED.values()}


class Press(Schema):
    device = Key[str]()
    rms = Col[float]("mm/s")
    temp = Col[float]("degC")
    starts = Col[int](absent=0)
    mode = Col[str](absent="")
    quality = Quality()
    came = Arrival()


class Got:
    """Everything that a reader gave, acknowledged."""

    def __init__(self, reader: OpcuaReader, schema: type[Schema]) -> None:
        self._reader, self._schema = reader, schema
        self.rows: list[tuple[Any, ...]] = []  # device, values …, quality
        self.times: list[int] = []

    async def until(self, done: Callable[[list[tuple[Any, ...]]], bool], seconds: float = 8) -> list[tuple[Any, ...]]:
        """Read until the rows are as wanted."""
        end = monotonic() + seconds
        while not done(self.rows):
            assert monotonic() < end, self.rows
            await self.more()
        return self.rows

    async def more(self) -> None:
        got = await self._reader.read(rows_max=1_000, linger_s=0.02)
        batch = got.batch
        columns = [batch.columns[f.qualified].tolist() for f in self._schema.sent().fields]
        self.rows += zip(batch.keys, *columns, batch.columns[quality_column(self._schema)].tolist(), strict=True)
        self.times += batch.time.tolist()
        await got.ack()


Nodes = dict[Expr[Any], str | Mapping[str, str]]


def source(url: str, schema: type[Schema], nodes: Nodes, **options: Any) -> opcua.OpcuaSource[Any]:
    return opcua.source(schema, server=url, nodes=nodes, **{"every": "20ms", "sampling": "20ms"} | options)


def reader_of(described: opcua.OpcuaSource[Any], secrets: Path = Path("/nowhere")) -> OpcuaReader:
    return OpcuaReader(described, Context("s", "1", secrets, SystemClock()))


@asynccontextmanager
async def reading(
    url: str, schema: type[Schema], nodes: Nodes, **options: Any
) -> AsyncIterator[tuple[OpcuaReader, Got]]:
    reader = reader_of(source(url, schema, nodes, **options))
    await reader.connect()
    try:
        yield reader, Got(reader, schema)
    finally:
        await reader.close()


def rms(folder: str) -> Nodes:
    return {Vibration.rms: f"Objects/{folder}/{{device}}/RMS"}


def values(rows: list[tuple[Any, ...]]) -> list[float]:
    return [row[1] for row in rows]


# what is found, and what comes


async def test_devices_are_levels_of_the_path_and_rows_are_joined(opcua_server: OpcuaServer, unique: str) -> None:
    when = datetime.now(UTC) - timedelta(seconds=10)
    for device, hall in (("p1", "north"), ("p2", "south")):
        for n, path in enumerate(("Vibration/RMS", "Temp")):
            opcua_server.write(f"{unique}/{hall}/{device}/{path}", 1.0 + n, when)
    opcua_server.variable(f"{unique}/north/p1/Starts", 7, V.Int64)
    opcua_server.variable(f"{unique}/north/p1/Mode", "run", V.String)
    opcua_server.variable(f"{unique}/north/Vibration/RMS")  # not that deep
    base = f"Objects/2:{unique}/*/{{device}}"
    nodes: Nodes = {Press.rms: f"{base}/Vibration/RMS", Press.temp: f"{base}/2:Temp"}
    nodes |= {Press.starts: f"{base}/Starts", Press.mode: f"{base}/Mode"}
    async with reading(opcua_server.url, Press, nodes) as (reader, got):
        await got.until(lambda rows: len(rows) >= 2)
        assert sorted(got.rows) == [("p1", 1.0, 2.0, 7, "run", GOOD), ("p2", 1.0, 2.0, 0, "", GOOD)]
        later = when + timedelta(seconds=1)
        await asyncio.to_thread(opcua_server.write, f"{unique}/north/p1/Vibration/RMS", 3.0, later)
        await got.until(lambda rows: len(rows) >= 3)
        assert got.rows[-1] == ("p1", 3.0, 2.0, 7, "run", GOOD)
        assert got.times[-1] == int(later.timestamp() * 1e6) * 1000
        assert reader._subscription is not None
        assert len(reader._subscription.items) == 6


async def test_nodes_by_id_and_by_path_device_by_device(opcua_server: OpcuaServer, unique: str) -> None:
    node = opcua_server.variable(f"{unique}/x/RMS", 4.0)
    opcua_server.variable(f"{unique}/y/RMS", 5.0)
    nodes: dict[str, str] = {"one": node.nodeid.to_string(), "two": f"Objects/{unique}/y/RMS", "three": "ns=2;i=999999"}
    async with reading(opcua_server.url, Vibration, {Vibration.rms: nodes}) as (_, got):
        await got.until(lambda rows: len(rows) >= 2)
        assert sorted(got.rows) == [("one", 4.0, GOOD), ("two", 5.0, GOOD)]


async def test_quality_times_and_types(
    opcua_server: OpcuaServer, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{unique}/a/RMS"
    opcua_server.variable(path, 1.0)
    opcua_server.variable(f"{unique}/a/Temp", 20.0)
    nodes: Nodes = {Press.rms: f"Objects/{unique}/{{device}}/RMS", Press.temp: f"Objects/{unique}/{{device}}/Temp"}
    labels = {"site": "s", "stream": unique, "reason": "type"}
    async with reading(opcua_server.url, Press, nodes, stream=unique) as (_, got):
        await got.until(lambda rows: len(rows) >= 1)

        async def write(value: Any, **how: Any) -> tuple[Any, ...]:
            count = len(got.rows)
            await asyncio.to_thread(opcua_server.write, path, value, **how)
            return (await got.until(lambda rows: len(rows) > count))[-1]

        assert (await write(2.0, status=0x40000000))[1:3] + got.rows[-1][-1:] == (2.0, 20.0, UNCERTAIN)
        bad = await write(3.0, status=0x80310000)
        assert np.isnan(bad[1])
        assert bad[-1] == BAD
        assert (await write(4, kind=V.Int16))[1:] == (4.0, 20.0, 0, "", GOOD)
        wrong = await write("four", kind=V.String)
        assert np.isnan(wrong[1])
        assert wrong[-1] == BAD
        assert metrics.source_errors.labels(**labels)._value.get() == 1
        assert f"Objects/{unique}/a/RMS: rms is 'four' (String): a number is needed" in caplog.text
        assert (await write([1.0, 2.0]))[-1] == BAD
        server_time = datetime.now(UTC) - timedelta(seconds=5)
        await write(5.0, stamped=False, server_time=server_time)
        assert got.times[-1] == int(server_time.timestamp() * 1e6) * 1000
        before = SystemClock().now_ns()
        await write(6.0, stamped=False)
        assert before <= got.times[-1] <= SystemClock().now_ns()


async def test_bursts_between_publishes_are_whole_and_what_the_queue_drops_is_told(
    opcua_server: OpcuaServer, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{unique}/a/RMS"
    opcua_server.variable(path)
    async with reading(opcua_server.url, Vibration, rms(unique), every="300ms", stream=unique) as (_, got):
        await got.until(lambda rows: len(rows) == 1)

        async def burst() -> None:
            for n in range(1, 81):
                await opcua_server.writing(path, float(n))
            await opcua_server.writing(
                path, 81.0, status=0x480
            )  # as a server marks what comes after it had to drop some

        await asyncio.to_thread(opcua_server.do, burst())
        await got.until(lambda rows: len(rows) >= 82)
        assert values(got.rows) == [float(n) for n in range(82)]
    dropped = metrics.collect_dropped.labels(site="s", stream=unique, reason="overflow")
    assert dropped._value.get() == 1
    assert "the server's queues were too short: raise queue=" in caplog.text


async def test_the_servers_queue_is_as_long_as_asked_for(opcua_server: OpcuaServer, unique: str) -> None:
    path = f"{unique}/a/RMS"
    opcua_server.variable(path)
    async with reading(opcua_server.url, Vibration, rms(unique), every="300ms", queue=3) as (_, got):
        await got.until(lambda rows: len(rows) == 1)

        async def burst() -> None:
            for n in range(1, 11):
                await opcua_server.writing(path, float(n))

        await asyncio.to_thread(opcua_server.do, burst())
        await got.until(lambda rows: len(rows) >= 4)
        assert values(got.rows) == [0, 8, 9, 10]


async def test_a_dead_band_and_repeats_are_the_servers(opcua_server: OpcuaServer, unique: str) -> None:
    for device in ("a", "b", "c"):
        opcua_server.variable(f"{unique}/{device}/RMS")

    async def change() -> None:
        for value in (0.3, 0.3, 0.4, 5.0):
            for device in ("a", "b", "c"):
                await opcua_server.writing(f"{unique}/{device}/RMS", value)

    async with (
        reading(
            opcua_server.url,
            Vibration,
            {Vibration.rms: f"Objects/{unique}/{{device}}/RMS"},
            deadband={Vibration.rms: 1},
        ) as (_, few),
        reading(opcua_server.url, Vibration, rms(unique)) as (_, some),
        reading(opcua_server.url, Vibration, rms(unique), repeats=True) as (_, all_),
    ):
        for got in (few, some, all_):
            await got.until(lambda rows: len(rows) == 3)
        await asyncio.to_thread(opcua_server.do, change())
        for got, expected in ((few, [0, 5]), (some, [0, 0.3, 0.4, 5]), (all_, [0, 0.3, 0.3, 0.4, 5])):
            count = 3 * len(expected)
            await got.until(lambda rows, count=count: len(rows) >= count)  # type: ignore[misc]
            assert values([r for r in got.rows if r[0] == "b"]) == expected


async def test_a_server_without_dead_bands(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opcua_server.variable(f"{unique}/a/RMS")
    service = opcua_server.server.iserver.subscription_service
    create = service.create_monitored_items

    async def refuse(params: Any) -> Any:
        if any(item.RequestedParameters.Filter for item in params.ItemsToCreate):
            status = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadMonitoredItemFilterUnsupported))
            return [ua.MonitoredItemCreateResult(status) for _ in params.ItemsToCreate]
        return await create(params)

    monkeypatch.setattr(service, "create_monitored_items", refuse)
    async with reading(opcua_server.url, Vibration, rms(unique), deadband={Vibration.rms: "2%"}) as (_, got):
        await got.until(lambda rows: len(rows) == 1)
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 0.001)
        await got.until(lambda rows: len(rows) == 2)
    assert "the server has no dead-band for 1 nodes, such as Objects/" in caplog.text


async def test_new_nodes_are_found_and_gone_ones_let_go(
    opcua_server: OpcuaServer, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with reading(opcua_server.url, Vibration, rms(unique), rebrowse="100ms") as (reader, got):
        assert "no node of opc.tcp" in caplog.text
        assert "are the paths right?" in caplog.text
        opcua_server.variable(f"{unique}/a/RMS", 1.0)
        await got.until(lambda rows: values(rows) == [1])
        opcua_server.variable(f"{unique}/b/RMS", 2.0)
        await got.until(lambda rows: values(rows) == [1, 2])
        assert "2 nodes of 2 devices (1 new, 0 gone)" in caplog.text
        opcua_server.remove(f"{unique}/a/RMS")
        assert reader._subscription is not None
        while len(reader._subscription.items) > 1:
            await got.more()
        await asyncio.to_thread(opcua_server.write, f"{unique}/b/RMS", 3.0)
        await got.until(lambda rows: values(rows)[-1] == 3)


async def test_requests_are_as_large_as_the_server_takes(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(7):
        opcua_server.variable(f"{unique}/d{n}/RMS", float(n))

    async def small(channel: Any) -> browse.Limits:
        return browse.Limits(2, 2, 2)

    monkeypatch.setattr(browse.Limits, "of", small)
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (_, got):
        await got.until(lambda rows: len(rows) == 7)
        assert sorted(values(got.rows)) == list(range(7))
        assert proxy.requests.count("CreateMonitoredItems") == 4


async def test_two_nodes_for_a_column_of_a_device(
    opcua_server: OpcuaServer, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    for hall in ("north", "south"):
        opcua_server.variable(f"{unique}/{hall}/a/RMS", 1.0)
    nodes: Nodes = {Vibration.rms: f"Objects/{unique}/*/{{device}}/RMS"}
    async with reading(opcua_server.url, Vibration, nodes) as (_, got):
        await got.until(lambda rows: values(rows) == [1])
    assert f"1 nodes are left out, such as Objects/{unique}/south/a/RMS: device a has another for rms" in caplog.text


async def test_what_takes_several_messages_is_one_cycle(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncua sends all at once, so here it only says that there is more. What waits for that is kept if the line breaks."""
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    decode = wire.published
    more = True
    monkeypatch.setattr(wire, "published", lambda body: replace(decode(body), more=more))
    async with reading(opcua_server.url, Vibration, rms(unique)) as (reader, got):
        for value in (2.0, 3.0):
            await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", value)
            await asyncio.sleep(0.1)
            await got.more()
        assert got.rows == []
        await reader.close()
        more = False
        await reader.connect()
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 4.0)
        await got.until(lambda rows: values(rows) == [1, 2, 3, 4])


async def test_a_bug_is_told_and_closing_still_works(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with reading(opcua_server.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        monkeypatch.setattr(reader._joiner, "join", lambda *_: 1 / 0)
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
        with pytest.raises(ZeroDivisionError):
            await got.until(lambda rows: False)


async def test_keys_are_renewed_while_values_come(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    monkeypatch.setattr("connectors.opcua.channel.LIFETIME_S", 2.0)
    opcua_server.variable(f"{unique}/a/RMS")
    reader = reader_of(source(opcua_server.url, Vibration, rms(unique), **SAFE), secrets)
    await reader.connect()
    assert reader._link is not None
    got, sent = Got(reader, Vibration), 0
    tokens: set[int] = set()
    while len(tokens) < 3:
        sent += 1
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", float(sent))
        await got.until(lambda rows, sent=sent: values(rows)[-1:] == [sent])  # type: ignore[misc]
        tokens.add(reader._link._channel._protocol._connection.security_token.TokenId)
    assert values(got.rows) == list(range(sent + 1))
    await reader.close()


# when things break


async def test_what_a_broken_line_held_back_comes_after_it_and_only_once(
    opcua_server: OpcuaServer, unique: str
) -> None:
    path = f"{unique}/a/RMS"
    opcua_server.variable(path)
    sent = 0
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (reader, got):
        for _ in range(3):
            for at in ("before", "while"):
                if at == "while":
                    await proxy.cut()
                for _ in range(20):
                    sent += 1
                    await asyncio.to_thread(opcua_server.write, path, float(sent))
            with pytest.raises(NotConnected, match="closed the connection"):
                await got.until(lambda rows: False)
            await reader.close()
            proxy.mend()
            await reader.connect()
        await got.until(lambda rows: len(rows) > sent)
        assert values(got.rows) == list(range(sent + 1))
        assert set(proxy.requests) <= LOOKS, "only what looks"
        assert {"Browse", "CreateMonitoredItems", "Publish", "Republish", "ActivateSession"} <= set(proxy.requests)
        assert proxy.requests.count("CreateSession") == 1, "the session was taken up again"


async def test_a_server_that_has_forgotten_us(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say so: it only no longer tells anything, unless it is asked at the wrong moment."""
    monkeypatch.setattr(link, "LATE_S_MAX", 0.2)
    monkeypatch.setattr(link, "KEEP_ALIVE_S", 0.1)
    path = f"{unique}/a/RMS"
    opcua_server.variable(path)
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [0])
        opcua_server.forget()
        await asyncio.to_thread(opcua_server.write, path, 1.0)
        with pytest.raises(NotConnected, match=r"has been silent for|BadSessionNotActivated"):
            await got.until(lambda rows: len(rows) > 1)
        await reader.close()
        await reader.connect()
        await got.until(lambda rows: len(rows) > 1)
        await asyncio.to_thread(opcua_server.write, path, 2.0)
        await got.until(lambda rows: len(rows) > 2)
        assert values(got.rows) == [0, 1, 2], "the value that is there is read, what was known is not repeated"
        assert set(proxy.requests) <= LOOKS
        assert proxy.requests.count("CreateSubscription") == 2


async def test_a_server_that_restarts(opcua_server: OpcuaServer, unique: str) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with reading(opcua_server.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        await asyncio.to_thread(opcua_server.restart)
        with pytest.raises(NotConnected):
            await got.until(lambda rows: len(rows) > 1)
        await reader.close()
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
        await reader.connect()
        await got.until(lambda rows: values(rows) == [1, 2])


async def test_a_session_that_ends_while_the_subscription_lives_is_replaced_and_the_subscription_transferred(
    opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncua hands over what it transfers only in part, so this asks only that we ask for it, and go on."""
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        await reader.close()
        iserver = opcua_server.server.iserver
        known = reader._subscription
        assert known is not None

        async def end() -> None:
            await iserver._external_sessions[known.session.token].close_session(False)

        opcua_server.do(end())
        await reader.connect()
        assert proxy.requests.count("TransferSubscriptions") == 1
        assert set(proxy.requests) <= LOOKS
        assert reader._subscription is known


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(range(256)) * 4,
        b"MSGF\xff\xff\xff\x7f" + b"x" * 300_000,
        b"ERRF\x10\0\0\0\0\0\x80\x80\0\0\0\0",
    ],
)
async def test_garbage_on_the_line_breaks_the_link_and_nothing_else(
    opcua_server: OpcuaServer, unique: str, data: bytes
) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        proxy.inject(data)
        with pytest.raises(NotConnected, match="closed the connection"):
            await got.until(lambda rows: len(rows) > 1)
        await reader.close()
        await reader.connect()
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
        await got.until(lambda rows: values(rows) == [1, 2])


async def test_a_publish_that_is_none(opcua_server: OpcuaServer, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    decode = wire.published
    async with reading(opcua_server.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        monkeypatch.setattr(wire, "published", lambda body: decode(body[:20]))
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
        with pytest.raises(NotConnected, match="the server's message is cut short, or is none of OPC UA"):
            await got.until(lambda rows: len(rows) > 1)
        monkeypatch.setattr(wire, "published", decode)
        await reader.close()
        await reader.connect()
        await got.until(lambda rows: values(rows) == [1, 2])


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"ACKF\x1c\0\0\0" + bytes(20) + b"MSGFrubbish" * 9]
)
async def test_what_is_no_opcua_server(answer: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(100)
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader = reader_of(source(f"opc.tcp://127.0.0.1:{port}", Vibration, rms("x")))
    with pytest.raises(NotConnected, match=rf"OPC UA server 127.0.0.1:{port}"):
        await reader.connect()
    server.close()
    await server.wait_closed()
    with pytest.raises(NotConnected, match="cannot be reached"):
        await reader.connect()
    await reader.close()


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.opcua.channel.CONNECT_S_MAX", 0.2)

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    reader = reader_of(source(f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", Vibration, rms("x")))
    with pytest.raises(NotConnected, match=r"does not answer within 0.2 s: is it running"):
        await reader.connect()
    server.close()
    await server.wait_closed()


async def test_nothing_that_changes_the_server_can_be_sent(opcua_server: OpcuaServer, unique: str) -> None:
    """Not even by somebody who holds the reader's own connection."""
    node = opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with Proxy(opcua_server.port) as proxy, reading(proxy.url, Vibration, rms(unique)) as (reader, got):
        await got.until(lambda rows: values(rows) == [1])
        assert reader._link is not None
        request = ua.WriteRequest()
        request.Parameters.NodesToWrite = [
            ua.WriteValue(node.nodeid, ua.AttributeIds.Value, "", ua.DataValue(ua.Variant(9.0)))
        ]
        for forbidden in (
            request,
            ua.CallRequest(),
            ua.HistoryUpdateRequest(),
            ua.AddNodesRequest(),
            ua.DeleteNodesRequest(),
        ):
            with pytest.raises(guard.Forbidden):
                await reader._link._channel.body(forbidden)
            with pytest.raises(guard.Forbidden):
                reader._link._channel.send(forbidden)
        await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
        await got.until(lambda rows: values(rows) == [1, 2])
        assert set(proxy.requests) <= LOOKS


async def test_the_recorder_would_have_seen_it(opcua_server: OpcuaServer, unique: str) -> None:
    """What writes by nature, on the same line."""
    node = opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with Proxy(opcua_server.port) as proxy, Client(proxy.url) as client:
        await client.get_node(node.nodeid).write_value(2.0)
        assert "Write" in proxy.requests
        assert not set(proxy.requests) <= LOOKS


class Paged:
    """A server that tells of references one by one; asyncua's knows no continuation."""

    where = "nowhere"

    def __init__(self, names: dict[int, list[str]]) -> None:
        self._names, self.calls = names, 0

    async def call(self, request: Any, response: Any) -> Any:
        self.calls += 1
        if isinstance(request, ua.BrowseRequest):
            left = [self._names[d.NodeId.Identifier] for d in request.Parameters.NodesToBrowse]
            return ua.BrowseResponse(Results=[self._result(names) for names in left])
        points = request.Parameters.ContinuationPoints
        results = [self._result(point.decode().split(",")) for point in points]
        return ua.BrowseNextResponse(Parameters=ua.BrowseNextResult(Results=results))

    @staticmethod
    def _result(names: list[str]) -> ua.BrowseResult:
        first, rest = names[:1], names[1:]
        references = [
            ua.ReferenceDescription(
                NodeId=ua.ExpandedNodeId(ua.String(n), ua.Int16(2)),
                BrowseName=ua.QualifiedName(n, 2),
                NodeClass=ua.NodeClass.Variable,
            )
            for n in first
        ]
        return ua.BrowseResult(ContinuationPoint=",".join(rest).encode() or None, References=references)


async def test_what_does_not_fit_into_one_answer_is_asked_for() -> None:
    server = Paged({1: ["a", "b", "c"], 2: [], 3: ["d"]})
    nodes = [ua.NodeId(ua.Int32(n)) for n in (1, 2, 3)]
    found = await browse.children(cast(Any, server), nodes, browse.Limits(), browse.VARIABLES)
    assert [[child.name for child in children] for children in found] == [["a", "b", "c"], [], ["d"]]
    assert found[0][2].node == ua.NodeId(ua.String("c"), ua.Int16(2))
    assert server.calls == 3


async def test_a_path_that_leads_everywhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, opcua_server: OpcuaServer
) -> None:
    monkeypatch.setattr(browse, "NODES_MAX", 5)
    reader = reader_of(source(opcua_server.url, Vibration, {Vibration.rms: "Objects/*/*/{device}"}))
    with pytest.raises(LimitExceeded, match="lead through more than 5 nodes: write names for"):
        await reader.connect()
    await reader.close()


# who we are


@pytest.fixture(scope="module")
def ours() -> Papers:
    return papers("urn:test:collect")


@pytest.fixture
def secrets(tmp_path: Path, ours: Papers, opcua_server: OpcuaServer) -> Path:
    (tmp_path / "cert").write_bytes(ours.certificate)
    (tmp_path / "key").write_bytes(ours.key)
    (tmp_path / "server").write_bytes(opcua_server.papers.certificate)
    (tmp_path / "password").write_text(PASSWORD)
    return tmp_path


FILES: dict[str, Any] = {"certificate": secret("cert"), "key": secret("key"), "server_certificate": secret("server")}
NAME: dict[str, Any] = {"username": USERNAME, "password": secret("password")}


@pytest.mark.parametrize(
    "options",
    [
        NAME,
        {"security": "Basic256Sha256,SignAndEncrypt", **FILES, **NAME},
        {"security": "Aes256Sha256RsaPss, Sign", **FILES},
    ],
)
async def test_it_reads_with_security_and_a_name(
    opcua_server: OpcuaServer, unique: str, secrets: Path, options: dict[str, Any]
) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    reader = reader_of(source(opcua_server.url, Vibration, rms(unique), **options), secrets)
    await reader.connect()
    got = Got(reader, Vibration)
    await got.until(lambda rows: values(rows) == [1])
    await reader.close()
    await asyncio.to_thread(opcua_server.write, f"{unique}/a/RMS", 2.0)
    await reader.connect()  # the session is taken up again
    await got.until(lambda rows: values(rows) == [1, 2])
    await reader.close()


SAFE = {"security": "Basic256Sha256,SignAndEncrypt", **FILES}


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ({"password": b"wrong"}, {**SAFE, **NAME}, "refuses user 'collect'.*BadUserAccessDenied"),
        ({"key": b"none"}, SAFE, "secret 'key' holds no private key in PEM or DER form without a password"),
        ({"cert": b"-----BEGIN"}, SAFE, "secret 'cert' holds no certificate in PEM or DER form"),
        ({"server": None}, SAFE, "secret 'server' is missing: put it into the file"),
        ({"key": "other"}, SAFE, "secret 'key' is not the key of the certificate in 'cert': they belong together"),
        ({"server": "other"}, SAFE, r"is not the one in `server_certificate` \(fingerprint .*\): it shows one with the"),
        ({}, {**SAFE, "security": "Aes128Sha256RsaOaep,Sign"}, "no such security= as asked for; it has Aes256Sha256RsaPss,Sign,"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_papers_is_said(
    opcua_server: OpcuaServer, secrets: Path, files: dict[str, Any], options: dict[str, Any], says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("connectors.opcua.channel.CONNECT_S_MAX", 1.5)  # the server says nothing to what it cannot read
    other = papers("urn:test:other")
    for name, content in files.items():
        if content is None:
            (secrets / name).unlink()
        else:
            (secrets / name).write_bytes(
                {"key": other.key, "server": other.certificate}[name] if content == "other" else content
            )
    reader = reader_of(source(opcua_server.url, Vibration, rms("x"), **options), secrets)
    with pytest.raises(ConfigError, match=says):
        await reader.connect()
    await reader.close()


async def test_a_certificate_in_der_form(opcua_server: OpcuaServer, secrets: Path, ours: Papers) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_certificate(ours.certificate).public_bytes(Encoding.DER)
    (secrets / "cert").write_bytes(der)
    reader = reader_of(source(opcua_server.url, Vibration, rms("x"), **SAFE), secrets)
    await reader.connect()
    await reader.close()


async def test_quality_without_a_column_for_it_goes_to_the_collector(opcua_server: OpcuaServer, unique: str) -> None:
    opcua_server.variable(f"{unique}/a/RMS", 1.0)
    async with reading(opcua_server.url, Vibration, rms(unique)) as (reader, _):
        got = await reader.read(rows_max=10, linger_s=0.5)
        assert list(got.batch.columns) == ["Vibration.rms", QUALITY]
