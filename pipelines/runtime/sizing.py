"""How a site's own broker is cut to the memory and the disk that the site gives it. Pure.

Kafka deletes whole segments, a while after a partition has passed its retention. So a partition may hold its retention, a segment
that is not yet old enough to go, and what is written until Kafka looks again, for which another segment is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipelines.errors import ConfigError
from pipelines.topics import Topic
from pipelines.units import show_size

MIB = 2**20
NO_HEAP_BYTES = (
    224 * MIB
)  # of the broker's memory: what Java needs besides its heap, and the Python that looks after it
HEAP_BYTES_MIN, HEAP_BYTES_MAX = 160 * MIB, 1024 * MIB  # more is of more use to the system, which caches files
DEDUPE_BYTES_MIN, DEDUPE_BYTES_MAX = 2 * MIB, 64 * MIB  # of the heap, for compaction

OWN_BYTES = 512 * MIB  # of the disk: Kafka's own topics (offsets, transactions, metadata), indexes
COMPACTED_BYTES = 64 * MIB  # a partition of a compacted topic; Kafka cannot limit these
SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX = 8 * MIB, 64 * MIB  # at least the largest message
SHARE_BYTES_MIN = 4 * SEGMENT_BYTES_MIN  # a partition of any other topic


def heap_bytes(memory_bytes: int) -> int:
    """Java's heap in a container with so much memory; `ConfigError` if that is too little."""
    if memory_bytes < NO_HEAP_BYTES + HEAP_BYTES_MIN:
        raise ConfigError(
            f"kafka.memory = {show_size(memory_bytes)!r} is too little for a broker: write "
            f"{show_size(NO_HEAP_BYTES + HEAP_BYTES_MIN)!r} or more"
        )
    return min(memory_bytes - NO_HEAP_BYTES, HEAP_BYTES_MAX)


def dedupe_bytes(heap: int) -> int:
    """What compaction may take of a heap; Kafka's default of 128 MiB alone would fill a small one."""
    return min(max(heap // 16, DEDUPE_BYTES_MIN), DEDUPE_BYTES_MAX)


def bytes_needed(topics: Iterable[Topic]) -> int:
    """The smallest disk on which these topics fit."""
    return OWN_BYTES + sum(t.partitions * (COMPACTED_BYTES if is_compacted(t) else SHARE_BYTES_MIN) for t in topics)


def is_compacted(topic: Topic) -> bool:
    """Whether it keeps the newest record of every key, and so is not limited by bytes."""
    return "compact" in dict(topic.settings).get("cleanup.policy", "")


def fitted(topics: Sequence[Topic], disk_bytes: int) -> tuple[Topic, ...]:
    """The same topics, with retentions by which all of them together never hold more than `disk_bytes`.

    What compacted topics and Kafka itself do not need is divided among the others in proportion to the retention that each asks
    for. `ConfigError` if it is not enough.
    """
    if (needed := bytes_needed(topics)) > disk_bytes:
        partitions = sum(t.partitions for t in topics)
        raise ConfigError(
            f"kafka.disk = {show_size(disk_bytes)!r} is too small: {len(topics)} topics with {partitions} partitions in all need "
            f"{show_size(needed)!r} at least: give more, or lower `partitions` of a site that is not deployed yet"
        )
    kept = [t for t in topics if is_compacted(t)]
    room = disk_bytes - OWN_BYTES - COMPACTED_BYTES * sum(t.partitions for t in kept)
    shares = _shares([t for t in topics if not is_compacted(t)], room)
    return tuple(_limited(t, shares[t.name]) if t.name in shares else t for t in topics)


def _shares(topics: Sequence[Topic], room_bytes: int) -> dict[str, int]:
    """Bytes for a partition of each topic: in proportion to what it asks for, and never less than the minimum."""
    shares: dict[str, int] = {}
    free = {t.name: t for t in topics}
    while free:
        asked = sum(_asked(t) * t.partitions for t in free.values())
        small = [t for t in free.values() if room_bytes * _asked(t) < SHARE_BYTES_MIN * asked]
        for t in small:
            shares[t.name] = SHARE_BYTES_MIN
            room_bytes -= SHARE_BYTES_MIN * t.partitions
            del free[t.name]
        if not small:
            return shares | {name: room_bytes * _asked(t) // asked for name, t in free.items()}
    return shares


def _asked(topic: Topic) -> int:
    return max(int(dict(topic.settings).get("retention.bytes", SHARE_BYTES_MIN)), 1)


def _limited(topic: Topic, share_bytes: int) -> Topic:
    segment = min(max(share_bytes // 8, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)
    limits = {"retention.bytes": str(share_bytes - 2 * segment), "segment.bytes": str(segment)}
    return replace(topic, settings=tuple({**dict(topic.settings), **limits}.items()))


def bytes_at_most(topics: Iterable[Topic]) -> int:
    """What topics that are `fitted` hold at most, with Kafka's own."""
    return OWN_BYTES + sum(t.partitions * _held(t) for t in topics)


def _held(topic: Topic) -> int:
    settings = dict(topic.settings)
    if is_compacted(topic):
        return COMPACTED_BYTES
    return int(settings["retention.bytes"]) + 2 * int(settings["segment.bytes"])
