"""What nobody reads is not decoded: columns, and rows that every filter drops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
from pipelines.batch import TIME_MAX, Batch
from pipelines.errors import BadData
from pipelines.expr import Expr
from pipelines.plan import Plan
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.task import Task
from pipelines.wire import Frame, FrameInfo, decode, encode
from tests.core.programs import Feed, Shelf

SECOND = 10**9


class Wide(Schema):
    device = Key[str]()
    a = Col[float]()
    b = Col[float]()
    c = Col[int]()
    note = Col[str]()


class Picked(Schema):
    twice = Wide.b * 2


class Stats(Schema):
    top = agg.max(Picked.twice)
    where = agg.argmax(Wide.c, Wide.a)


def plan() -> Plan:
    program = Pipeline("p")
    wide = program.read(Feed(Wide, "wide"))
    stats = wide.select(Picked).window(tumbling("10s", late="0s"), Stats)
    stats.to(Shelf())
    return program.plan()


def rows(n: int = 3) -> Batch:
    return Wide.batch(
        device=["x"] * n, time=[i * SECOND for i in range(n)], a=[1.0] * n, b=[2.0] * n, c=[3] * n, note=["text"] * n
    )


def test_a_plan_knows_what_it_needs() -> None:
    assert plan().needed == {"wide": frozenset({"Wide.a", "Wide.b", "Wide.c"})}


def test_results_are_the_same_without_the_rest() -> None:
    row = Wide.measured()
    wire = encode(rows(), row)
    found = []
    for only in (None, plan().needed["wide"]):
        task = Task(plan())
        batch = decode(wire, row, only)
        assert ("Wide.note" in batch.columns) == (only is None)
        end = Frame(FrameInfo("one", TIME_MAX), batch.take(slice(0, 0)))
        (emitted,) = task.process({"wide": [Frame(FrameInfo("one", 0, 3), batch), end]})
        found.append({n: c.tolist() for n, c in emitted.batch.columns.items()})
    assert found[0] == found[1]
    assert found[0]["Stats.top"] == [4.0]


def test_what_is_not_needed_may_be_damaged() -> None:
    row = Wide.measured()
    with pa.ipc.open_stream(encode(rows(), row)) as reader:
        got = reader.read_next_batch()
    broken = pa.DictionaryArray.from_buffers(
        pa.dictionary(pa.int32(), pa.string()),
        3,
        [None, pa.array([0, 9, 0], pa.int32()).buffers()[1]],
        pa.array(["text"]),
    )
    sink = pa.BufferOutputStream()
    columns = [broken if f.name == "note" else got.column(i) for i, f in enumerate(got.schema)]
    with pa.ipc.new_stream(sink, row.arrow) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=row.arrow))
    wire = sink.getvalue().to_pybytes()
    with pytest.raises(BadData, match="not an Arrow stream"):
        decode(wire, row)
    assert decode(wire, row, plan().needed["wide"]).columns.keys() == plan().needed["wide"]


def test_rows_that_are_written_need_all_their_columns() -> None:
    program = Pipeline("p")
    program.read(Feed(Wide, "wide")).where(Wide.a > 0).to(Shelf(), name="positive")
    assert program.plan().needed == {"wide": frozenset(f.qualified for f in Wide.measured().fields)}


CONDITIONS: list[Expr[bool]] = [Wide.a > 1, Wide.note == "b", (Wide.c < 2) & ~(Wide.a > 1), Wide.a != Wide.a]
readings = st.lists(
    st.tuples(
        st.sampled_from("xyz"), st.floats(0, 3) | st.just(float("nan")), st.integers(0, 3), st.sampled_from("abc")
    ),
    max_size=20,
)


@given(readings, st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=2))
def test_rows_that_meet_no_condition_are_left_out(
    rows: list[tuple[str, float, int, str]], conditions: list[Expr[bool]]
) -> None:
    device, a, c, note = ([r[i] for r in rows] for i in range(4))
    batch = Wide.batch(device=device, time=np.arange(len(rows)) * SECOND, a=a, b=a, c=c, note=note)
    frame = encode(batch, Wide.measured())
    one = [batch.take(slice(i, i + 1)).columns for i in range(len(rows))]
    meets = np.array([any(c.on(columns)[0] for c in conditions) for columns in one], bool)
    want, got = batch.take(meets), decode(frame, Wide.measured(), None, conditions)
    assert got.keys == want.keys
    np.testing.assert_array_equal(got.time, want.time)
    for name, column in want.columns.items():
        np.testing.assert_array_equal(got.columns[name], column)


def test_a_condition_on_what_a_frame_lacks_drops_nothing() -> None:
    frame = encode(rows(), Wide.measured())
    assert len(decode(frame, Wide.measured(), {"Wide.b"}, [Wide.a > 5])) == 3
    assert len(decode(frame, Wide.measured(), None, [Wide.device == "y", Wide.a > 5])) == 3


@pytest.mark.parametrize("whole", [False, True])
def test_a_job_decodes_what_some_filter_lets_through(whole: bool) -> None:
    program = Pipeline("p")
    wide = program.read(Feed(Wide, "wide"))
    for i, condition in enumerate([Wide.a > 2, Wide.a < 1]):
        wide.where(condition).to(Shelf(), name=f"part{i}")
    if whole:
        wide.select(Picked).to(Shelf(), name="all")
    job, row = Job(program.plan(), "hall", "", 1), Wide.measured()
    batch = Wide.batch(device=["x"] * 3, time=[0, 1, 2], a=[0.5, 1.5, 2.5], b=[0.0] * 3, c=[0] * 3, note=["n"] * 3)
    headers = FrameInfo("one", 2, 3, row.fingerprint).headers()
    record = kafka.Record("hall.wide", 0, 0, 0, 0, b"", encode(batch, row), None, 0, 0, tuple(headers))
    ((frame,), dead) = job.read("hall.wide", [record])
    assert frame.batch.columns["Wide.a"].tolist() == ([0.5, 1.5, 2.5] if whole else [0.5, 2.5])
    assert (frame.info.rows, dead) == (3, [])
