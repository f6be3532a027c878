"""What nobody reads is not decoded."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
from pipelines.batch import TIME_MAX, Batch
from pipelines.errors import BadData
from pipelines.plan import Plan
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
