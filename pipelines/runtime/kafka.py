"""Access to Kafka: the one module that knows aiokafka, so that another client could replace it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    ProducerFenced,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.partitioner import murmur2
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest

from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import identity
from pipelines.topics import Topic

SESSION_TIMEOUT_MS = 6_000  # a killed worker's partitions are back within this
FETCH_WAIT_MS = 50  # aiokafka has one fetch in flight per broker: a long wait on idle partitions starves the busy ones
FETCH_PARTITION_BYTES_MAX = 4 * 2**20
REQUEST_BYTES_MAX = 8 * 2**20
REQUEST_TIMEOUT_MS = 10_000  # after it a broker that does not answer is taken for dead
RETRY_BACKOFF_MS = (
    20  # Kafka 4 refuses the first write of a transaction now and then (KIP-890): the retry must be quick
)
TRANSACTION_TIMEOUT_MS = 120_000  # the broker aborts what a dead worker left open, if no other worker did so before
CREATE_S_MAX = 10.0
READY_POLL_S = 1.0
START_S_MAX, STOP_S_MAX, DROP_S_MAX = 30.0, 3.0, 1.0
_REFUSALS = {
    TopicAuthorizationFailedError: "topic",
    GroupAuthorizationFailedError: "consumer group",
    TransactionalIdAuthorizationFailed: "transactional id",
    ClusterAuthorizationFailedError: "cluster",
}


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as a consumer gives it. aiokafka's own, a frozen dataclass, takes half of the time of reading small records."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms
    timestamp_type: int
    key: bytes  # or None
    value: bytes  # or None
    checksum: int | None
    serialized_key_size: int
    serialized_value_size: int
    headers: tuple[tuple[str, bytes], ...]


fetcher.ConsumerRecord = Record  # the same fields in the same order: others in the process see no difference

_Goodbyes: TypeAlias = "set[asyncio.Future[None]]"
_goodbyes: ContextVar[_Goodbyes | None] = ContextVar("goodbyes", default=None)  # of the client that is at work here
_close = AIOKafkaConnection.close


def _close_noted(connection: AIOKafkaConnection, *why: Any, **more: Any) -> asyncio.Future[None] | None:
    closed: asyncio.Future[None] | None = _close(connection, *why, **more)
    mine = _goodbyes.get()
    if mine is not None and closed is not None and not closed.done():
        mine.add(closed)
        closed.add_done_callback(mine.discard)
    return closed


# aiokafka waits for no connection that it drops on its way, such as the one it began with, and TLS takes time to say goodbye
AIOKafkaConnection.close = _close_noted

log = logging.getLogger("kafka")
T = TypeVar("T")
Client: TypeAlias = Any  # aiokafka's clients are not typed
Place: TypeAlias = TopicPartition


class _Kip890Noise(logging.Filter):
    """Drops the retriable NotEnoughReplicas warnings with which Kafka 4 opens transactions of old-protocol producers."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "NotEnoughReplicas" not in record.getMessage()


logging.getLogger("aiokafka.producer.sender").addFilter(_Kip890Noise())


async def started(client: Client, brokers: str) -> Client:
    """Start an aiokafka client; `Unavailable` with the address and the cure if no broker answers, `ConfigError` if it
    refuses us or we it.
    """
    client.goodbyes = set()
    before = _goodbyes.set(client.goodbyes)  # its tasks have it from here, too
    try:
        async with asyncio.timeout(START_S_MAX):
            await client.start()
    except tuple(_REFUSALS) as e:
        await stopped(client)
        raise_refusal(e)
    except (KafkaConnectionError, OSError, TimeoutError) as e:
        await stopped(client)
        if wrong := await identity.why_not(brokers):
            raise wrong from e
        raise Unavailable(
            f"no Kafka broker answers at {brokers}: start it, or correct `brokers` in the site file"
        ) from e
    finally:
        _goodbyes.reset(before)
    return client


