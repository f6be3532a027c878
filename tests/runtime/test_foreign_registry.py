"""A foreign topic of Avro on a real broker, while the registry is away, comes back, and learns of a new schema.

The registry is the small one of test_kafka_registry.py, where a real one is read, too: this one can be away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from connectors import kafka as foreign
from containers.embedded import EmbeddedKafka
from pipelines import Pipeline, tumbling
from pipelines.errors import Unavailable
from pipelines.runtime.job import Job
from pipelines.runtime.serve import Health
from tests.bed import free_port, until
from tests.bed.topics import create_topic
from tests.connectors.test_kafka_avro import record, written
from tests.connectors.test_kafka_registry import answering, framed
from tests.core.programs import Shelf
from tests.runtime.plant import Reading, Tens
from tests.runtime.site import Rows, Site, story, truth
from tests.runtime.test_foreign import BEGIN_S, send
from tests.runtime.test_inbox import Record

FIRST = record("Reading", device="string", time="long", x="double")
SECOND = record("Reading", note=["null", "string"], x=["null", "float", "double"], time="long", device="string")
NOBODYS = json.dumps({"error_code": 40403, "message": "Schema not found"}).encode()


def program(topic: str, url: str) -> Pipeline:
    flow = Pipeline("plant")
    payload = foreign.Avro(registry=foreign.Registry(url=url))
    source = foreign.source(Reading, topic=topic, stream="readings", payload=payload, time_unit="ms")
    flow.read(source).window(tumbling("10s", late="0s"), Tens).to(Shelf())
    return flow


def messages(number: int, schema: Any, frames: Iterable[Rows]) -> list[bytes]:
    values = [{"device": d, "time": round(t * 1000), "x": x, "note": None} for rows in frames for d, t, x in rows]
    return [framed(number, written(schema, value)) for value in values]


async def test_nothing_is_lost_while_the_registry_is_away(kafka: EmbeddedKafka, unique: str) -> None:
    topic, port, health = await create_topic(kafka.bootstrap, f"{unique}.raw", 2), free_port(), Health()
    site = await Site(unique, kafka.bootstrap, program(topic, f"http://127.0.0.1:{port}")).create()
    schemas, asked = {1: FIRST}, list[int]()

    def answer(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        asked.append(number := int(path.rpartition("/")[2]))
        known = schemas.get(number)
        return (404, NOBODYS) if known is None else (200, json.dumps({"schema": json.dumps(known)}).encode())

    frames = story(30, start=BEGIN_S)
    early, late = messages(1, FIRST, frames[:15]), messages(2, SECOND, frames[15:])
    end = messages(2, SECOND, [[("end", BEGIN_S + 100, 0.0)]])
    await send(kafka.bootstrap, topic, early)
    async with site.running():
        pass  # one that is stopped while it waits
    async with site.running(health=health):
        await until(lambda: not health.conditions["schemas"], what="the worker to say that it lacks a schema")
        assert not await site.windows()
        with answering(answer, port):
            await until(lambda: asked and health.ok, what="the worker to have the schema")
            schemas[2] = SECOND
            await send(kafka.bootstrap, topic, [*late[:20], framed(9, b"?"), b"{}", *late[20:], *end])
            await site.wait_for_windows(truth(frames))
    assert [asked.count(number) for number in (1, 2, 9)] == [1, 1, 2]
    (letters,) = (await site.log(f"{unique}.dead")).values()
    assert [dict(r.headers)["reason"] for r in letters] == [b"unknown_schema", b"not_framed"]
    assert (await site.recover()).offsets == {topic: len(early) + len(late) + len(end) + 2}


async def test_a_replay_needs_the_schemas_too() -> None:
    port = free_port()
    job = Job(program("raw", f"http://127.0.0.1:{port}").plan(), "hall", "", 1)
    records = [Record("raw", i, BEGIN_S * 10**6, m) for i, m in enumerate(messages(1, FIRST, story(2, start=BEGIN_S)))]
    with pytest.raises(Unavailable, match="the schema registry does not answer"):
        await job.read_all("raw", records)
    answer = json.dumps({"schema": json.dumps(FIRST)}).encode()
    with answering(lambda path, headers: (200, answer), port):
        (frame,) = await job.read_all("raw", records)
    assert len(frame.batch) == 6
