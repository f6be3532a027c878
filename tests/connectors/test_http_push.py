"""Readings that are posted: a real server, a real client, and sockets that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import cbor2
import msgspec
import pytest

from connectors import gate
from connectors.base import Read
from connectors.http import PushSource, admission, door, route
from connectors.http.codec import BODY_BYTES_MAX
from connectors.http.listener import PushReader
from connectors.secrets import secret
from pipelines import metrics
from pipelines.errors import ConfigError, NotConnected
from tests.bed import beside, until
from tests.bed.certificate import self_signed
from tests.connectors.http_world import OTHER, TOKEN, context, push_source
from tests.connectors.schemas import Vibration

JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Server:
    """A reader that acknowledges all that it reads, as soon as `kafka` is set."""

    def __init__(self, source: PushSource[Any], folder: Path) -> None:
        self.source, self.reader = source, PushReader(source, context(folder))
        self.kafka = asyncio.Event()
        self.kafka.set()
        self.reads: list[Read] = []
        scheme = "http" if source.certificate is None else "https"
        self.url = f"{scheme}://{source.listen}"

    async def run(self) -> None:
        while True:
            got = await self.reader.read(rows_max=4, linger_s=0.02)
            self.reads.append(got)
            if len(got.batch) or got.rejects:
                await self.kafka.wait()
            await got.ack()

    @property
    def values(self) -> list[float]:
        return [v for r in self.reads for v in r.batch.columns["Vibration.rms"].tolist()]

    @property
    def keys(self) -> list[str]:
        return [k for r in self.reads for k in r.batch.keys]

    @property
    def letters(self) -> list[str]:
        return [letter.message for r in self.reads for letter in r.rejects]


@contextlib.asynccontextmanager
async def serving(source: PushSource[Any], folder: Path) -> AsyncIterator[Server]:
    server = Server(source, folder)
    await server.reader.connect()
    try:
        async with beside(server.run()):
            yield server
    finally:
        await server.reader.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(push_source(tmp_path), tmp_path) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    client: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str] | None = None, **more: Any
) -> tuple[int, str, Any]:
    async with client.post(
        url, data=body, headers=headers if headers is not None else {**BEARER, **JSON}, **more
    ) as answer:
        return answer.status, await answer.text(), answer.headers


async def test_one_reading_many_and_the_wrong_among_them(server: Server, client: aiohttp.ClientSession) -> None:
    url = f"{server.url}/r/press%201"
    assert (await post(client, url, b'{"rms": 1.5}'))[:2] == (200, '{"accepted": 1}')
    many = [{"rms": i} for i in range(2, 12)]
    assert (await post(client, url, json.dumps(many, indent=1)))[:2] == (200, '{"accepted": 10}')
    assert (await post(client, url, b"[]"))[:2] == (200, '{"accepted": 0}')
    some = b'[{"rms": 12}, {"rms": "x"}, {"rms": 13}, {}, {"rms": 14, "time": "1970-01-01T00:00:00Z"}]'
    status, text, _ = await post(client, url, some)
    assert status == 400
    assert json.loads(text) == {
        "accepted": 2,
        "refused": 3,
        "errors": [
            {"reading": 1, "reason": "type", "message": "rms is 'x': a number is needed"},
            {"reading": 3, "reason": "missing", "message": "rms is missing or null: a number is needed"},
            {
                "reading": 4,
                "reason": "time",
                "message": "time is 1970-01-01T00:00:00.000Z, before 1980: is the device's clock set?",
            },
        ],
    }
    assert server.values == [1.5, *range(2, 14)]
    assert set(server.keys) == {"press 1"}
    assert server.letters == [
        "POST /r/press%201: reading 1: rms is 'x': a number is needed (2 more of its readings are wrong)"
    ]
    assert all(len(r.batch) <= 4 for r in server.reads)  # rows_max, though a post has more


async def test_a_body_that_is_wrong_as_a_whole(server: Server, client: aiohttp.ClientSession) -> None:
    cases = {
        b"no": "the payload is not JSON: b'no': Expecting value: line 1 column 1 (char 0)",
        b"": "the payload is not JSON: it is empty",
        b"5": "the payload is neither an object nor a list of objects",
        b'[{"rms": 1}, 5]': "the payload is neither an object nor a list of objects",
        b'{"rms": NaN}': "the payload is not JSON: JSON is malformed: invalid character (byte 8)",
        b'{"rms": 1}], "x": [{"rms": 2}': "Extra data",
    }
    for body, says in cases.items():
        status, text, _ = await post(client, f"{server.url}/r/a", body)
        told = json.loads(text)
        assert (status, told["accepted"], told["refused"], told["errors"][0]["reading"]) == (400, 0, 1, None)
        assert says in told["errors"][0]["message"]
    await until(lambda: len(server.letters) == len(cases), 5)
    assert server.values == []


async def test_nobody_is_answered_before_kafka_has_it(server: Server, client: aiohttp.ClientSession) -> None:
    server.kafka.clear()
    posting = asyncio.create_task(post(client, f"{server.url}/r/a", b'{"rms": 1}'))
    await until(lambda: server.values == [1], 5)
    await asyncio.sleep(0.1)
    assert not posting.done()
    server.kafka.set()
    assert (await posting)[0] == 200


async def test_a_link_that_ends_sends_away_who_waits(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with serving(push_source(tmp_path), tmp_path) as server:
        server.kafka.clear()
        posting = asyncio.create_task(post(client, f"{server.url}/r/a", b'{"rms": 1}'))
        await until(lambda: server.values == [1], 5)
    status, text, headers = await posting
    assert (status, text) == (503, "it is not known whether Kafka has it: send it again")
    assert 1 <= int(headers["Retry-After"]) <= admission.RETRY_S_MAX
    for read in server.reads:
        await read.ack()  # too late, and no harm


async def test_kafka_that_does_not_answer(
    server: Server, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "ANSWER_S_MAX", 0.2)
    server.kafka.clear()
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}'))[0] == 503
    assert server.reader.waiting == 0


async def test_when_it_is_full_it_says_when_to_come_again(
    server: Server, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "REQUESTS_MAX", 2)
    server.kafka.clear()
    waiting = [asyncio.create_task(post(client, f"{server.url}/r/a", b'{"rms": 1}')) for _ in range(2)]
    await until(lambda: server.reader.waiting == 2, 5)
    status, text, headers = await post(client, f"{server.url}/r/a", b'{"rms": 2}')
    assert (status, text) == (503, "more readings come than Kafka takes: send it again later")
    assert int(headers["Retry-After"]) >= 1
    server.kafka.set()
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 3}'))[0] == 200
    monkeypatch.setattr(admission, "BYTES_MAX", 5)
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 4}'))[0] == 503


async def test_a_mad_device_waits_and_others_do_not(
    tmp_path: Path, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The mad one posts as fast as it can; all that it is answered with 200 is there, and the others never notice."""
    refused = metrics.collect_http_answers.labels("s", "vibration", "429")._value
    before = refused.get()
    async with serving(push_source(tmp_path, device_rate="10/2s"), tmp_path) as server:
        answers = [await post(client, f"{server.url}/r/mad", b'{"rms": 1}') for _ in range(30)]
        quiet = [(await post(client, f"{server.url}/r/quiet", b'{"rms": 2}'))[0] for _ in range(10)]
        late = [a for a in answers if a[0] == 429]
        assert quiet == [200] * 10
        assert {a[0] for a in answers[10:]} <= {200, 429}
        assert len(late) > 10
        assert late[0][1] == "device 'mad' posts too much: send it again in 1 s"
        assert late[0][2]["Retry-After"] == "1"
        assert (server.keys.count("mad"), refused.get() - before) == (30 - len(late), len(late))
        await asyncio.sleep(1)
        assert (await post(client, f"{server.url}/r/mad", b'{"rms": 1}'))[0] == 200
        await post(client, f"{server.url}/r/mad", b'{"rms": 1}' + b" " * 100_000)  # counts as 25
        status, _, headers = await post(client, f"{server.url}/r/mad", b'{"rms": 1}')
        assert (status, int(headers["Retry-After"]) > 3) == (429, True)
    assert caplog.text.count("vibration: device 'mad' posts too much") == 1