def raise_refusal(error: BaseException, where: str = "") -> None:
    """`ConfigError`, with what to do, if an error says that the broker does not let us do that; trying again is no use."""
    kind = next((word for refusal, word in _REFUSALS.items() if isinstance(error, refusal)), None)
    if kind:
        named = ", ".join(str(name) for arg in error.args for name in (arg if isinstance(arg, set) else [arg]))
        what = where or named or "(it may write to no topic at all)"
        who = identity.current()
        name = who.service if who else "an unnamed client"
        raise ConfigError(
            f"{name} may not use the {kind} {what}, says the broker: run  pipeline deploy , "
            "which grants each service what its pipeline needs; a foreign topic's owner has to grant it"
        ) from error


async def stopped(client: Client) -> None:
    """Stop a client, whatever state it is in and whether or not the broker is there; never raises."""
    stopping = asyncio.ensure_future(_stop(client))
    await asyncio.wait([stopping], timeout=STOP_S_MAX)
    if not stopping.done() or stopping.cancelled() or stopping.exception():
        stopping.cancel()
        await discarded(client)


async def _stop(client: Client) -> None:
    await (getattr(client, "stop", None) or client.close)()
    loop = asyncio.get_running_loop()
    if closing := [closed for closed in client.goodbyes.copy() if closed.get_loop() is loop]:
        await asyncio.wait(closing)


async def discarded(client: Client) -> None:
    """Drop a client at once: nothing more is sent. A transaction that is open is aborted by the next producer of its id.

    aiokafka's own `stop` would wait until everything is flushed, for ever if the broker is gone; and its requests are retried
    in tasks of their own.
    """
    client._closed = True
    sent = getattr(client, "_message_accumulator", None)
    if sent is not None:
        sent.fail_all(KafkaError("dropped"))
    parts = [getattr(client, name, None) for name in ("_sender", "_fetcher", "_coordinator")]
    tasks = [task for task in asyncio.all_tasks() if any(_owner(task) is part for part in parts if part is not None)]
    while tasks:  # the first cancellation of some makes them wait for others
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=0.1)
        tasks = list(pending)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DROP_S_MAX):  # a broker that is gone says no goodbye
            await (client._client if hasattr(client, "_client") else client.client).close()
    if sent is not None:
        _retrieve_errors(client)


