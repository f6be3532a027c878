"""Readings that are fetched, from a real server that pages, forgets, lies, is slow, or leads elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors.base import Read
from connectors.buffer import ROWS_MAX
from connectors.http import client, poll, poller
from connectors.http.client import Client
from connectors.http.links import joined, position, retry_after_s, with_query
from connectors.http.poller import PollReader
from connectors.secrets import secret
from pipelines.batch import Batch
from pipelines.errors import BadData, ConfigError, NotConnected
from pipelines.quality import BAD, GOOD
from pipelines.schema import Arrival, Col, Key, Quality, Schema
from tests.bed import until
from tests.connectors.http_world import context, served
from tests.connectors.schemas import Vibration


class Meter(Schema):
    device = Key[str]()
    power = Col[float]("W")
    quality = Quality()
    arrival = Arrival()


class Plant:
    """A server whose answers are given; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.body: Any = {"power": 1.0}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        body = self.body(request) if callable(self.body) else self.body
        if isinstance(body, web.StreamResponse):
            return body
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self.headers.get("ETag") and request.headers.get("If-None-Match") == self.headers["ETag"]:
            return web.Response(status=304)
        return web.Response(body=content, status=self.status, headers=self.headers)


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    made = Plant()
    async with served(made.answer) as made.url:
        yield made


@contextlib.asynccontextmanager
async def reading(folder: Path, url: Any, schema: Any = Meter, **options: Any) -> AsyncIterator[PollReader]:
    reader = PollReader(poll(schema, url=url, **({"every": "50ms"} | options)), context(folder))
    await reader.connect()
    try:
        yield reader
    finally:
        await reader.close()


async def rows(reader: PollReader, count: int) -> Batch:
    """The next readings, at least so many."""
    found: list[Batch] = []
    async with asyncio.timeout(10):
        while sum(map(len, found)) < count:
            got = await reader.read(rows_max=100, linger_s=0.02)
            found.append(got.batch)
            await got.ack()
    return poller.joined(found, found[0])


async def letter(reader: PollReader) -> str:
    async with asyncio.timeout(10):
        while True:
            got = await reader.read(rows_max=100, linger_s=0.02)
            await got.ack()
            if got.rejects:
                return got.rejects[0].message


async def test_each_url_is_a_device(tmp_path: Path, plant: Plant) -> None:
    plant.body = lambda r: {"power": {"/a": 1, "/b": 2}[r.path]}
    async with reading(tmp_path, {"a": f"{plant.url}/a", "b": f"{plant.url}/b"}, time=None) as reader:
        batch = await rows(reader, 4)
    assert {*zip(batch.keys, batch.columns["Meter.power"].tolist(), strict=True)} == {("a", 1), ("b", 2)}
    assert (batch.columns["Meter.quality"] == GOOD).all()
    assert (batch.columns["Meter.arrival"] == batch.time).all()
    assert {r.method for r in plant.asked} == {"GET"}
    assert plant.asked[0].headers["Accept"] == "application/json"


async def test_what_a_server_gives_again_is_there_once(tmp_path: Path, plant: Plant) -> None:
    plant.body = [{"device": "a", "power": 1, "time": "2026-01-01T00:00:00Z"}]
    async with reading(tmp_path, plant.url) as reader:
        assert len(await rows(reader, 1)) == 1
        await until(lambda: len(plant.asked) >= 4, 5)
        plant.body = [{"device": "a", "power": 2, "time": "2026-01-01T00:00:01Z"}]
        assert (await rows(reader, 1)).columns["Meter.power"].tolist() == [2]


async def test_a_server_that_knows_what_has_changed(tmp_path: Path, plant: Plant) -> None:
    plant.headers = {"ETag": '"1"', "Last-Modified": formatdate(0, usegmt=True)}
    async with reading(tmp_path, {"a": plant.url}, time=None) as reader:
        batch = await rows(reader, 3)  # it holds still: the same value, at later times
    assert set(batch.columns["Meter.power"].tolist()) == {1}
    assert (batch.time[1:] > batch.time[:-1]).all()
    assert plant.asked[1].headers["If-None-Match"] == '"1"'
    assert plant.asked[1].headers["If-Modified-Since"] == plant.headers["Last-Modified"]
    plant.body = [{"device": "a", "power": 1, "time": "2026-01-01T00:00:00Z"}]
    plant.asked.clear()
    async with reading(tmp_path, plant.url) as reader:
        assert len(await rows(reader, 1)) == 1
        await until(lambda: len(plant.asked) >= 4, 5)
        assert len((await reader.read(rows_max=100, linger_s=0.02)).batch) == 0


