"""Sitestream at the same job, exactly once: from the JSON topic itself, or from frames of 2,000 rows; and the limits."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from benchmarks.measure import report
from benchmarks.peers.job import PARTITIONS
from connectors import kafka as foreign
from connectors import topic
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.runner import Runner
from pipelines.runtime.service import set_up_logging

SITE = "peers"


class Reading(Schema):
    sensor = Key[str]()
    value = Col[float]()


class Tens(Schema):
    count = agg.count()
    mean = agg.mean(Reading.value)
    min = agg.min(Reading.value)
    max = agg.max(Reading.value)


def job(brokers: str, name: str, json_topic: str = "", window: str = "10s") -> Job:
    """Under a name of its own, so that each run begins at the beginning."""
    pipeline = Pipeline(name)
    source: Any = topic.append(Reading, "frames")
    if json_topic:
        source = foreign.source(Reading, topic=json_topic, time="ts", time_unit="ms")
    pipeline.read(source).window(tumbling(window, late="0s"), Tens).to(topic.results())
    return Job(pipeline.plan(), SITE, brokers, PARTITIONS)


async def process(what: Job) -> None:
    """From the first fetch to the commit of the last result."""
    set_up_logging("WARNING")
    await kafka.ensure(what.brokers, what.plan.topics(SITE, PARTITIONS))
    ends = await _ends(what)
    stop, runner = asyncio.Event(), Runner(what)
    running = asyncio.create_task(runner.run(stop))
    while len(runner.offsets) < PARTITIONS and not running.done():  # noqa: ASYNC110 - the runner does not tell
        await asyncio.sleep(0.002)
    start = time.perf_counter()
    while runner.committed != ends and not running.done():  # noqa: ASYNC110 - nor that
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - start
    stop.set()
    await running
    report(seconds=seconds)


async def serve(what: Job) -> None:
    """Until the process ends."""
    set_up_logging("WARNING")
    await kafka.ensure(what.brokers, what.plan.topics(SITE, PARTITIONS))
    print("first", flush=True)
    await Runner(what).run(asyncio.Event())


async def _ends(what: Job) -> dict[kafka.Place, int]:
    consumer = await kafka.consumer(what.brokers)
    places = [place for p in range(PARTITIONS) for place in what.inputs(p)]
    ends = await consumer.end_offsets(places)
    await kafka.stopped(consumer)
    return dict(ends)


async def limit(brokers: str, name: str, *, parse: bool) -> None:
    """Read the JSON topic with the same client, and perhaps parse it and add it up."""
    consumer = await kafka.consumer(brokers)
    places = [kafka.Place(name, p) for p in range(PARTITIONS)]
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    left, start = sum((await consumer.end_offsets(places)).values()), time.perf_counter()
    while left:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            left -= len(records)
            if parse:
                table = pj.read_json(pa.BufferReader(b"\n".join([r.value for r in records])))
                codes = table["sensor"].combine_chunks().dictionary_encode().indices.to_numpy()
                np.bincount(codes, table["value"].to_numpy())
    report(seconds=time.perf_counter() - start)
    await kafka.stopped(consumer)


if __name__ == "__main__":
    brokers = os.environ["BROKERS"]
    match sys.argv[1:]:
        case ["json", name]:
            asyncio.run(process(job(brokers, name, os.environ["TOPIC"])))
        case ["live", name]:
            asyncio.run(serve(job(brokers, name, os.environ["TOPIC"], f"{os.environ['WINDOW_MS']}ms")))
        case ["frames", name]:
            asyncio.run(process(job(brokers, name)))
        case [what]:
            asyncio.run(limit(brokers, os.environ["TOPIC"], parse=what == "parse"))
