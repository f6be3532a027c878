"""Checkpoints: what a transaction says about how far a task is and from what its state can be rebuilt. Pure values.

The state topic of a pipeline is compacted and holds, for each partition number, one checkpoint (the newest) and the chunks of
one snapshot. A checkpoint is written by every transaction, a snapshot by few: recovery restores the snapshot and replays the
inputs between the snapshot's offsets and the checkpoint's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pipelines.errors import StateError
from pipelines.versions import Version, compare

CHECKPOINT_KEY = b"checkpoint"
CHUNK_BYTES_MAX = 900_000
CALLS_MAX = 1_000  # of a plan with several inputs, between snapshots; a checkpoint lists them all
REPLAY_BYTES_MAX = 64 * 2**20  # cost of a replay after which the next transaction carries a snapshot
REPLAY_SNAPSHOTS_MAX = (
    4  # …or this many times the snapshot's own size, so that large states are not written all the time
)
REPLACED_MAX = 8  # versions remembered
STEP_RECORDS = 256  # replayed at once
FRAME_COST_BYTES = 4096  # replaying a frame costs as much as this many bytes, however small it is

Offsets = Mapping[str, int]  # input topic -> offset of the next record to process


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Where the newest snapshot is and what it is a snapshot of."""

    first: int  # offset of its first chunk in the state topic
    chunks: int
    sha256: str
    offsets: dict[str, int]  # of the inputs, when it was taken


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task is."""

    plan: str  # fingerprint
    offsets: dict[str, int]
    snapshot: Snapshot
    calls: list[
        list[int]
    ] = []  # for each call since the snapshot: by how much each input, in order of topic name, advanced
    versions: dict[str, Version] = {}  # of each stateful step
    replaced: list[str] = []  # versions whose state was given up for this one: they may take over again
    format: int = 1


def encode(checkpoint: Checkpoint) -> bytes:
    """As the value of a record."""
    return msgspec.json.encode(checkpoint)


def decode(value: bytes, where: str) -> Checkpoint:
    """The checkpoint of a record; `StateError` if it is not one."""
    try:
        return msgspec.json.decode(value, type=Checkpoint)
    except msgspec.DecodeError as e:
        raise StateError(f"{where} holds no checkpoint that this version can read: {e}") from e


def chunk_key(index: int) -> bytes:
    """Key of a chunk. Snapshots overwrite each other: a transaction shows all of its chunks or none."""
    return f"chunk-{index}".encode()


def split(data: bytes) -> list[bytes]:
    """The chunks of a snapshot, at least one."""
    return [data[at : at + CHUNK_BYTES_MAX] for at in range(0, len(data), CHUNK_BYTES_MAX)] or [b""]


def checksum(data: bytes) -> str:
    """Of a whole snapshot."""
    return hashlib.sha256(data).hexdigest()


def join(snapshot: Snapshot, chunks: Mapping[bytes, bytes], where: str) -> bytes:
    """The data of a snapshot from its chunks by key; `StateError` if a chunk is missing or damaged."""
    missing = [i for i in range(snapshot.chunks) if chunk_key(i) not in chunks]
    if missing:
        raise StateError(
            f"{where} lacks chunk {missing[0]} of {snapshot.chunks} of the snapshot at offset {snapshot.first}"
        )
    data = b"".join(chunks[chunk_key(i)] for i in range(snapshot.chunks))
    if checksum(data) != snapshot.sha256:
        raise StateError(f"the snapshot at offset {snapshot.first} of {where} is damaged: its checksum does not match")
    return data


def check_plan(
    checkpoint: Checkpoint, fingerprint: str, versions: Mapping[str, Version], *, discard: str, where: str
) -> bool:
    """True if (some of) the state can be used, False if it is to be discarded; `StateError` if it would be lost unasked."""
    if checkpoint.plan == fingerprint:
        return True
    verdicts = compare(checkpoint.versions, versions)
    lost = [str(v) for v in verdicts if v.what == "reset"]
    if (checkpoint.versions and not lost) or checkpoint.plan == discard or fingerprint in checkpoint.replaced:
        return any(v.what == "keep" for v in verdicts)
    why = f" ({'; '.join(lost)})" if lost else ""
    raise StateError(
        f"{where} holds the state of version {checkpoint.plan} of the pipeline, this is version {fingerprint}{why}: deploy "
        f'the old version again, or set the option `discard_state` = "{checkpoint.plan}" to go on where it stopped with '
        "empty windows"
    )


def replaced_by(checkpoint: Checkpoint | None, fingerprint: str, *, discard: str) -> list[str]:
    """Versions that a next checkpoint of version `fingerprint` names as replaced, newest last.

    Giving up the state of one version for another includes the way back: a deploy that fails must be able to undo it. A
    partition without state yet takes the version to `discard` for the one that was replaced.
    """
    before = (*checkpoint.replaced, checkpoint.plan) if checkpoint else (discard,)
    return list(dict.fromkeys(v for v in before if v and v != fingerprint))[-REPLACED_MAX:]


def check_inputs(checkpoint: Checkpoint, ends: Offsets, where: str) -> None:
    """`StateError` if an input ends before what was processed: it is not the topic that the state was computed from."""
    for topic, offset in checkpoint.offsets.items():
        if topic in ends and ends[topic] < offset:
            raise StateError(
                f"{where} says that {topic} was processed up to offset {offset}, but it ends at {ends[topic]}: the topic was "
                f"deleted or truncated. Restore it, or delete the state topic as well to begin anew"
            )


def call_of(before: Offsets, after: Offsets) -> list[int]:
    """By how much each input advanced, in order of topic name."""
    return [after[topic] - before[topic] for topic in sorted(before)]


def boundaries(checkpoint: Checkpoint) -> Iterator[dict[str, int]]:
    """Offsets after each call since the snapshot, in order; the last are the checkpoint's.

    Where the calls are not listed, the plan has one input and its results do not depend on them: any steps will do.
    """
    at = dict(checkpoint.snapshot.offsets)
    for call in checkpoint.calls:
        at = {topic: at[topic] + advance for topic, advance in zip(sorted(at), call, strict=True)}
        yield at
    while at != checkpoint.offsets:
        at = {topic: min(at[topic] + STEP_RECORDS, end) for topic, end in checkpoint.offsets.items()}
        yield at


def replay_cost(frames: int, size: int) -> int:
    """What it costs to replay so many frames of so many bytes together, in bytes."""
    return size + frames * FRAME_COST_BYTES


def snapshot_due(cost: int, snapshot_bytes: int, calls: Sequence[object]) -> bool:
    """Whether the next transaction must carry a snapshot.

    What bounds the recovery is the work to replay, not the age of the snapshot: a clock would wear out the flash of quiet sites.
    """
    return cost >= max(REPLAY_BYTES_MAX, REPLAY_SNAPSHOTS_MAX * snapshot_bytes) or len(calls) >= CALLS_MAX