def page(number: int) -> list[dict[str, Any]]:
    return [{"device": "a", "power": number, "time": f"2026-01-01T00:00:0{number}Z"}]


async def test_pages_by_link(tmp_path: Path, plant: Plant) -> None:
    def answer(request: web.Request) -> web.Response:
        n = int(request.query.get("page", "1"))
        link = {} if n == 3 else {"Link": f'</api?page={n + 1}>; rel="next", </api?page=1>; rel="first"'}
        return web.json_response(page(n), headers=link)

    plant.body = answer
    async with reading(tmp_path, f"{plant.url}/api", every="1h", next_page="link") as reader:
        assert (await rows(reader, 3)).columns["Meter.power"].tolist() == [1, 2, 3]
    assert [r.path_qs for r in plant.asked] == ["/api", "/api?page=2", "/api?page=3"]


@pytest.mark.parametrize("cursor", ["after", None])
async def test_pages_by_a_field(tmp_path: Path, plant: Plant, cursor: str | None) -> None:
    def answer(request: web.Request) -> web.Response:
        n = int(request.query.get("after", "1"))
        following = None if n == 3 else n + 1 if cursor else f"?after={n + 1}&limit=1"
        return web.json_response({"list": page(n), "paging": {"next": following}})

    plant.body = answer
    async with reading(
        tmp_path, f"{plant.url}/api?limit=1", every="1h", next_page="paging.next", cursor=cursor, rows="list[*]"
    ) as reader:
        assert (await rows(reader, 3)).columns["Meter.power"].tolist() == [1, 2, 3]
    assert {r.query["limit"] for r in plant.asked} == {"1"}


async def test_it_goes_on_from_the_newest_time_if_all_pages_came(tmp_path: Path, plant: Plant) -> None:
    broken = True

    def answer(request: web.Request) -> web.Response:
        if request.query.get("page") == "2":
            return web.Response(status=500) if broken else web.json_response(page(1))
        return web.json_response(page(2), headers={"Link": '<?page=2>; rel="next"'})  # the newest first

    plant.body = answer
    async with reading(tmp_path, f"{plant.url}/api", next_page="link", since="from") as reader:
        await until(lambda: len(plant.asked) >= 4, 10)
        assert all("from" not in r.query for r in plant.asked)
        broken = False
        await until(lambda: plant.asked[-1].query.get("from") == "2026-01-01T00:00:02Z", 10)
        assert {1, 2} == set((await rows(reader, 3)).columns["Meter.power"].tolist())