def _owner(task: asyncio.Task[Any]) -> object:
    """The object whose method a task runs."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame.f_locals.get("self") if frame else None


def _retrieve_errors(client: Client) -> None:
    """aiokafka leaves failed futures behind that nobody awaits; asyncio would print a trace for each of them."""
    sent = client._message_accumulator
    batches = [*chain.from_iterable(sent._batches.values()), *sent._pending_batches]
    futures = [f for batch in batches for f in (batch.future, batch._drain_waiter)]
    if client._txn_manager is not None:
        futures.append(client._txn_manager._transaction_waiter)
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def producer(brokers: str, *, transactional_id: str | None = None, linger_ms: int = 0) -> Client:
    """A started idempotent producer (acks=all); transactional if an id is given, which fences older ones of that id."""
    client = AIOKafkaProducer(
        bootstrap_servers=brokers,
        **identity.security(),
        enable_idempotence=True,
        acks="all",
        linger_ms=linger_ms,
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACKOFF_MS,
        max_request_size=REQUEST_BYTES_MAX,
        max_batch_size=2**20,
    )
    return await started(client, brokers)


def is_fenced(client: Client) -> bool:
    """Whether a transactional producer learned that a newer one has its id; its own calls may say it in other words."""
    task = client._sender.sender_task
    return task.done() and not task.cancelled() and isinstance(task.exception(), ProducerFenced)


async def consumer(
    brokers: str,
    *topics: str,
    group: str | None = None,
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
    **options: Any,
) -> Client:
    """A started consumer from the earliest offset that never commits by itself and sees only committed records.

    Partitions are assigned by range: partition p of every topic goes to the same member of the group.
    """
    client = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=brokers,
        **identity.security(),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=SESSION_TIMEOUT_MS // 3,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=FETCH_PARTITION_BYTES_MAX,
        **options,
    )
    return await started(client, brokers)


async def _admin(brokers: str) -> Client:
    return await started(AIOKafkaAdminClient(bootstrap_servers=brokers, **identity.security()), brokers)


async def cluster_id(brokers: str) -> str:
    """The id that a Kafka cluster was given when it was set up; `Unavailable` if no broker answers."""
    admin = await _admin(brokers)
    try:
        return str((await admin.describe_cluster())["cluster_id"])
    finally:
        await stopped(admin)


async def at_end(consumer: Client, place: Place) -> bool:
    """Whether everything that is committed in a partition, as far as the last fetch knows, has been handed out."""
    end = consumer.last_stable_offset(place)
    return end is not None and await consumer.position(place) >= end


@lru_cache(2**17)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key, as Kafka's own clients compute it."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


async def ensure(brokers: str, topics: Iterable[Topic]) -> None:
    """Create the topics that do not exist; `ConfigError` if one has another number of partitions, or a foreign one is missing."""
    wanted = {t.name: t for t in topics}
    admin = await _admin(brokers)
    try:
        existing = set(await admin.list_topics())
        if absent := [t for t in wanted.values() if t.foreign and t.name not in existing]:
            raise ConfigError(
                f"topic {absent[0].name} does not exist, and it is not ours to make: create it with {absent[0].partitions} "
                "partitions, or correct topic= in the pipeline file"
            )
        await _create(admin, [t for t in wanted.values() if t.name not in existing])
        for name, have in (await _partitions(admin, list(wanted))).items():
            if have != (want := wanted[name].partitions):
                raise ConfigError(
                    f"topic {name} has {have} partitions, the site wants {want}: set `partitions = {have}` in the site "
                    "file (changing the number would move devices to other partitions and break their order)"
                )
    finally:
        await stopped(admin)


async def ready(brokers: str, topics: Iterable[Topic], stop: asyncio.Event) -> bool:
    """`ensure` the topics as soon as a broker answers, however long that takes; False if `stop` is set before."""
    wanted = tuple(topics)

    async def ensured() -> bool:
        await ensure(brokers, wanted)
        return True

    return bool(await once_up(ensured, stop))


async def once_up(work: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
    """What `work` gives as soon as a broker answers, however long that takes; None if `stop` is set before."""
    said = ""
    while not stop.is_set():
        try:
            return await work()
        except (Unavailable, KafkaError) as e:
            raise_refusal(e)
            if str(e) != said:
                log.warning("%s; waiting", said := str(e))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_POLL_S):
                await stop.wait()
    return None


_TOPIC_CONFIG = 1  # the source of a setting that a topic has of its own: DescribeConfigs, config_source


async def topics_there(brokers: str) -> tuple[Topic, ...]:
    """Every topic but Kafka's own, with the settings that it has of its own."""
    admin = await _admin(brokers)
    try:
        names = [name for name in await admin.list_topics() if not name.startswith("__")]
        partitions = await _partitions(admin, names)
        answers = await admin.describe_configs([_resource(name) for name in names]) if names else []
    finally:
        await stopped(admin)
    found = []
    for code, message, _, name, entries in (resource for answer in answers for resource in answer.resources):
        _check_setting(code, message, name)
        settings = tuple((key, value) for key, value, _, source, *_ in entries if source == _TOPIC_CONFIG)
        found.append(Topic(name, partitions[name], settings))
    return tuple(found)


async def configure(brokers: str, topics: Iterable[Topic]) -> None:
    """Give topics that are there their settings, and no others."""
    admin = await _admin(brokers)
    try:
        for answer in await admin.alter_configs([_resource(t.name, dict(t.settings)) for t in topics]):
            for code, message, _, name in answer.resources:
                _check_setting(code, message, name)
    finally:
        await stopped(admin)


def _resource(topic: str, settings: dict[str, str] | None = None) -> ConfigResource:
    return ConfigResource(ConfigResourceType.TOPIC, topic, settings)


def _check_setting(code: int, message: str | None, topic: str) -> None:
    if code:
        error = for_code(code)
        raise_refusal(error(), topic)
        raise Unavailable(f"the settings of topic {topic} could not be seen or made: {error.__name__} {message or ''}")


