"""Records of Kafka <-> what a task takes and gives. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines import topics
from pipelines.batch import TIME_MIN, Batch
from pipelines.dead import DeadLetter
from pipelines.errors import BadData
from pipelines.expr import Expr
from pipelines.plan import Plan
from pipelines.ports import Received
from pipelines.runtime import kafka
from pipelines.schema import Row
from pipelines.task import Emitted
from pipelines.wire import Frame, FrameInfo, Headers, decode, encode

SERVICE = "process"
FRAME_BYTES_MAX = 2**20  # of results; more rows make more frames
DEAD_BYTES_MAX = 2**20  # what is kept of a frame that cannot be used


@dataclass(frozen=True, slots=True)
class Out:
    """A record to send."""

    topic: str
    partition: int
    value: bytes
    headers: Headers


def read(
    records: Iterable[Received],
    row: Row,
    only: Container[str] | None = None,
    conditions: Sequence[Expr[bool]] = (),
) -> tuple[list[Frame], list[DeadLetter]]:
    """The frames of some records of one stream, in order; what is not a frame of `row` becomes a dead letter.

    `only`: the columns to decode; `conditions`: see `wire.decode`.
    """
    frames, dead = [], []
    for r in records:
        try:
            frames.append(Frame(FrameInfo.of(r.headers), decode(r.value or b"", row, only, conditions)))
        except BadData as e:
            origin = f"{r.topic}[{r.partition}]@{r.offset}"
            dead.append(DeadLetter((r.value or b"")[:DEAD_BYTES_MAX], e.reason, str(e), origin))
    return frames, dead


def write(emitted: Emitted, plan: Plan, site: str, partition: int, partitions: int) -> list[Out]:
    """The frames of what a step gave out. Only the last of them carries the watermark: the others' rows are before it."""
    topic, row = plan.topic(site, emitted.step), plan.by_name[emitted.step].row
    if emitted.step not in plan.exchanges:
        return _frames(emitted.batch, row, topic, partition, plan.pipeline, emitted.watermark)
    batch, source = emitted.batch, f"{partition}/{partitions}"
    to = np.array([kafka.partition_of(name, partitions) for name in batch.names.to_pylist()], np.int32)[batch.codes]
    return [
        out
        for other in range(partitions)  # those that get no rows hear of the watermark
        for out in _frames(batch.take(to == other), row, topic, other, source, emitted.watermark)
    ]


def _frames(batch: Batch, row: Row, topic: str, partition: int, source: str, watermark: int) -> list[Out]:
    rows_max = max(1, FRAME_BYTES_MAX // (16 + 8 * (row.windowed + len(row.fields))))
    outs = []
    parts = [batch.take(slice(at, at + rows_max)) for at in range(0, len(batch), rows_max)] or [batch]
    while parts:
        part = parts.pop(0)
        value = encode(part, row)
        if len(value) > 2 * FRAME_BYTES_MAX and len(part) > 1:  # long texts
            half = len(part) // 2
            parts[:0] = [part.take(slice(0, half)), part.take(slice(half, None))]
            continue
        info = FrameInfo(source, TIME_MIN if parts else watermark, len(part), row.fingerprint)
        outs.append(Out(topic, partition, value, info.headers()))
    return outs


def bury(letter: DeadLetter, site: str) -> Out:
    """A dead letter as a record; its topic has one partition."""
    return Out(topics.dead(site), 0, letter.payload, letter.headers(SERVICE))