async def test_what_is_wrong_becomes_a_dead_letter_and_the_rest_goes_on(tmp_path: Path, plant: Plant) -> None:
    plant.body = b'[{"device": "a", "power": 1}, {"device": "b", "power": "x"}, {"device": "c", "power": 3}]'
    async with reading(tmp_path, f"{plant.url}/x?y=1", every="1h") as reader:
        got: list[Read] = []
        async with asyncio.timeout(5):
            while sum(len(r.batch) for r in got) < 2:
                got.append(await reader.read(rows_max=100, linger_s=0.05))
        (found,) = (d for r in got for d in r.rejects)
        assert found.message == f"GET {plant.url}/x?y=1: reading 1: power is 'x': a number is needed"
        assert found.payload == plant.body


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 500}, "status_5xx"),
        ({"status": 404}, "status_4xx"),
        ({"status": 302, "headers": {"Location": "http://elsewhere.example/"}}, "elsewhere"),
        ({"status": 302, "headers": {"Location": "/again"}}, "redirects"),
        ({"body": b" " * 2_000}, "too_large"),
        ({"delay_s": 30.0}, "not_connected"),
    ],
)
async def test_a_device_that_is_asked_in_vain_has_bad_readings(
    tmp_path: Path, plant: Plant, answer: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_BYTES_MAX", 1_000)
    usual = {name: getattr(plant, name) for name in answer}
    failed: list[str] = []
    fail = PollReader._fail

    def failing(self: PollReader, key: str | None, why: str) -> None:
        failed.append(why)
        fail(self, key, why)

    monkeypatch.setattr(PollReader, "_fail", failing)
    async with reading(tmp_path, {"a": plant.url}, time=None, timeout="200ms") as reader:
        assert (await rows(reader, 1)).columns["Meter.quality"].tolist()[0] == GOOD
        for name, value in answer.items():
            setattr(plant, name, value)
        async with asyncio.timeout(5):
            while BAD not in (batch := await rows(reader, 1)).columns["Meter.quality"].tolist():
                pass
        assert batch.keys[-1] == "a"
        assert set(failed) == {reason}
        for name, value in usual.items():
            setattr(plant, name, value)
        async with asyncio.timeout(10):
            while (await rows_or_none(reader)) != [GOOD]:
                pass


async def rows_or_none(reader: PollReader) -> list[int]:
    """Qualities of what comes next; the link may be down, as the collector would find it."""
    try:
        got = await reader.read(rows_max=1, linger_s=0.05)
    except NotConnected:
        await reader.close()
        with contextlib.suppress(NotConnected):
            await reader.connect()
        return []
    await got.ack()
    return list(got.batch.columns["Meter.quality"].tolist())


async def test_a_way_on_the_same_host_is_gone(tmp_path: Path, plant: Plant) -> None:
    plant.body = lambda r: web.Response(status=302, headers={"Location": "/new"}) if r.path == "/old" else {"power": 1}
    async with reading(tmp_path, {"a": f"{plant.url}/old"}, time=None) as reader:
        assert len(await rows(reader, 1)) >= 1
    assert [r.path for r in plant.asked[:2]] == ["/old", "/new"]


async def test_a_server_that_asks_to_be_left_alone_is(tmp_path: Path, plant: Plant) -> None:
    plant.status, plant.headers = 429, {"Retry-After": "1"}
    async with reading(tmp_path, {"a": plant.url}, time=None, every="10ms"):
        await asyncio.sleep(0.5)
        assert len(plant.asked) == 1
        await until(lambda: len(plant.asked) == 2, 5)


async def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    reader = PollReader(poll(Vibration, url="http://127.0.0.1:1/x"), context(tmp_path))
    with pytest.raises(NotConnected, match=r"none of 1 URLs answers: http://127.0.0.1:1/x cannot be fetched: "):
        await reader.connect()
    await reader.close()


async def test_nothing_is_asked_for_while_there_is_no_room(tmp_path: Path, plant: Plant) -> None:
    async with reading(tmp_path, {"a": plant.url}, time=None, every="10ms") as reader:
        await rows(reader, 1)
        reader._buffer.rows += ROWS_MAX
        await asyncio.sleep(0.1)
        asked = len(plant.asked)
        await asyncio.sleep(0.2)
        assert len(plant.asked) == asked


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"token": secret("t")}, "Authorization", "Bearer sesame"),
        ({"username": "me", "password": secret("t")}, "Authorization", "Basic bWU6c2VzYW1l"),
        ({"headers": {"X-Api-Key": secret("t")}}, "X-Api-Key", "sesame"),
    ],
)
async def test_accounts(tmp_path: Path, plant: Plant, options: dict[str, Any], header: str, value: str) -> None:
    (tmp_path / "t").write_text("sesame\n")
    async with reading(tmp_path, {"a": plant.url}, time=None, **options) as reader:
        await rows(reader, 1)
    assert plant.asked[0].headers[header] == value
    if "password" in options:
        return  # any character will do
    (tmp_path / "t").write_text("ses\x00ame")
    with pytest.raises(ConfigError, match=f"the secret for the header {header} has characters that no header can have"):
        Client(poll(Meter, url=plant.url, **options), context(tmp_path))


async def test_what_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(ConfigError, match="secret 'ca' holds no CA certificates in PEM form"):
        Client(poll(Meter, url="https://x", ca=secret("ca")), context(tmp_path))


def test_where_a_page_leads() -> None:
    assert joined("http://h/a/b", "?c=1") == "http://h/a/b?c=1"
    assert joined("http://h/a", "http://h:80/c") == "http://h:80/c"
    for to in (
        "http://other/",
        "https://h/a",
        "http://h:81/",
        "//evil/",
        "http://h@evil/",
        "http://h:x/",
        "http://h:99999/",
    ):
        with pytest.raises(BadData, match="leads to"):
            joined("http://h/a", to)
    assert with_query("http://h/a?x=1&y=&f=old", f="a b") == "http://h/a?x=1&y=&f=a+b"


def test_a_position_is_written_as_the_device_writes_time() -> None:
    ns = 1_767_225_600_500_000_000
    assert [position(ns, u) for u in ("iso", "s", "ms")] == ["2026-01-01T00:00:00.5Z", "1767225600", "1767225600500"]


def test_how_long_to_wait() -> None:
    now_ns = 1_767_225_600 * 10**9
    cases = {
        "": 0,
        "5": 5,
        "999999": 3600,
        formatdate(1_767_225_660, usegmt=True): 60,
        formatdate(0, usegmt=True): 0,
        "soon": 0,
    }
    assert {text: retry_after_s({"Retry-After": text}, now_ns) for text in cases} == cases