class Acl(msgspec.Struct, frozen=True, order=True):
    """A right of a principal ('User:CN=hall1-process'), from any host. Whatever no ACL allows is refused."""

    principal: str
    operation: Literal["read", "write", "describe"]
    kind: Literal["topic", "group", "transactional id"]
    name: str
    prefixed: bool = False  # everything whose name begins with `name`


# Their numbers in the protocol: https://kafka.apache.org/protocol, org.apache.kafka.common.acl and .resource
_OPERATIONS: dict[str, int] = {"read": 3, "write": 4, "describe": 8}
_KINDS: dict[str, int] = {"topic": 2, "group": 3, "transactional id": 5}
_ANY, _LITERAL, _PREFIXED, _ALLOW = 1, 3, 4, 3
_EVERYWHERE = "*"


def _words(acl: Acl) -> tuple[int, str, int, str, str, int, int]:
    pattern = _PREFIXED if acl.prefixed else _LITERAL
    return _KINDS[acl.kind], acl.name, pattern, acl.principal, _EVERYWHERE, _OPERATIONS[acl.operation], _ALLOW


async def set_acls(
    brokers: str, wanted: Iterable[Acl], principals: Iterable[str], *, revoke: bool
) -> tuple[set[Acl], set[Acl]]:
    """Let `principals` do what is wanted and, with `revoke`, nothing else; what was added and what was too much.

    `ConfigError` if the broker has no authorizer or refuses us.
    """
    admin = await _admin(brokers)
    try:
        had, want = {a for p in principals for a in await _acls_of(admin, p)}, set(wanted)
        for acl in sorted(want - had):
            answer = await admin._send_to_controller(CreateAclsRequest(*_words(acl)))
            for code, message in answer.creation_responses:
                _check_acl(code, message)
        for acl in sorted(had - want) if revoke else ():
            answer = await admin._send_to_controller(DeleteAclsRequest(*_words(acl)))
            for code, message, *_ in answer.filter_responses:
                _check_acl(code, message)
        return want - had, had - want
    finally:
        await stopped(admin)


async def _acls_of(admin: Client, principal: str) -> set[Acl]:
    answer = await admin._send_request(DescribeAclsRequest(_ANY, None, _ANY, principal, None, _ANY, _ANY))
    _check_acl(answer.error_code, answer.error_message)
    kinds, operations = ({n: word for word, n in known.items()} for known in (_KINDS, _OPERATIONS))
    return {
        Acl(principal, operations[operation], kinds[kind], name, pattern == _PREFIXED)  # type: ignore[arg-type]
        for kind, name, pattern, rights in answer.resources
        for _, host, operation, permission in rights
        if kind in kinds and operation in operations and host == _EVERYWHERE and permission == _ALLOW
    }


def _check_acl(code: int, message: str | None) -> None:
    if code:
        error = for_code(code)
        raise_refusal(error(), "(its access control lists)")
        raise ConfigError(
            f"the broker did not take an access control list ({error.__name__}: {message}): set authorizer.class.name="
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer on every broker"
        )


async def _partitions(admin: Client, names: Sequence[str]) -> dict[str, int]:
    """Number of partitions of each topic, once the broker knows all of them: that takes a moment after their creation."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CREATE_S_MAX
    while True:
        found = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics(names)} if names else {}
        if all(found.get(name) for name in names):
            return found
        if loop.time() > deadline:
            missing = ", ".join(name for name in names if not found.get(name))
            raise Unavailable(
                f"the broker does not show the topics {missing} {CREATE_S_MAX:.0f} s after their creation"
            )
        await asyncio.sleep(RETRY_BACKOFF_MS / 1000)


async def _create(admin: Client, topics: Sequence[Topic]) -> None:
    if not topics:
        return
    new = [
        NewTopic(t.name, t.partitions, -1, {}, dict(t.settings)) for t in topics
    ]  # -1: the broker's replication factor
    answer = await admin.create_topics(new)
    for name, code, *message in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise_refusal(error(), name)
            reason = " ".join(str(m) for m in message if m)
            raise Unavailable(f"topic {name} could not be created: {error.__name__} {reason}")


__all__ = ["ConsumerRebalanceListener", "KafkaError", "ProducerFenced"]  # of aiokafka, besides what is made here
