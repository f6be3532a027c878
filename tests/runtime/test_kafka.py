"""Topics on a real broker."""

from __future__ import annotations

import pytest

from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.errors import ConfigError, Unavailable
from pipelines.runtime import kafka as client


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