async def test_a_token_has_a_rate_of_its_own(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with serving(push_source(tmp_path, "/r", token_rate="3/1h"), tmp_path) as server:
        first = [await post(client, f"{server.url}/r", b'{"device": "a", "rms": 1}') for _ in range(4)]
        assert [a[0] for a in first] == [200, 200, 200, 429]
        assert first[3][1] == "token 1 posts too much: send it again in 1200 s"
        other = {"Authorization": f"Bearer {OTHER}", **JSON}
        assert (await post(client, f"{server.url}/r", b'{"device": "a", "rms": 1}', other))[0] == 200


async def test_who_may_post(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    (tmp_path / "users").write_text("gate:ein langes Passwort: ä\n")
    async with serving(push_source(tmp_path, users=secret("users")), tmp_path) as server:
        url = f"{server.url}/r/a"
        gate = f"Basic {base64.b64encode('gate:ein langes Passwort: ä'.encode()).decode()}"
        for good in (f"Bearer {TOKEN}", f"bearer  {OTHER}", gate):
            assert (await post(client, url, b'{"rms": 1}', {"Authorization": good, **JSON}))[0] == 200
        for bad in (
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            TOKEN,
            "Basic ???",
            "Basic Z2F0ZTp4",
            f"Basic {TOKEN}",
            "Bearer # devices",
        ):
            status, text, headers = await post(client, url, b'{"rms": 1}', {"Authorization": bad, **JSON})
            assert (status, text) == (401, "send a token or an account that is known here"), bad
            assert headers["WWW-Authenticate"] == 'Bearer, Basic realm="sitestream"'
        assert len(server.values) == 3


async def test_requests_that_are_none(server: Server, client: aiohttp.ClientSession) -> None:
    url, body = f"{server.url}/r/a", b'{"rms": 1}'
    assert (await post(client, f"{server.url}/other", body))[0] == 404
    assert (await post(client, f"{server.url}/r/", body))[0] == 404
    assert (await post(client, f"{server.url}/r/%ff", body))[0] == 404
    async with client.get(url, headers=BEARER) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    status, text, _ = await post(client, url, body, {**BEARER, "Content-Type": "text/plain"})
    assert (status, text) == (415, "the content type is 'text/plain': send application/json")
    status, text, _ = await post(client, url, body, {**BEARER, **JSON, "Content-Encoding": "gzip"})
    assert (status, text) == (415, "the body is compressed: send it as it is")

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    status, text, _ = await post(client, url, chunks())
    assert (status, text) == (411, "send the length of the body (Content-Length), not chunks")
    status, text, _ = await post(client, url, b" " * (BODY_BYTES_MAX + 1))
    assert (status, text) == (413, f"the body has {BODY_BYTES_MAX + 1} bytes: send at most {BODY_BYTES_MAX} at once")
    assert server.values == []
    assert (await post(client, url, b" " * (BODY_BYTES_MAX - 10) + body))[0] == 200
    assert (await post(client, url, body, {**BEARER, **JSON, "Expect": "100-continue"}, expect100=True))[0] == 200


ROWS = [{"device": "a", "rms": 1}, {"device": "b", "rms": 2}]


async def test_a_mistake_of_ours_is_told(
    server: Server, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(route, "Post", None)
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}'))[:2] == (
        500,
        "a mistake of ours: send it again later",
    )
    assert "http push: /r/{device}" in caplog.text
    assert "NoneType" in caplog.text


FORMATS: list[tuple[dict[str, Any], str, bytes]] = [
    ({}, "application/json; charset=utf-8", b'[{"device": "a", "rms": 1}, {"device": "b", "rms": 2}]'),
    ({"rows": "data.list[*]", "key": "n", "fields": {Vibration.rms: "v.rms"}}, "application/json",
     b'{"data": {"list": [{"n": "a", "v": {"rms": 1}}, {"n": "b", "v": {"rms": 2}}]}}'),
    ({"fields": {Vibration.rms: "v.rms"}}, "application/json",
     b'[{"device": "a", "v": {"rms": 1}}, {"device": "b", "v": {"rms": 2}}]'),
    ({"payload": "cbor"}, "application/cbor", cbor2.dumps(ROWS)),
    ({"payload": "msgpack"}, "application/x-msgpack", msgspec.msgpack.encode(ROWS)),
    ({"payload": "csv:device,rms,time"}, "text/csv", b"a,1,\nb,2,2026-01-01T00:00:00Z\n"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "media", "body"), FORMATS, ids=lambda x: "")
async def test_formats(
    tmp_path: Path, client: aiohttp.ClientSession, options: dict[str, Any], media: str, body: bytes
) -> None:
    async with serving(push_source(tmp_path, "/r", **options), tmp_path) as server:
        answer = await post(client, f"{server.url}/r?x=1", body, {**BEARER, "Content-Type": media})
        assert answer[:2] == (200, '{"accepted": 2}')
        assert (server.keys, server.values) == (["a", "b"], [1, 2])


async def raw(server: Server, data: bytes, *, wait_s: float = 5) -> bytes:
    """What is answered until the server closes the connection."""
    host, port = server.source.address
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        async with asyncio.timeout(wait_s):
            return await reader.read()
    finally:
        writer.close()


HEAD = f"POST /r/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n".encode()


async def test_those_who_dawdle_are_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(door, "IDLE_S_MAX", 0.3)
    monkeypatch.setattr(route, "BODY_S_MAX", 0.3)
    async with serving(push_source(tmp_path), tmp_path) as server:
        host, port = server.source.address
        assert await raw(server, b"") == b""  # says nothing
        reader, writer = await asyncio.open_connection(host, port)  # says a little, and again and again

        async def drip() -> None:
            writer.write(HEAD)
            for i in range(100):
                writer.write(f"X-{i}: y\r\n".encode())
                await asyncio.sleep(0.05)

        async with beside(drip()), asyncio.timeout(3):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        answer = await raw(server, HEAD + b'Content-Length: 100\r\n\r\n{"rms":')  # a body that does not end
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not come within 0.3 s" in answer
        assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}'))[0] == 200
        assert server.reader.waiting == 0


