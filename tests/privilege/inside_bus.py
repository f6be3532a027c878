"""What is tried with a service's own identity on the brokers: given to `python3 -c` within its container, which has all it needs.

inside_bus.py '{"try": {"name": ["act", arg, …], …}, "as": "collect"}'      {"name": [allowed, "what happened"], …}
    inside_bus.py '{"try at once": …}'                                          the same, not one after the other
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, for_code

from pipelines.errors import ConfigError
from pipelines.runtime import identity, kafka
from pipelines.settings import Settings

SETTINGS = msgspec.json.decode(Path("/run/sitestream/settings.json").read_bytes(), type=Settings)
BROKERS = SETTINGS.brokers
LIMIT_S = 60
REFUSED = "AuthorizationFailed"


async def read(topic: str) -> None:
    """Read its first record."""
    consumer = await kafka.consumer(BROKERS)
    try:
        if topic not in await consumer.topics():
            raise TopicAuthorizationFailedError(topic)  # whoever may not describe it is told that there is none
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        await consumer.getone()
    finally:
        await kafka.stopped(consumer)


async def write(topic: str) -> None:
    """Append a record."""
    producer = await kafka.producer(BROKERS)
    try:
        await producer.send_and_wait(topic, b"test", partition=0)
    finally:
        await kafka.stopped(producer)


async def commit(group: str, topic: str) -> None:
    """Set a group's offset back; a group that has members takes it from these alone, after it has looked at our rights."""
    consumer = await kafka.consumer(BROKERS, group=group)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.commit({TopicPartition(topic, 0): 0})
    finally:
        await kafka.stopped(consumer)


async def open_transactions(transactional_id: str) -> None:
    """Fence whoever has that id."""
    await kafka.stopped(await kafka.producer(BROKERS, transactional_id=transactional_id))


async def create(topic: str) -> None:
    """Make a topic."""
    _check((await _admin(lambda a: a.create_topics([NewTopic(topic, 1, 1)]))).topic_errors)


async def alter(topic: str) -> None:
    """Let a topic forget at once."""
    config = ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "1000"})
    for answer in await _admin(lambda a: a.alter_configs([config])):
        _check((name, code) for code, _, _, name, *_ in answer.resources)


async def empty(topic: str) -> None:
    """Delete a topic's records."""
    place = TopicPartition(topic, 0)
    await _admin(lambda a: a.delete_records({place: RecordsToDelete(before_offset=-1)}))


async def delete(topic: str) -> None:
    """Delete a topic."""
    _check((await _admin(lambda a: a.delete_topics([topic]))).topic_error_codes)


async def grant(principal: str, topic: str) -> None:
    """Give somebody a right."""
    right = kafka.Acl(principal, "read", "topic", topic)
    await kafka.set_acls(BROKERS, [right], [principal], revoke=False)
    await kafka.set_acls(BROKERS, [], [principal], revoke=True)


async def _admin(work: Any) -> Any:
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKERS, **identity.security())
    await admin.start()
    try:
        return await work(admin)
    finally:
        with contextlib.suppress(KafkaError):
            await admin.close()


def _check(errors: Iterable[tuple[Any, ...]]) -> None:
    for _, code, *_ in errors:
        if code:
            raise for_code(code)()


async def attempt(act: str, arguments: list[Any]) -> tuple[bool, str]:
    """Whether an act is allowed. What is not refused was allowed, whatever became of it."""
    try:
        await asyncio.wait_for(globals()[act](*arguments), LIMIT_S)
    except ConfigError as e:
        return "says the broker" not in str(e), str(e)
    except KafkaError as e:
        return REFUSED not in type(e).__name__, f"{type(e).__name__}: {e}"
    except TimeoutError:
        return True, f"neither done nor refused within {LIMIT_S} s"
    return True, "done"


async def main() -> None:
    """See above."""
    logging.disable()
    asked = json.loads(sys.argv[1])
    identity.become(asked["as"], SETTINGS)
    acts = asked.get("try at once") or asked["try"]
    begun = [attempt(act, arguments) for act, *arguments in acts.values()]
    found = [await one for one in begun] if "try" in asked else await asyncio.gather(*begun)
    print(json.dumps(dict(zip(acts, found, strict=True))))


asyncio.run(main())
