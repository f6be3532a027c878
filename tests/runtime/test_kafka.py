"""Topics on a real broker."""

from __future__ import annotations

import dataclasses

import pytest
from aiokafka import ConsumerRecord

from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import kafka as client
from tests.bed.topics import create_topic


async def test_topics_are_created_once_with_their_settings(kafka: EmbeddedKafka, unique: str) -> None:
    wanted = [topics.data(f"{unique}.a", 3), topics.compacted(f"{unique}.b", 2)]
    for _ in range(2):
        await client.ensure(kafka.bootstrap, wanted)
    await client.ensure(kafka.bootstrap, [])


async def test_another_number_of_partitions_is_refused(kafka: EmbeddedKafka, unique: str) -> None:
    await client.ensure(kafka.bootstrap, [topics.data(unique, 3)])
    with pytest.raises(ConfigError, match=rf"topic {unique} has 3 partitions, the site wants 4: set `partitions = 3`"):
        await client.ensure(kafka.bootstrap, [topics.data(unique, 4)])


async def test_a_setting_that_the_broker_refuses_is_named(kafka: EmbeddedKafka, unique: str) -> None:
    wrong = topics.Topic(unique, 1, (("retention.ms", "soon"),))
    with pytest.raises(Unavailable, match=f"topic {unique} could not be created: InvalidConfig.* retention.ms"):
        await client.ensure(kafka.bootstrap, [wrong])


async def test_records_are_light_and_have_all_that_the_clients_own_have(kafka: EmbeddedKafka, unique: str) -> None:
    await create_topic(kafka.bootstrap, unique)
    producer = await client.producer(kafka.bootstrap)
    await producer.send_and_wait(unique, b"v", key=b"k", partition=0, timestamp_ms=5, headers=[("h", b"1")])
    await producer.send_and_wait(unique, None, key=b"k", partition=0)
    await client.stopped(producer)
    consumer = await client.consumer(kafka.bootstrap)
    consumer.assign([client.Place(unique, 0)])
    got: list[client.Record] = []
    while len(got) < 2:
        got += [r for records in (await consumer.getmany(timeout_ms=500)).values() for r in records]
    await client.stopped(consumer)
    assert isinstance(got[0], client.Record), "aiokafka makes its records elsewhere now"
    assert set(client.Record.__struct_fields__) == {f.name for f in dataclasses.fields(ConsumerRecord)}
    assert (got[0].topic, got[0].partition, got[0].offset, got[0].timestamp) == (unique, 0, 0, 5)
    assert (got[0].key, got[0].value, got[0].headers) == (b"k", b"v", (("h", b"1"),))
    assert got[1].value is None
