"""Where polling goes on after a restart: never beyond what Kafka has, and not before it either."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors.http import poll, poller
from connectors.http.poller import PollReader
from containers.embedded import EmbeddedKafka
from pipelines import Pipeline, metrics, topics
from pipelines.errors import PlanError
from pipelines.runtime.account import newest
from tests.bed import until
from tests.connectors.http_world import context, served
from tests.connectors.schemas import Vibration
from tests.connectors.test_collect import Collect

BEGIN_S = 1_767_225_600  # 2026-01-01
PAGE = 5


@dataclass
class Saved:
    """What would be in Kafka."""

    kept: dict[str, bytes] = field(default_factory=dict)

    async def load(self) -> Mapping[str, bytes]:
        return self.kept

    async def save(self, positions: Mapping[str, bytes]) -> None:
        self.kept.update(positions)


class Recorder:
    """A server that has a reading a second, numbered. It gives `PAGE` after `from`; to whoever names no time, the two newest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        since = request.query.get("from")
        first = (
            max(self.count - 2, 0) if since is None else int(datetime.fromisoformat(since).timestamp()) - BEGIN_S + 1
        )
        return web.json_response([row(n) for n in range(first, min(first + PAGE, self.count))])


def row(number: int) -> dict[str, Any]:
    return {
        "device": f"d{number % 3}",
        "rms": number,
        "time": datetime.fromtimestamp(BEGIN_S + number, UTC).isoformat(),
    }


@contextlib.asynccontextmanager
async def reading(folder: Path, saved: Saved, url: Any, **options: Any) -> AsyncIterator[PollReader]:
    """A new process, as it were."""
    reader = PollReader(
        poll(Vibration, url=url, **({"every": "20ms"} | options)), replace(context(folder), positions=saved)
    )
    await reader.connect()
    try:
        yield reader
    finally:
        await reader.close()


async def values(reader: PollReader, count: int, *, ack: bool = True) -> list[float]:
    found: list[float] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            got = await reader.read(rows_max=100, linger_s=0.02)
            found += got.batch.columns["Vibration.rms"].tolist()
            if ack:
                await got.ack()
    return found


async def quiet(reader: PollReader) -> int:
    """How many readings come within some polls more; all are acknowledged."""
    found = 0
    for _ in range(10):
        got = await reader.read(rows_max=100, linger_s=0.02)
        found += len(got.batch)
        await got.ack()
    return found


async def test_what_is_not_acknowledged_moves_no_position(tmp_path: Path) -> None:
    saved, recorder = Saved(), Recorder(4)
    async with served(recorder.answer) as url:
        async with reading(tmp_path, saved, url, since="from") as reader:
            assert await values(reader, 2, ack=False) == [2, 3]
            await asyncio.sleep(0.1)
            assert saved.kept == {}
        async with reading(tmp_path, saved, url, since="from") as reader:
            assert await values(reader, 2) == [2, 3]  # again
            assert await quiet(reader) == 0
            assert json.loads(saved.kept[""])["newest_ns"] == (BEGIN_S + 3) * 10**9
        recorder.count, recorder.asked = 30, []
        async with reading(tmp_path, saved, url, since="from") as reader:
            assert await values(reader, 26) == list(
                range(4, 30)
            )  # what came meanwhile, though the server gives but two unasked
        assert all("from" in request.query for request in recorder.asked)


async def test_what_has_not_changed_is_not_given_again(tmp_path: Path) -> None:
    """By its validators, and if the server knows none, by what the page was."""
    saved, etag, asked = Saved(), {"ETag": '"1"'}, []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        if etag and request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304)
        return web.json_response([row(1)], headers=etag)

    async with served(answer) as url:
        async with reading(tmp_path, saved, {"a": url}) as reader:
            assert await values(reader, 1) == [1]
            await quiet(reader)
        asked.clear()
        async with reading(tmp_path, saved, {"a": url}) as reader:
            assert await quiet(reader) == 0
        assert asked[0].headers["If-None-Match"] == '"1"'
        etag.clear()
        async with reading(tmp_path, saved, {"a": url}) as reader:
            assert await quiet(reader) == 0
        async with reading(tmp_path, saved, {"a": f"{url}/other"}) as reader:
            assert await values(reader, 1) == [1]


