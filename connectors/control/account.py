"""The ledger in Kafka: `{site}.control.ack`, compacted, keyed by command id. One owner writes it, others may read it.

Every write is a transaction under one transactional id, and opening the account fences whoever had it before. So a process
that was cut off, or frozen, and does not know that another took over can put nothing on record, and hence actuate nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Self

import msgspec

from connectors.control.ledger import Entry
from pipelines import topics
from pipelines.errors import StateError, Unavailable
from pipelines.runtime import kafka

WRITE_S_MAX = 15.0  # shorter than the broker's own limit (kafka.TRANSACTION_TIMEOUT_MS)
READ_S_MAX = 60.0
ABORT_S_MAX = 2.0
POLL_MS = 200
_TOUCH = b"owner"  # a tombstone that readers need not know


class Account:
    """The right to write the ledger of a site."""

    def __init__(self, site: str, producer: kafka.Client) -> None:
        self._site, self._topic, self._producer = site, topics.acks(site), producer

    @classmethod
    async def open(cls, brokers: str, site: str) -> Self:
        """Take the right from whoever has it; what it was writing is aborted. `Unavailable` without a broker."""
        return cls(site, await kafka.producer(brokers, transactional_id=f"{site}.control"))

    async def close(self) -> None:
        """Give up the connection; never raises."""
        await kafka.stopped(self._producer)

    async def write(
        self, entries: Sequence[Entry], old: Sequence[Entry] = (), audit: Sequence[msgspec.Struct] = ()
    ) -> None:
        """Put entries on record and take `old` ones off, with what is audited, all or none; return when Kafka has committed.

        `Unavailable` if it has not, or if the right is lost: the account is then of no more use, and its process must end.
        """
        kept = [(self._topic, e.partition, e.command.id.encode(), msgspec.json.encode(e)) for e in entries]
        forgotten = [(self._topic, e.partition, e.command.id.encode(), None) for e in old]
        audited = [(topics.audit(self._site), 0, None, msgspec.json.encode(r)) for r in audit]
        await self._commit([*kept, *forgotten, *audited])

    async def touch(self) -> None:
        """Make sure that the right is not lost; as `write`."""
        await self._commit([(self._topic, 0, _TOUCH, None)])

    async def _commit(self, records: Sequence[tuple[str, int, bytes | None, bytes | None]]) -> None:
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self._producer.begin_transaction()
                sent = [await self._producer.send(at, value, key=key, partition=p) for at, p, key, value in records]
                await asyncio.gather(*sent)
                await self._producer.commit_transaction()
        except (kafka.KafkaError, TimeoutError) as e:
            kafka.raise_refusal(e)
            fenced = kafka.is_fenced(self._producer) or isinstance(e, kafka.ProducerFenced)
            with contextlib.suppress(
                kafka.KafkaError, TimeoutError, AssertionError
            ):  # aiokafka asserts its own state machine
                async with asyncio.timeout(ABORT_S_MAX):
                    await self._producer.abort_transaction()
            raise Unavailable(
                f"another control service of site {self._site} took over: run one a site"
                if fenced else f"Kafka did not put {len(records)} ledger entries on record: {e!r}"
            ) from e  # fmt: skip


async def read(brokers: str, site: str) -> list[Entry]:
    """Every entry on record; none if the site never had control. `StateError` if a record is no entry."""
    topic, entries = topics.acks(site), dict[bytes, Entry]()
    for key, value in await values(brokers, topic):
        if value is None:
            entries.pop(key, None)
            continue
        try:
            entries[key] = msgspec.json.decode(value, type=Entry)
        except msgspec.DecodeError as e:
            raise StateError(
                f"{topic} holds what is no ledger entry, under key {key!r} ({e}): delete that record"
            ) from e
    return list(entries.values())


async def values(brokers: str, topic: str) -> list[tuple[bytes, bytes | None]]:
    """Key and value of every record of a topic; none if there is no such topic. `Unavailable` without a broker."""
    if not await _exists(brokers, topic):
        return []
    consumer = await kafka.consumer(brokers, topic)
    found: list[tuple[bytes, bytes | None]] = []
    try:
        async with asyncio.timeout(READ_S_MAX):
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    found += [(r.key, r.value) for r in records]
    except (TimeoutError, kafka.KafkaError) as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"{topic} could not be read to its end: {e!r}") from e
    finally:
        await kafka.stopped(consumer)
    return found


async def _exists(brokers: str, topic: str) -> bool:
    consumer = await kafka.consumer(brokers)
    try:
        return topic in await consumer.topics()
    finally:
        await kafka.stopped(consumer)
