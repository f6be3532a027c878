"""A task's limits, its snapshots and what it tells of itself."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import tumbling
from pipelines.batch import Batch
from pipelines.errors import LimitExceeded, StateError
from pipelines.state import pack, unpack
from pipelines.task import Task
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Reading, windowed

SECOND = 10**9


def frame(keys: int, t: int) -> Frame:
    b = Reading.batch(device=[f"d{i}" for i in range(keys)], time=[t * SECOND] * keys, x=[1.0] * keys, k=[1] * keys)
    return Frame(FrameInfo("one", t * SECOND, keys), b)


def test_state_beyond_its_limit_is_an_error_that_names_step_and_cure() -> None:
    task = Task(windowed(tumbling("10s", late="0s"))[0].plan(), state_bytes_max=200_000)
    task.process({"reading": [frame(10, 1)]})
    with pytest.raises(
        LimitExceeded, match=r"more than the limit of 200,000; most of it in step 'stats': raise `state_bytes_max`"
    ):
        task.process({"reading": [frame(5000, 2)]})


def test_closed_windows_give_their_memory_back() -> None:
    task = Task(windowed(tumbling("10s", late="0s"))[0].plan())
    sizes = []
    for t in range(0, 2000, 10):
        task.process({"reading": [frame(100, t)]})
        sizes.append(task.state_bytes)
    assert sizes[-1] == sizes[20]
    assert task.windows_open == 1


def test_a_task_tells_watermarks_and_late_rows() -> None:
    task = Task(windowed(tumbling("10s", late="0s"))[0].plan())
    task.process({"reading": [frame(2, 25), frame(3, 5)]})
    assert task.watermarks == {"reading": 25 * SECOND}
    assert task.take_late_rows() == {"stats": 3}
    assert task.take_late_rows() == {"stats": 0}


def test_a_snapshot_of_another_plan_is_refused() -> None:
    saved = Task(windowed(tumbling("10s", late="0s"))[0].plan()).snapshot()
    with pytest.raises(StateError, match=r"computed by another version of it .* deploy that version again, or reset"):
        Task(windowed(tumbling("20s", late="0s"))[0].plan()).restore(saved)


@pytest.mark.parametrize("data", [b"", b"noise", pack({"x": 1})[:-1]])
def test_a_damaged_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="the snapshot is damaged"):
        unpack(data)


def test_a_snapshot_of_another_format_is_refused() -> None:
    import msgspec

    with pytest.raises(StateError, match="the snapshot has format 99, this version reads 3"):
        unpack(msgspec.msgpack.encode({"format": 99}))


def test_packed_state_comes_back_as_it_was() -> None:
    state = {"a": np.arange(6).reshape(2, 3), "b": [1, "x", None], "c": {"d": np.array([True])}, "n": np.int64(4)}
    again = unpack(pack(state))
    np.testing.assert_array_equal(again["a"], state["a"])
    assert again["a"].flags.writeable
    assert (again["b"], again["n"]) == ([1, "x", None], 4)
    assert again["c"]["d"].dtype == bool


def test_a_frame_of_unused_names_costs_nothing_but_their_index() -> None:
    task = Task(windowed(tumbling("10s", late="0s"))[0].plan())
    b = frame(3, 1).batch
    narrow = Batch(b.names, b.codes[:1], b.time[:1], {n: c[:1] for n, c in b.columns.items()})
    out = task.process(
        {
            "reading": [
                Frame(FrameInfo("one", SECOND, 1), narrow),
                Frame(FrameInfo("one", 99 * SECOND), b.take(slice(0, 0))),
            ]
        }
    )
    assert out[0].batch.keys == ["d0"]