@pytest.mark.parametrize("found", [b"{}", b'{"url": "\xff"}'])
async def test_a_position_that_is_none_is_told_and_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, found: bytes
) -> None:
    saved = Saved({"": found, "gone": b"x"})
    async with served(Recorder(4).answer) as url, reading(tmp_path, saved, url, since="from") as reader:
        assert await values(reader, 2) == [2, 3]
    assert f"vibration: {url} begins anew: what is on record is no position" in caplog.text


async def test_a_page_that_has_no_room_any_more_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two URLs are fetched at once, and there is room for the answer of one: nothing is dropped behind a position."""
    monkeypatch.setattr(poller, "ROWS_MAX", 5)
    monkeypatch.setattr(poller, "READINGS_MAX", 5)
    monkeypatch.setattr(poller, "URLS_MAX", 0)
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        await until(lambda: len(asked) >= 2, 5, "both to be asked")
        return web.json_response([row(n) for n in range(5)])

    async with served(answer) as url:
        urls = {"a": f"{url}/a", "b": f"{url}/b"}
        reader = PollReader(poll(Vibration, url=urls, every="20ms", stream="crowded"), context(tmp_path))
        reader._buffer._rows_max = 5
        await reader.connect()
        missed = metrics.collect_missed.labels("s", "crowded")._value
        await until(lambda: missed.get() >= 2, 5, "polls to be left out")  # the buffer is full
        assert sorted(await values(reader, 10)) == sorted([*range(5), *range(5)])
        assert reader._buffer.dropped == 0
        await reader.close()


def test_only_who_has_a_past_needs_a_topic() -> None:
    for time_, wanted in (("time", True), (None, False)):
        p = Pipeline("p")
        p.read(poll(Vibration, url="http://h/a", time=time_))
        there = {t.name: dict(t.settings) for t in p.plan().topics("s", 4)}
        assert ("s.collect.position" in there) == wanted
    with pytest.raises(PlanError, match="a pipeline cannot be called 'collect': topics of the service have that name"):
        Pipeline("collect")


async def test_kill_9_loses_nothing_and_repeats_little(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path, collects: list[Collect]
) -> None:
    """A position ahead of Kafka would lose readings; one that was forgotten, all but the two that the server gives then."""
    recorder, kills = Recorder(2), 3

    def reached() -> int:
        since = recorder.asked[-1].query.get("from") if recorder.asked else None
        return -1 if since is None else int(datetime.fromisoformat(since).timestamp()) - BEGIN_S

    async with served(recorder.answer) as url:
        read = f"http.poll(Vibration, url='{url}', every='10ms', since='from')"
        collect = Collect(tmp_path, unique, kafka.bootstrap, read)
        file = tmp_path / "pipeline.py"
        file.write_text("from connectors import http\n" + file.read_text())
        collects.append(collect)
        await asyncio.to_thread(collect.start)
        await until(lambda: reached() == 1, 20, "polls")
        for _ in range(kills):
            recorder.count += 600
            await until(lambda: reached() > recorder.count - 400, 20, "polls")
            collect.child.kill9()
            recorder.asked.clear()
            await asyncio.to_thread(collect.start)
            await until(lambda: len(recorder.asked) > 1, 20, "polls")
            assert all("from" in request.query for request in recorder.asked)
        await until(lambda: reached() == recorder.count - 1, 30, "polls")
        await asyncio.to_thread(collect.child.stop)
        there = await collect.values()
        assert sorted(set(there)) == list(range(recorder.count))
        assert len(there) - len(set(there)) <= kills * 5 * PAGE
        (at,) = (await newest(kafka.bootstrap, topics.positions(unique))).values()
        assert json.loads(at)["newest_ns"] == (BEGIN_S + recorder.count - 1) * 10**9
