"""A broker is cut to memory and disk: what is computed holds for any site, and what cannot be is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.runtime import sizing
from pipelines.runtime.sizing import MIB
from pipelines.topics import Topic, compacted, data

GIB = 2**30


def limits(topic: Topic) -> tuple[int, int]:
    settings = dict(topic.settings)
    return int(settings["retention.bytes"]), int(settings["segment.bytes"])


def topics_of(kinds: list[tuple[int, int]]) -> list[Topic]:
    """Topics by (number of partitions, MiB asked for); 0 MiB: compacted."""
    return [
        data(f"t{i}", n, retention_bytes=asked * MIB) if asked else compacted(f"t{i}", n)
        for i, (n, asked) in enumerate(kinds)
    ]


@given(
    st.lists(st.tuples(st.integers(1, 256), st.sampled_from((0, 1, 64, 1024, 4096))), min_size=1, max_size=20),
    st.integers(0, 2**40),
)
def test_all_topics_fit_whatever_they_are(kinds: list[tuple[int, int]], more: int) -> None:
    topics = topics_of(kinds)
    disk = sizing.bytes_needed(topics) + more
    fitted = sizing.fitted(topics, disk)
    assert sizing.bytes_at_most(fitted) <= disk
    assert [(t.name, t.partitions) for t in fitted] == [(t.name, t.partitions) for t in topics]
    for topic in fitted:
        if not sizing.is_compacted(topic):
            retention, segment = limits(topic)
            assert retention >= 2 * segment
            assert sizing.SEGMENT_BYTES_MIN <= segment <= sizing.SEGMENT_BYTES_MAX


@given(st.lists(st.tuples(st.integers(1, 16), st.sampled_from((0, 64, 1024))), min_size=1, max_size=8))
def test_a_byte_less_than_needed_is_refused(kinds: list[tuple[int, int]]) -> None:
    topics = topics_of(kinds)
    needed = sizing.bytes_needed(topics)
    with pytest.raises(ConfigError, match=rf"too small: {len(topics)} topics with .* need '{needed // MIB}MiB'|GiB'"):
        sizing.fitted(topics, needed - 1)


def test_a_large_disk_is_divided_by_what_each_asks_for() -> None:
    topics = [data("raw", 4), data("commands", 4, retention_bytes=64 * MIB), compacted("state", 4)]
    raw, commands, state = sizing.fitted(topics, 100 * GIB)
    assert state == topics[2]
    held = [limits(t)[0] + 2 * limits(t)[1] for t in (raw, commands)]
    assert held[0] / held[1] == pytest.approx(16, rel=1e-6)
    assert sizing.bytes_at_most((raw, commands, state)) > 100 * GIB - 64
    assert dict(raw.settings)["message.timestamp.type"] == "LogAppendTime"


def test_what_is_small_keeps_its_minimum_and_the_rest_is_divided() -> None:
    raw, commands = sizing.fitted([data("raw", 1), data("commands", 1, retention_bytes=MIB)], 1 * GIB)
    assert limits(commands) == (2 * 8 * MIB, 8 * MIB)
    retention, segment = limits(raw)
    assert retention + 2 * segment == 1 * GIB - sizing.OWN_BYTES - sizing.SHARE_BYTES_MIN


def test_memory() -> None:
    assert sizing.heap_bytes(512 * MIB) == 288 * MIB
    assert sizing.heap_bytes(16 * GIB) == 1 * GIB
    with pytest.raises(
        ConfigError, match=r"kafka.memory = '256MiB' is too little for a broker: write '384MiB' or more"
    ):
        sizing.heap_bytes(256 * MIB)
    assert [sizing.dedupe_bytes(heap * MIB) // MIB for heap in (16, 288, 4096)] == [2, 18, 64]
