"""Frames: what goes in comes out, any Arrow library can read them, and what is no frame is refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import Col, Key, Schema
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.errors import BadData
from pipelines.wire import FrameInfo, decode, encode


class Mixed(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")
    small = Col[np.float32]("")
    n = Col[int]("")
    on = Col[bool]("")


class Plain(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")


ROW = Mixed.measured()
TIMES = st.integers(-(2**62), 2**62)
INT64 = st.integers(-(2**63), 2**63 - 1)
rows = st.lists(
    st.tuples(st.text(max_size=5), TIMES, st.floats(width=32), INT64, st.booleans()),
    max_size=30,
)  # fmt: skip


def batch(values: list[tuple[str, int, float, int, bool]]) -> Batch:
    d, t, x, n, on = ([v[i] for v in values] for i in range(5))
    return Mixed.batch(device=d, time=np.array(t, np.int64), x=x, small=x, n=np.array(n, np.int64), on=on)


@given(rows)
def test_a_batch_survives_the_wire(values: list[tuple[str, int, float, int, bool]]) -> None:
    b = batch(values)
    again = decode(encode(b, ROW), ROW)
    assert again.keys == b.keys
    np.testing.assert_array_equal(again.time, b.time)
    for name, column in b.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)
        assert again.columns[name].dtype == column.dtype


def test_any_arrow_library_reads_a_frame() -> None:
    table = pa.ipc.open_stream(encode(batch([("a", 1, 2.5, 3, True)]), ROW)).read_all()
    assert table.to_pylist()[0] | {"time": 0} == {"device": "a", "time": 0, "x": 2.5, "small": 2.5, "n": 3, "on": True}
    assert table.schema.field("x").metadata == {b"unit": b"mm/s"}
    assert str(table.schema.field("time").type) == "timestamp[ns, tz=UTC]"


def test_a_large_dictionary_does_not_travel_with_few_rows() -> None:
    names = pa.array([f"device-{i}" for i in range(10_000)])
    b = Batch(names, np.array([7, 9_999], np.int32), np.zeros(2, np.int64), {"Plain.x": np.zeros(2)})
    frame = encode(b, Plain.measured())
    assert len(frame) < 2_000
    assert decode(frame, Plain.measured()).keys == ["device-7", "device-9999"]


@given(st.sampled_from([TIME_MIN, -1, 0, 10**18, TIME_MAX]))
def test_headers_survive(watermark: int) -> None:
    info = FrameInfo("site/stream/collector-1", watermark, 7, "abc")
    assert FrameInfo.of(info.headers()) == info


@given(st.binary(max_size=200))
def test_noise_is_no_frame(noise: bytes) -> None:
    with pytest.raises(BadData):
        decode(noise, ROW)


@given(st.data())
def test_a_damaged_frame_is_refused_or_read_never_worse(data: st.DataObject) -> None:
    frame = bytearray(encode(batch([("a", 1, 2.5, 3, True), ("b", 2, 0.5, 4, False)]), ROW))
    for _ in range(3):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        got = decode(bytes(frame), ROW)
    except BadData:
        return
    assert len(got.keys) == len(got)  # every code has a name, every name is text


def plain(**columns: object) -> bytes:
    schema = Plain.measured().arrow
    arrays = {
        "device": pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), ["a"]),
        "time": pa.array([0], pa.timestamp("ns", "UTC")),
        "x": pa.array([1.0]),
    } | columns
    fields = [
        schema.field(n) if n in schema.names and schema.field(n).type == a.type else pa.field(n, a.type)
        for n, a in arrays.items()
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema(fields)) as w:
        w.write_batch(pa.RecordBatch.from_arrays(list(arrays.values()), schema=pa.schema(fields)))
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("frame", "reason", "message"),
    [
        (encode(batch([]), ROW), "schema", "not a Plain: has an unknown n; has an unknown on; has an unknown small"),
        (plain(x=pa.array([1], pa.int64())), "schema", "x is int64, not double"),
        (plain(x=pa.array([None], pa.float64())), "null", "may have no nulls, but x has"),
        (
            plain(device=pa.DictionaryArray.from_arrays(pa.array([3], pa.int32()), ["a"], safe=False)),
            "not_arrow",
            "out of bounds",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(frame: bytes, reason: str, message: str) -> None:
    with pytest.raises(BadData, match=message) as e:
        decode(frame, Plain.measured())
    assert e.value.reason == reason


def test_what_others_write_is_read_if_it_means_the_same() -> None:
    nullable = pa.ipc.open_stream(plain()).read_all()
    assert nullable.schema.field("x").nullable is False
    loose = pa.schema([pa.field(f.name, f.type, True, f.metadata) for f in nullable.schema])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, loose) as w:
        w.write_table(nullable.cast(loose))
    assert decode(bytes(sink.getvalue()), Plain.measured()).keys == ["a"]


def frame_of(*tables: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as w:
        for t in tables:
            w.write_table(t)
    return bytes(sink.getvalue())


def foreign(change: str) -> bytes:
    """A frame as a careless or hostile writer makes it."""
    t = pa.ipc.open_stream(plain()).read_all().combine_chunks()
    if change == "unit":
        fields = [f.with_metadata({"unit": "in/s"}) if f.name == "x" else f for f in t.schema]
        return frame_of(t.cast(pa.schema(fields)))
    if change == "two":
        return frame_of(t, t)
    if change == "time":
        return frame_of(t.set_column(1, t.schema.field(1), pa.array([-(2**63) + 1], pa.timestamp("ns", "UTC"))))
    names = pa.array([None], pa.string()) if change == "null" else pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )  # fmt: skip
    keys = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), names)
    return frame_of(t.set_column(0, t.schema.field(0), keys))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unit", "x is in 'in/s', not 'mm/s'"),
        ("two", "one record batch, this has several"),
        ("time", "a time that is none"),
        ("null", "no nulls, but device has"),
        ("text", "not an Arrow stream"),
    ],
)
def test_a_foreign_frame_that_would_do_harm_is_refused(change: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        decode(foreign(change), Plain.measured())


@pytest.mark.parametrize("watermark", [b"", b"soon", b"99999999999999999999999", str(2**62 + 1).encode()])
def test_a_watermark_that_is_no_time_is_refused(watermark: bytes) -> None:
    with pytest.raises(BadData, match="not a frame"):
        FrameInfo.of([("source", b"s"), ("watermark", watermark), ("rows", b"0"), ("schema", b"")])


def test_a_header_without_value_is_refused() -> None:
    headers: list[tuple[str, Any]] = [("source", None), ("watermark", b"1"), ("rows", b"0"), ("schema", b"")]
    with pytest.raises(BadData, match="missing or wrong"):
        FrameInfo.of(headers)


def test_a_record_without_headers_is_no_frame() -> None:
    with pytest.raises(BadData, match="header 'source' is missing or wrong"):
        FrameInfo.of([])
