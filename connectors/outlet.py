"""Kafka's side of a collector: hands records over and returns only when Kafka has them, however long that takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from connectors.backoff import Backoff
from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.errors import Unavailable
from pipelines.runtime import kafka
from pipelines.wire import FrameInfo, Headers

TAIL_RECORDS = 64  # looked at in each partition for our last watermark; each collector writes at least once a second
log = logging.getLogger("collect")


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record."""

    topic: str
    partition: int
    value: bytes
    headers: Headers = field(default_factory=list)
    key: bytes | None = None


class Outlet:
    """An idempotent producer that is made anew whenever Kafka fails. Records can then arrive twice, and never not at all."""

    def __init__(self, brokers: str, stop: asyncio.Event) -> None:
        self._brokers, self._stop = brokers, stop
        self._producer: kafka.Client | None = None
        self._backoff = Backoff()
        self.failing = False

    async def send(self, records: Sequence[Record]) -> None:
        """Return when Kafka has acknowledged all; `Unavailable` only if `stop` is set before it has."""
        while True:
            try:
                await self._try(records)
            except (kafka.KafkaError, Unavailable) as e:
                kafka.raise_refusal(e)
                self._complain(e)
                await self.close()
                await self._backoff.wait(self._stop)
                if self._stop.is_set():
                    raise Unavailable(
                        "stopped before Kafka had taken the last readings; the devices' broker keeps them"
                    ) from e
            else:
                self.failing = False
                self._backoff.reset()
                return

    async def resume(self, topic: str, partitions: int, source: str) -> int:
        """The newest watermark that `source` has promised in `topic`, ns; `TIME_MIN` if none is found near its end."""
        while not self._stop.is_set():
            try:
                return await _last_watermark(self._brokers, topic, partitions, source)
            except (kafka.KafkaError, Unavailable) as e:
                kafka.raise_refusal(e)
                self._complain(e)
                await self._backoff.wait(self._stop)
        return TIME_MIN

    def _complain(self, error: Exception) -> None:
        self.failing = True
        text = error or type(error).__name__
        log.warning("Kafka at %s does not answer, nothing is acknowledged to devices: %s", self._brokers, text)

    async def _try(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            self._producer = await kafka.producer(self._brokers)
        sent = [
            await self._producer.send(r.topic, r.value, key=r.key, partition=r.partition, headers=r.headers)
            for r in records
        ]
        results = await asyncio.gather(*sent, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        """Give the producer up; what it still holds was never acknowledged to a device."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await kafka.discarded(producer)


async def _last_watermark(brokers: str, topic: str, partitions: int, source: str) -> int:
    consumer = await kafka.consumer(brokers, isolation="read_uncommitted")
    found = TIME_MIN
    try:
        places = [kafka.Place(topic, p) for p in range(partitions)]
        consumer.assign(places)
        ends, begins = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - TAIL_RECORDS))
        while [p for p in places if await consumer.position(p) < ends[p]]:
            for records in (await consumer.getmany(timeout_ms=kafka.FETCH_WAIT_MS)).values():
                infos = (FrameInfo.of(r.headers) for r in records)
                found = max(
                    found, *(i.watermark for i in infos if i.source == source and i.watermark < TIME_MAX), TIME_MIN
                )
    finally:
        await kafka.stopped(consumer)
    return found
