"""An account in Kafka: a compacted topic of which one process at a time may write the records, and others may read them.

Every write is a transaction under one transactional id, and opening the account fences whoever had it before. So a process
that was cut off, or frozen, and does not know that another took over can put nothing on record, and hence do nothing that must
be on record first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeVar

import msgspec

from pipelines.errors import StateError, Unavailable
from pipelines.runtime import kafka

WRITE_S_MAX = 15.0  # shorter than the broker's own limit (kafka.TRANSACTION_TIMEOUT_MS)
READ_S_MAX = 60.0
ABORT_S_MAX = 2.0
POLL_MS = 200
T = TypeVar("T")
_TOUCH = b"owner"  # a tombstone that readers need not know


class Beside(NamedTuple):
    """A record of another topic, in its partition 0."""

    topic: str
    value: bytes
    key: bytes | None = None


Line = tuple[int, bytes, bytes | None]  # partition, key, value; None: off the record


class Account:
    """The right to write an account. `service` is who has it, for people."""

    def __init__(self, topic: str, service: str, producer: kafka.Client) -> None:
        self._topic, self._service, self._producer = topic, service, producer

    @classmethod
    async def open(cls, brokers: str, topic: str, identifier: str, service: str) -> Self:
        """Take the right from whoever has it; what it was writing is aborted. `Unavailable` without a broker."""
        return cls(topic, service, await kafka.producer(brokers, transactional_id=identifier))

    async def close(self) -> None:
        """Give up the connection; never raises."""
        await kafka.stopped(self._producer)

    async def write(self, lines: Sequence[Line], beside: Sequence[Beside] = ()) -> None:
        """Put lines on record, and records of other topics `beside` them, all or none; return when Kafka has committed.

        `Unavailable` if it has not, or if the right is lost: the account is then of no more use, and its process must end.
        """
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self._producer.begin_transaction()
                sent = [await self._producer.send(self._topic, value, key=key, partition=p) for p, key, value in lines]
                sent += [await self._producer.send(b.topic, b.value, key=b.key, partition=0) for b in beside]
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
                f"another {self._service} took over: run one a site"
                if fenced else f"Kafka did not put {len(lines)} records of {self._topic} on record: {e!r}"
            ) from e  # fmt: skip

    async def touch(self) -> None:
        """Make sure that the right is not lost; as `write`."""
        await self.write([(0, _TOUCH, None)])


async def newest(brokers: str, topic: str) -> dict[bytes, bytes]:
    """The newest value of each key on record; none if there is no such topic. `Unavailable` without a broker."""
    found: dict[bytes, bytes] = {}
    for key, value in await records(brokers, topic):
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return found


async def newest_as(brokers: str, topic: str, kind: type[T], what: str) -> list[T]:
    """The newest value of each key, as what its JSON is; as `newest`, and `StateError` if one is no `what`."""
    found: list[T] = []
    for key, value in (await newest(brokers, topic)).items():
        try:
            found.append(msgspec.json.decode(value, type=kind))
        except msgspec.DecodeError as e:
            raise StateError(f"{topic} holds what is no {what}, under key {key!r} ({e}): delete that record") from e
    return found


async def records(brokers: str, topic: str) -> list[tuple[bytes, bytes | None]]:
    """Key and value of every record of a topic; none if there is no such topic. `Unavailable` without a broker."""
    if not await exists(brokers, topic):
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


async def exists(brokers: str, topic: str) -> bool:
    """Whether there is such a topic. `Unavailable` without a broker."""
    consumer = await kafka.consumer(brokers)
    try:
        return topic in await consumer.topics()
    finally:
        await kafka.stopped(consumer)
