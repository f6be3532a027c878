"""Topics and rights are made as asked, on a real broker, and all topics are fitted into the disk again when something changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from containers.embedded import EmbeddedKafka
from pipelines.errors import ConfigError
from pipelines.runtime import kafka, sizing
from pipelines.runtime.grants import Request, carry_out
from pipelines.runtime.kafka import Acl
from pipelines.topics import Topic, compacted, data, foreign

GIB = 2**30
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker whose topics nobody else uses."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), settings=AUTHORIZER) as broker:
        yield broker.bootstrap


async def test_topics_are_made_and_fitted_again_when_the_disk_or_the_topics_change(brokers: str) -> None:
    me = "User:CN=s-process"
    first = Request(
        (data("s.raw", 2), compacted("s.state", 2)), (Acl(me, "read", "topic", "s.raw"),), (me,), False, 4 * GIB
    )
    assert await carry_out(brokers, first) == (1, 0)
    before = await _there(brokers)
    assert before == {t.name: t for t in sizing.fitted(first.topics, 4 * GIB)}
    assert await carry_out(brokers, first) == (0, 0)

    second = _but(first, topics=(data("s.other", 2), compacted("s.state", 2)), acls=(), revoke=True)
    assert await carry_out(brokers, second) == (0, 1)
    after = await _there(brokers)
    assert set(after) == {"s.raw", "s.other", "s.state"}  # what nobody uses any more stays, and has its share
    assert sizing.bytes_at_most(after.values()) <= 4 * GIB
    assert _retention(after["s.raw"]) == _retention(after["s.other"]) < _retention(before["s.raw"])
    assert dict(after["s.raw"].settings)["message.timestamp.type"] == "LogAppendTime"

    assert await carry_out(brokers, _but(second, disk_bytes=8 * GIB)) == (0, 0)
    larger = await _there(brokers)
    assert _retention(larger["s.raw"]) > _retention(before["s.raw"])
    with pytest.raises(ConfigError, match=r"kafka.disk = '512MiB' is too small: 3 topics with 6 partitions"):
        await carry_out(brokers, _but(second, disk_bytes=GIB // 2))
    assert await _there(brokers) == larger

    plain = Request((data("s.plain", 1),), (), (), False)  # of a broker that is not ours: as the topic says
    await carry_out(brokers, plain)
    assert _retention((await _there(brokers))["s.plain"]) == GIB


async def test_a_topic_of_others_is_not_made(brokers: str) -> None:
    with pytest.raises(ConfigError, match=r"topic erp.orders does not exist, and it is not ours to make"):
        await carry_out(brokers, Request((foreign("erp.orders", 1),), (), (), False))


def test_a_request_that_no_command_can_carry_is_refused() -> None:
    names = random.Random(1)
    topics = tuple(data(f"s.{names.getrandbits(4000):x}", 1) for _ in range(300))
    with pytest.raises(ConfigError, match=r"too many topics for one broker \(300\): split it in two"):
        Request(topics, (), (), False).word()


def _but(of: Request, **changes: object) -> Request:
    return msgspec.structs.replace(of, **changes)


async def _there(brokers: str) -> dict[str, Topic]:
    found = await kafka.topics_there(brokers)
    return {t.name: replace(t, settings=_sorted(t)) for t in found}


def _sorted(topic: Topic) -> tuple[tuple[str, str], ...]:
    """In the order in which topics declare them: the broker has its own."""
    order = list(dict((compacted if sizing.is_compacted(topic) else data)("x", 1).settings))
    return tuple(sorted(topic.settings, key=lambda kv: order.index(kv[0])))


def _retention(topic: Topic) -> int:
    return int(dict(topic.settings)["retention.bytes"])
