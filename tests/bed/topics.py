"""Topics, records and offsets of a real Kafka, in one line each."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def create_topic(bootstrap: str, name: str, partitions: int = 1, **settings: str) -> str:
    """Create a topic and return its name; settings are written with `_` for `.`, e.g. `cleanup_policy="compact"`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
        assert not any(code for _, code, *_ in answer.topic_errors), f"{name} could not be made: {answer}"
        while name not in await admin.list_topics():
            pass  # the broker takes a moment to show it
    finally:
        await admin.close()
    return name


async def produce(bootstrap: str, topic: str, *values: bytes, partition: int = 0) -> None:
    """Append records to one partition and wait until Kafka has them."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in values:
            await producer.send(topic, value, partition=partition)


async def consume_all(bootstrap: str, topic: str, *, partition: int = 0) -> list[bytes]:
    """Every committed record of one partition, from its beginning to its present end."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed") as consumer:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        values: list[bytes] = []
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                values += [record.value for record in records]
    return values
