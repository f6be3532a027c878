"""Batch <-> frame: one self-contained Arrow IPC stream, readable by any Arrow library, plus headers with the cheap facts.

A frame with no rows is a heartbeat: it only moves the watermark.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.batch import TIME_MAX, TIME_MIN, TIME_NS_MAX, WINDOW_START, Batch, Times
from pipelines.errors import BadData
from pipelines.expr import Array, Expr
from pipelines.schema import TEXT, Row

Headers = list[tuple[str, bytes]]
_TIMESTAMP = pa.timestamp("ns", tz="UTC")


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """What the headers of a frame say."""

    source: str  # who wrote it: watermarks are kept by source
    watermark: int = TIME_MIN  # ns; the source promises that what follows is, but for late data, not older
    rows: int = 0
    schema: str = ""  # Row.fingerprint

    def headers(self) -> Headers:
        """As Kafka record headers."""
        return [
            ("source", self.source.encode()),
            ("watermark", str(self.watermark).encode()),
            ("rows", str(self.rows).encode()),
            ("schema", self.schema.encode()),
        ]

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes]]) -> FrameInfo:
        """From Kafka record headers; `BadData` if one is absent or is not what it should be."""
        got = dict(headers)
        try:
            info = cls(got["source"].decode(), int(got["watermark"]), int(got["rows"]), got["schema"].decode())
        except (KeyError, ValueError, AttributeError) as e:
            raise BadData(f"not a frame: header {e} is missing or wrong (has {sorted(got)})", reason="headers") from e
        if info.watermark not in (TIME_MIN, TIME_MAX) and abs(info.watermark) > TIME_NS_MAX:
            raise BadData(f"not a frame: its watermark {info.watermark} is no time", reason="headers")
        return info


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame.

    `before`: for rows that did not come in one frame, the watermark that was in force before each, shape `(rows,)`.
    """

    info: FrameInfo
    batch: Batch
    before: Times | None = None


def encode(batch: Batch, row: Row) -> bytes:
    """The frame of a batch that has (at least) the columns of `row`."""
    names = batch.names
    if len(names) > 4 * len(batch):  # do not ship a large dictionary with a few rows
        used, codes = np.unique(batch.codes, return_inverse=True)
        names, keys = names.take(pa.array(used)), codes.astype(np.int32)
    else:
        keys = batch.codes
    arrays = [pa.DictionaryArray.from_arrays(pa.array(keys), names), _timestamps(batch.time)]
    if row.windowed:
        arrays.append(_timestamps(batch.columns[WINDOW_START]))
    arrays += [to_arrow(np.asarray(batch.columns[f.qualified], dtype=f.dtype)) for f in row.fields]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.arrow) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=row.arrow))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]  # pyarrow is untyped


def to_arrow(values: Array) -> pa.Array:
    """A column as it travels and is stored."""
    if values.dtype.kind != "T":
        return pa.array(values)
    return pa.array(values.tolist(), pa.string()).dictionary_encode()


def _timestamps(ns: Array) -> pa.Array:
    return pa.Array.from_buffers(_TIMESTAMP, len(ns), [None, pa.py_buffer(np.ascontiguousarray(ns, dtype=np.int64))])


