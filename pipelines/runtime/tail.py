"""Follow topics from a bounded distance before their ends, for those who only look: nothing is committed, no group is joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from pipelines.errors import Unavailable
from pipelines.runtime import kafka

READ_S_MAX = 60.0
POLL_MS, POLL_RECORDS_MAX = 200, 500
Take = Callable[[kafka.Record], None]


@asynccontextmanager
async def following(brokers: str, back: Mapping[str, int]) -> AsyncIterator[Callable[[Take], Awaitable[None]]]:
    """Gives a function that hands over the committed records up to the present end of topics, each once, in order of partition.

    `back`: by topic, from how many records before the end of each partition as it is now. Topics that do not exist are left out.
    `Unavailable` without a broker, or if the ends are not reached within `READ_S_MAX`.
    """
    probe = await kafka.consumer(brokers)
    try:
        there = sorted(set(back) & await probe.topics())
    finally:
        await kafka.stopped(probe)
    if not there:
        yield _nothing
        return
    consumer = await kafka.consumer(brokers, *there, max_poll_records=POLL_RECORDS_MAX)
    try:
        await _set_back(consumer, back)
        yield lambda take: _read(consumer, take)
    finally:
        await kafka.stopped(consumer)


async def _nothing(take: Take) -> None:
    """There is no topic to read."""


async def _set_back(consumer: kafka.Client, back: Mapping[str, int]) -> None:
    try:
        places = consumer.assignment()
        first, end = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    except kafka.KafkaError as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"Kafka does not say how long its topics are: {e!r}") from e
    for place in places:
        consumer.seek(place, max(first[place], end[place] - back[place.topic]))


async def _read(consumer: kafka.Client, take: Take) -> None:
    try:
        async with asyncio.timeout(READ_S_MAX):
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    for record in records:
                        take(record)
    except (TimeoutError, kafka.KafkaError) as e:
        kafka.raise_refusal(e)
        names = ", ".join(sorted({place.topic for place in consumer.assignment()}))
        raise Unavailable(f"{names}: could not be read to the end: {e!r}") from e
