"""Checkpoints as values: what they say, what they refuse, when a snapshot is due."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec import structs

from pipelines.errors import StateError
from pipelines.runtime import checkpoint as cp


def snapshot(data: bytes = b"state", offsets: dict[str, int] | None = None) -> cp.Snapshot:
    return cp.Snapshot(first=7, chunks=len(cp.split(data)), sha256=cp.checksum(data), offsets=offsets or {})


def checkpoint(*calls: list[int], start: dict[str, int], now: dict[str, int]) -> cp.Checkpoint:
    return cp.Checkpoint(plan="p1", offsets=now, snapshot=snapshot(offsets=start), calls=list(calls))


def test_a_checkpoint_survives_the_wire() -> None:
    c = checkpoint([1, 2], [0, 3], start={"a": 5, "b": 6}, now={"a": 6, "b": 11})
    assert cp.decode(cp.encode(c), "s.p.state[0]@9") == c


@pytest.mark.parametrize("value", [b"", b"{}", b'{"plan": 3}', b"\xff"])
def test_what_is_no_checkpoint_is_refused_with_its_place(value: bytes) -> None:
    with pytest.raises(StateError, match=r"s\.p\.state\[0\]@9 holds no checkpoint that this version can read"):
        cp.decode(value, "s.p.state[0]@9")


@pytest.mark.parametrize("size", [0, 1, cp.CHUNK_BYTES_MAX, cp.CHUNK_BYTES_MAX + 1, 3 * cp.CHUNK_BYTES_MAX])
def test_a_snapshot_is_put_together_from_its_chunks(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    chunks = {cp.chunk_key(i): c for i, c in enumerate(cp.split(data))}
    older = {cp.chunk_key(99): b"of a longer snapshot before"}
    assert all(len(c) <= cp.CHUNK_BYTES_MAX for c in chunks.values())
    assert cp.join(snapshot(data), chunks | older, "s") == data


def test_a_snapshot_with_a_missing_or_changed_chunk_is_refused() -> None:
    data = bytes(2 * cp.CHUNK_BYTES_MAX)
    chunks = {cp.chunk_key(i): c for i, c in enumerate(cp.split(data))}
    with pytest.raises(StateError, match=r"s\.p\.state\[0\] lacks chunk 1 of 2 of the snapshot at offset 7"):
        cp.join(snapshot(data), {cp.chunk_key(0): chunks[cp.chunk_key(0)]}, "s.p.state[0]")
    with pytest.raises(StateError, match=r"the snapshot at offset 7 of s\.p\.state\[0\] is damaged"):
        cp.join(snapshot(data), chunks | {cp.chunk_key(1): b"x"}, "s.p.state[0]")


def test_calls_of_several_inputs_give_back_every_boundary() -> None:
    points = [{"b": 10, "a": 5}, {"b": 10, "a": 6}, {"b": 14, "a": 6}, {"b": 15, "a": 9}]
    calls = [cp.call_of(before, after) for before, after in pairwise(points)]
    assert list(cp.boundaries(checkpoint(*calls, start=points[0], now=points[-1]))) == points[1:]


def test_one_input_is_replayed_in_bounded_steps() -> None:
    found = list(cp.boundaries(checkpoint(start={"a": 5}, now={"a": 5 + 2 * cp.STEP_RECORDS + 1})))
    assert [b["a"] - 5 for b in found] == [cp.STEP_RECORDS, 2 * cp.STEP_RECORDS, 2 * cp.STEP_RECORDS + 1]
    assert list(cp.boundaries(checkpoint(start={"a": 5}, now={"a": 5}))) == []


def test_state_of_another_plan_is_refused_unless_it_may_be_discarded() -> None:
    c = checkpoint(start={"a": 0}, now={"a": 0})
    assert cp.check_plan(c, "p1", {}, discard="", where="s.p.state[0]")
    assert cp.check_plan(
        c, "p1", {}, discard="p1", where="s.p.state[0]"
    )  # a forgotten option must not throw away good state
    assert not cp.check_plan(c, "p2", {}, discard="p1", where="s.p.state[0]")
    with pytest.raises(StateError, match=r'state of version p1 .* this is version p2: .* `discard_state` = "p1"'):
        cp.check_plan(c, "p2", {}, discard="p0", where="s.p.state[0]")


def test_a_version_that_was_replaced_may_come_back() -> None:
    c = checkpoint(start={"a": 0}, now={"a": 0})
    second = structs.replace(c, plan="p2", replaced=cp.replaced_by(c, "p2", discard=""))
    assert not cp.check_plan(second, "p1", {}, discard="", where="s.p.state[0]")
    with pytest.raises(StateError):
        cp.check_plan(second, "p3", {}, discard="", where="s.p.state[0]")
    back = structs.replace(second, plan="p1", replaced=cp.replaced_by(second, "p1", discard=""))
    assert back.replaced == ["p2"]
    assert cp.replaced_by(None, "p2", discard="p1") == ["p1"]
    for i in range(20):
        back = structs.replace(back, plan=f"q{i}", replaced=cp.replaced_by(back, f"q{i}", discard=""))
    assert len(back.replaced) == cp.REPLACED_MAX
    assert back.replaced[-1] == "q18"


def test_what_can_be_kept_is_kept() -> None:
    minute, hour = {"minute": ("m1", "1m")}, {"hour": ("h1", "1h")}
    c = structs.replace(checkpoint(start={"a": 0}, now={"a": 0}), versions=minute)
    where = "s.p.state[0]"
    assert cp.check_plan(c, "p2", minute | hour, discard="", where=where)
    with pytest.raises(StateError, match=r"this is version p2 \(reset minute: 1m became 5m\): deploy the old"):
        cp.check_plan(c, "p2", {"minute": ("m5", "5m")}, discard="", where=where)
    assert not cp.check_plan(c, "p2", {"minute": ("m5", "5m")}, discard="p1", where=where)
    both = structs.replace(c, versions=minute | hour)
    assert cp.check_plan(both, "p2", {"minute": ("m5", "5m"), **hour}, discard="p1", where=where)


def test_an_input_that_ends_before_what_was_processed_is_refused() -> None:
    c = checkpoint(start={"a": 0}, now={"a": 10})
    cp.check_inputs(c, {"a": 10, "b": 0}, "s.p.state[0]")
    with pytest.raises(StateError, match=r"a was processed up to offset 10, but it ends at 9: the topic was deleted"):
        cp.check_inputs(c, {"a": 9}, "s.p.state[0]")


def test_a_snapshot_is_due_by_the_work_to_replay() -> None:
    assert not cp.snapshot_due(cp.REPLAY_BYTES_MAX - 1, 0, [])
    assert cp.snapshot_due(cp.REPLAY_BYTES_MAX, 0, [])
    assert not cp.snapshot_due(cp.REPLAY_BYTES_MAX, cp.REPLAY_BYTES_MAX, []), (
        "a large state must not be written all the time"
    )
    assert cp.snapshot_due(0, 0, [[1]] * cp.CALLS_MAX)
    assert cp.replay_cost(frames=10, size=1000) == 1000 + 10 * cp.FRAME_COST_BYTES