def decode(value: bytes, row: Row, only: Container[str] | None = None, conditions: Sequence[Expr[bool]] = ()) -> Batch:
    """The batch of a frame, its columns zero-copy where Arrow allows; `BadData` if it is not a frame of `row`.

    Of the columns those in `only` (qualified names); the others are not looked at, be they damaged. If there are `conditions`,
    of the rows those that meet one of them, as far as that can be told from the frame.
    """
    try:
        with pa.ipc.open_stream(value) as reader:
            got = reader.read_next_batch()
            if reader.read_all().num_rows:
                raise BadData("a frame is one record batch, this has several", reason="not_arrow")
        same = got.schema.equals(row.arrow, check_metadata=True) or _layout(got.schema) == _layout(row.arrow)
        differs = "" if same else _difference(got.schema, row)
    except (pa.ArrowException, OSError, StopIteration, ValueError, OverflowError) as e:
        raise BadData(f"not an Arrow stream: {e}", reason="not_arrow") from e
    if differs:
        raise BadData(differs, reason="schema")
    at = 2 + row.windowed
    fields = [(at + i, f.qualified) for i, f in enumerate(row.fields) if only is None or f.qualified in only]
    _validate(got, [*range(at), *(i for i, _ in fields)], row)
    time = _integers(got.column(1))
    if len(time) and not (time.min() >= -TIME_NS_MAX and time.max() <= TIME_NS_MAX):
        raise BadData(f"a frame of {row.name} has a time that is none", reason="time")
    got = _useful(got, {name: i for i, name in fields}, conditions)
    keys = got.column(0)
    columns = {name: _numpy(got.column(i)) for i, name in fields}
    if row.windowed:
        columns[WINDOW_START] = _integers(got.column(2))
    return Batch(keys.dictionary, keys.indices.to_numpy(), _integers(got.column(1)), columns)


def _useful(got: pa.RecordBatch, columns: Mapping[str, int], conditions: Sequence[Expr[bool]]) -> pa.RecordBatch:
    """The rows that meet one of the conditions; all, if that cannot be told from these columns."""
    names = {leaf.qualified for c in conditions for leaf in c.leaves(frozenset(columns))}
    if not conditions or not names <= columns.keys():
        return got
    known = {name: _numpy(got.column(columns[name])) for name in names}
    with np.errstate(all="ignore"):
        keep = np.logical_or.reduce([np.broadcast_to(c.on(known), got.num_rows) for c in conditions])
    return got if keep.all() else got.filter(pa.array(keep))


def _validate(got: pa.RecordBatch, used: Sequence[int], row: Row) -> None:
    """A frame may come from anybody: offsets that point outside would end the process."""
    try:
        for i in used:
            got.column(i).validate(full=True)
            if pa.types.is_dictionary(got.column(i).type):
                got.column(i).dictionary.validate(full=True)
    except pa.ArrowException as e:
        raise BadData(f"not an Arrow stream: {e}", reason="not_arrow") from e
    if nulls := [got.schema.field(i).name for i in used if _has_nulls(got.column(i))]:
        raise BadData(f"a frame of {row.name} may have no nulls, but {', '.join(nulls)} has", reason="null")


def _has_nulls(column: pa.Array) -> bool:
    return bool(column.null_count or (pa.types.is_dictionary(column.type) and column.dictionary.null_count))


def text(column: pa.Array) -> Array:
    """An Arrow array of strings, without nulls, as numpy text."""
    return np.array(column.to_pylist(), TEXT)


def _layout(schema: pa.Schema) -> list[tuple[str, str, bytes]]:
    """What two frames must have in common; whether a field could be null is not of it."""
    return [(f.name, str(f.type), (f.metadata or {}).get(b"unit", b"")) for f in schema]


def _numpy(column: pa.Array) -> Array:
    if pa.types.is_dictionary(column.type):
        coded: Array = text(column.dictionary)[column.indices.to_numpy()]
        return coded
    values: Array = column.to_numpy(zero_copy_only=column.type != pa.bool_())
    return values


def _integers(column: pa.Array) -> Array:
    values: Array = np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)
    return values


def _difference(got: pa.Schema, row: Row) -> str:
    want = {f.name: str(f.type) for f in row.arrow}
    have = {f.name: str(f.type) for f in got}
    parts = [f"lacks {n}" for n in want.keys() - have.keys()] + [
        f"has an unknown {n}" for n in have.keys() - want.keys()
    ]
    parts += [f"{n} is {have[n]}, not {want[n]}" for n in want.keys() & have.keys() if want[n] != have[n]]
    units = {n: unit.decode() for n, _, unit in _layout(row.arrow)}
    parts += [
        f"{n} is in {u.decode()!r}, not {units[n]!r}"
        for n, _, u in _layout(got)
        if n in units and u.decode() != units[n]
    ]
    return f"the frame is not a {row.name}: {'; '.join(sorted(parts)) or 'its columns stand in another order'}"
