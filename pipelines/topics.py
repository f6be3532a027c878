"""Names of a site's Kafka topics and how each must be configured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must exist: `settings` are Kafka topic configs. A `foreign` one is made by others."""

    name: str
    partitions: int
    settings: tuple[tuple[str, str], ...] = ()
    foreign: bool = False


def valid_name(kind: str, name: str) -> str:
    """`name` itself if it can stand in topic names, file names and container names; else `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{kind} name {name!r} cannot be used: write lower-case letters, digits, '-' and '_' (at most 63), "
            "beginning with a letter or digit"
        )
    return name


def named_after(schema: str) -> str:
    """The name that a stream or step takes from its schema: 'PressMinute' gives 'press-minute'."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", schema).lower()


def stream(site: str, name: str) -> str:
    """Raw readings of one stream of a site."""
    return f"{site}.{name}"


def result(site: str, pipeline: str, step: str) -> str:
    """Result frames of one step."""
    return f"{site}.{pipeline}.{step}"


def state(site: str, pipeline: str) -> str:
    """Snapshots and checkpoints of a pipeline."""
    return f"{site}.{pipeline}.state"


def dead(site: str) -> str:
    """Readings and frames that could not be used, with reason and origin."""
    return f"{site}.dead"


def positions(site: str) -> str:
    """Where sources that are asked for readings go on after a restart; compacted."""
    return f"{site}.collect.position"


def commands(site: str) -> str:
    """Commands to devices, JSON, keyed by device."""
    return f"{site}.control.cmd"


def acks(site: str) -> str:
    """What became of commands: the newest state of each, JSON, keyed by command id; compacted."""
    return f"{site}.control.ack"


def rebirths(site: str) -> str:
    """Edge nodes whose births `collect` lacks, JSON, keyed by collector; compacted. A wish, which control may grant."""
    return f"{site}.control.rebirth"


def twin_desired(site: str) -> str:
    """What the settings of devices are to be, JSON, keyed by device; compacted."""
    return f"{site}.twin.desired"


def twin_reported(site: str) -> str:
    """What devices say of their settings, JSON, keyed by device; compacted."""
    return f"{site}.twin.reported"


def firmware_desired(site: str) -> str:
    """Hints that there is a newer firmware plan, JSON; compacted. They can hold updates back, never begin one."""
    return f"{site}.fw.desired"


def firmware_status(site: str) -> str:
    """How the update of each device stands, JSON, keyed by device, and how the site as a whole; compacted."""
    return f"{site}.fw.status"


def firmware_audit(site: str) -> str:
    """What was done to the firmware of devices, by whom, JSON; append-only."""
    return f"{site}.fw.audit"


def audit(site: str) -> str:
    """What was done to devices, by whom, JSON; append-only."""
    return f"{site}.audit"


def data(name: str, partitions: int, *, retention_bytes: int = 2**30) -> Topic:
    """A topic of frames. Retention is by bytes and by arrival time, never by a device's clock."""
    return Topic(name, partitions, (
        ("message.timestamp.type", "LogAppendTime"),
        ("retention.ms", "-1"),
        ("retention.bytes", str(retention_bytes)),
        ("segment.bytes", str(64 * 2**20)),
        ("max.message.bytes", str(8 * 2**20)),
    ))  # fmt: skip


def foreign(name: str, partitions: int) -> Topic:
    """A topic of other programs."""
    return Topic(name, partitions, foreign=True)


def facts(name: str, partitions: int) -> Topic:
    """A compacted topic of frames, one key in each; what is a week old at most stays, so that a replay meets what it met."""
    return compacted(name, partitions, lag_ms=7 * 86_400_000)


def compacted(name: str, partitions: int, *, lag_ms: int = 0) -> Topic:
    """A topic that keeps the newest record of every key, and the others for `lag_ms` at least."""
    return Topic(name, partitions, (
        ("message.timestamp.type", "LogAppendTime"),
        ("cleanup.policy", "compact"),
        ("segment.bytes", str(16 * 2**20)),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("min.compaction.lag.ms", str(lag_ms)),
        ("max.message.bytes", str(8 * 2**20)),
    ))  # fmt: skip


def unique(topics: Iterable[Topic]) -> tuple[Topic, ...]:
    """The topics without repetition, by name."""
    return tuple({t.name: t for t in topics}.values())
