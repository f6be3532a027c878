"""What a key costs: state beside the arrays that hold it and nothing else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines import Col, Key, Pipeline, Schema, agg, hopping, tumbling
from pipelines.batch import Batch
from pipelines.state import KEY_BYTES
from pipelines.task import Task
from pipelines.windows import Window
from pipelines.wire import Frame, FrameInfo
from tests.core.programs import Feed

SECOND = 10**9
FIELDS = 7  # of count, mean, min, max and std: readings, those with a value, anchor, two sums of deviations, lowest, highest


class Reading(Schema):
    device = Key[str]()
    x = Col[float]()


class Five(Schema):
    n = agg.count()
    mean = agg.mean(Reading.x)
    low = agg.min(Reading.x)
    high = agg.max(Reading.x)
    std = agg.std(Reading.x)


@pytest.mark.parametrize(
    ("over", "slices"), [(tumbling("10s", late="5s"), 2), (hopping("1m", every="1s", late="0s"), 61)], ids=str
)
def test_the_state_of_windows_is_at_most_half_as_large_again_as_its_bare_arrays(over: Window, slices: int) -> None:
    keys, program = 5_000, Pipeline("memory")
    program.read(Feed(Reading, "readings")).window(over, Five)
    task = Task(program.plan(), observe=["five"])
    names, codes = pa.array([f"press-{i}" for i in range(keys)]), np.arange(keys, dtype=np.int32)
    peak = 0
    for second in range(80):
        batch = Batch(names, codes, np.full(keys, second * SECOND), {"Reading.x": np.ones(keys)})
        task.process({"readings": [Frame(FrameInfo("c", second * SECOND), batch)]})
        peak = max(peak, task.state_bytes)
    index = keys * (KEY_BYTES + len("press-0000"))
    assert peak - index < 1.5 * keys * FIELDS * 8 * slices