async def test_what_is_no_http(server: Server, client: aiohttp.ClientSession) -> None:
    for bad in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(200)) + b"\r\n",
        b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with contextlib.suppress(ConnectionError):
            answer = await raw(server, bad)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer[:80]
    host, port = server.source.address
    _, writer = await asyncio.open_connection(host, port)
    writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"rms":')
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()  # in the middle of a body
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}'))[0] == 200
    assert server.values == [1]


async def test_there_are_so_many_connections_and_no_more(
    server: Server, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.door(server.source.address)._gate, "connections_max", 1)
    host, port = server.source.address
    _, writer = await asyncio.open_connection(host, port)
    await asyncio.sleep(0.05)
    status, _, headers = await post(client, f"{server.url}/r/a", b'{"rms": 1}')
    assert (status, headers["Retry-After"]) == (503, "5")
    writer.close()
    await asyncio.sleep(0.05)
    assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}'))[0] == 200


async def test_sources_share_a_port(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with serving(push_source(tmp_path), tmp_path) as first:
        listen = first.source.listen
        async with serving(push_source(tmp_path, "/b/{device}", stream="b", listen=listen), tmp_path) as second:
            assert (await post(client, f"{first.url}/r/a", b'{"rms": 1}'))[0] == 200
            assert (await post(client, f"{first.url}/b/a", b'{"rms": 2}'))[0] == 200
            assert (first.values, second.values) == ([1], [2])
            same = PushReader(push_source(tmp_path, listen=listen), context(tmp_path))
            with pytest.raises(ConfigError, match=r"has two sources with the path /r/\{device\}: give each its own"):
                await same.connect()
            certified(tmp_path)
            other = push_source(tmp_path, "/c", listen=listen, certificate=secret("cert"), private_key=secret("key"))
            with pytest.raises(ConfigError, match="name different certificates: a port has one"):
                await PushReader(other, context(tmp_path)).connect()
        assert (await post(client, f"{first.url}/b/a", b'{"rms": 2}'))[0] == 404
        assert (await post(client, f"{first.url}/r/a", b'{"rms": 3}'))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        await post(client, f"{first.url}/r/a", b'{"rms": 1}')


async def test_a_port_that_cannot_be_had(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    reader = PushReader(push_source(tmp_path, listen=f"127.0.0.1:{port}"), context(tmp_path))
    with pytest.raises(NotConnected, match=rf"127.0.0.1:{port} cannot be listened on .*: does another program\?"):
        await reader.connect()
    taken.close()
    await reader.connect()
    await reader.close()


def certified(folder: Path) -> Path:
    """A certificate for 127.0.0.1 in the secrets `cert` and `key`."""
    certificate, key = self_signed("127.0.0.1")
    (folder / "cert").write_bytes(certificate)
    (folder / "key").write_bytes(key)
    return folder / "cert"


async def test_tls(tmp_path: Path, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = ssl.create_default_context(cafile=certified(tmp_path))
    source = push_source(tmp_path, certificate=secret("cert"), private_key=secret("key"))
    async with serving(source, tmp_path) as server:
        assert (await post(client, f"{server.url}/r/a", b'{"rms": 1}', ssl=trusted))[0] == 200
        assert await raw(server, HEAD + b"\r\n") == b""  # not without
        monkeypatch.setattr(door.door(source.address)._gate, "connections_max", 3)
        monkeypatch.setattr(gate, "HANDSHAKE_S_MAX", 0.5)
        await client.close()
        await asyncio.sleep(0.1)
        silent = [await asyncio.open_connection(*source.address) for _ in range(3)]  # they never greet, and count
        async with aiohttp.ClientSession() as another:
            with pytest.raises(aiohttp.ClientError):
                await post(another, f"{server.url}/r/a", b'{"rms": 1}', ssl=trusted)
            await asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True)  # given up
            assert (await post(another, f"{server.url}/r/a", b'{"rms": 1}', ssl=trusted))[0] == 200
        for _, writer in silent:
            writer.close()
    (tmp_path / "key").write_text("no key")
    with pytest.raises(ConfigError, match="secrets 'cert' and 'key' are no certificate and its key in PEM form"):
        await PushReader(source, context(tmp_path)).connect()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tokens", "", "the secret has 0 lines: write a token of at least 16 characters on each line"),
        ("tokens", "# all gone\n", "the secret has 0 lines"),
        ("tokens", f"{TOKEN}\nshort\n", "line 2 of the secret cannot be used"),
        ("tokens", "two words that are long enough\n", "line 1 of the secret cannot be used"),
        ("users", "gate\n", "line 1 of the secret cannot be used: write 'name:password' on each line"),
        ("users", "gate:short\n", "line 1 of the secret cannot be used"),
    ],
)
async def test_secrets_that_cannot_be_used(tmp_path: Path, name: str, text: str, says: str) -> None:
    source = push_source(tmp_path, users=secret("users"))
    (tmp_path / "users").write_text("gate:a password that is long\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=says) as e:
        await PushReader(source, context(tmp_path)).connect()
    assert "short" not in str(e.value)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"secret '{name}' is missing"):
        await PushReader(source, context(tmp_path)).connect()
