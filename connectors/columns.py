"""From columns as a device or a file gave them to a Batch: which rows can be used, and what is wrong with the others.

Pure. Every source parses in its own way and then judges here, so that all refuse the same things in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch, Times
from pipelines.expr import Array
from pipelines.quality import GOOD
from pipelines.schema import TEXT, Col, Field, Row, Schema, arrival_of, quality_of
from pipelines.wire import text as as_text

EARLIEST_NS = 315_532_800 * 10**9  # 1980: older than any digital reading; a device whose clock was never set says 1970
KEY_CHARS_MAX = 255
TEXT_CHARS_MAX = 1_000
UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_TEXT_MAX = 80
EXPECTED = {
    "float64": "a number",
    "float32": "a number",
    "int64": "a whole number without a point",
    "bool": "true or false",
    TEXT: "text",
}


@dataclass(frozen=True)
class Layout:
    """The columns that devices send and what replaces absent values."""

    row: Row  # `Schema.sent()`
    absent: Mapping[str, Any]  # by bare name

    @classmethod
    def of(cls, schema: type[Schema]) -> Layout:
        """From a schema; `PlanError` if it is no source's."""
        columns = schema.columns().items()
        row = schema.sent()
        sent = {f.name for f in row.fields}
        return cls(row, {n: c.absent for n, c in columns if isinstance(c, Col) and c.absent is not None and n in sent})

    @cached_property
    def arrow(self) -> dict[str, pa.DataType]:
        """Arrow types to parse into, by bare name; float32 is parsed as float64 so that its overflow shows."""
        return {f.name: _PARSED.get(f.dtype) or pa.from_numpy_dtype(np.dtype(f.dtype)) for f in self.row.fields}


_PARSED = {"float32": pa.float64(), TEXT: pa.string()}


def fill(batch: Batch, schema: type[Schema], arrived: int | Times) -> Batch:
    """The batch with quality GOOD and time of arrival `arrived` (ns), where the schema has such columns and the batch has not."""
    quality, arrival = quality_of(schema), arrival_of(schema)
    filled: dict[str, Array] = {}
    if quality is not None and quality not in batch.columns:
        filled[quality] = np.full(len(batch), GOOD, np.int8)
    if arrival is not None and arrival not in batch.columns:
        filled[arrival] = np.array(np.broadcast_to(np.int64(arrived), len(batch)))
    return replace(batch, columns={**batch.columns, **filled}) if filled else batch


class Faults:
    """What is wrong with which row: the first thing found counts."""

    def __init__(self, rows: int) -> None:
        self.bad = np.zeros(rows, dtype=bool)
        self.found: dict[int, tuple[str, str]] = {}  # row -> (reason, text)

    def add(self, rows: Array, reason: str, text: Callable[[int], str]) -> None:
        """Rows (mask) are unusable; `text(row)` says what is wrong with one."""
        fresh = rows & ~self.bad
        if fresh.any():
            self.found |= {int(i): (reason, text(int(i))) for i in np.flatnonzero(fresh)}
            self.bad |= fresh

    def one(self, row: int, reason: str, text: str) -> None:
        """One row is unusable."""
        self.found.setdefault(row, (reason, text))
        self.bad[row] = True


@dataclass(frozen=True, slots=True)
class Raw:
    """Columns of `rows` readings as parsed; a null is a value that was not there."""

    keys: pa.Array  # of strings
    time: Times
    values: Mapping[str, pa.Array]  # by bare name, of `Layout.arrow`


def batch(layout: Layout, raw: Raw, faults: Faults, *, latest_ns: int | Times, keys: Collection[str] = ()) -> Batch:
    """The usable rows as a Batch. The others are added to `faults`, which may know of some already.

    `latest_ns` is the latest acceptable event time (of all rows, or of each); `keys`, if any, are the only ones allowed.
    """
    columns = {f.qualified: _values(layout, f, raw.values[f.name], faults) for f in layout.row.fields}
    coded = raw.keys.dictionary_encode()
    _check_keys(layout.row.key, coded, keys, faults)
    _check_time(raw.time, latest_ns, faults)
    codes = coded.indices.fill_null(0).to_numpy().astype(np.int32, copy=False)
    whole = Batch(coded.dictionary, codes, raw.time, columns)
    return whole.take(~faults.bad) if faults.found else whole


def _values(layout: Layout, field: Field, column: pa.Array, faults: Faults) -> Array:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if column.null_count:
        if field.name not in layout.absent:
            faults.add(
                missing, "missing", lambda _: f"{field.name} is missing or null: {EXPECTED[field.dtype]} is needed"
            )
        column = column.fill_null({"bool": False, TEXT: ""}.get(field.dtype, 0))
    values: Array = _text(field, column, faults) if field.dtype == TEXT else column.to_numpy(zero_copy_only=False)
    if field.dtype.startswith("float"):
        limit = np.finfo(field.dtype).max
        wrong = ~(np.abs(values) <= limit)
        faults.add(
            wrong, "not_finite", lambda i: f"{field.name} is {values[i]!s}: a finite number of {field.dtype} is needed"
        )
        values = (
            np.where(wrong, 0, values).astype(field.dtype) if wrong.any() else values.astype(field.dtype, copy=False)
        )
    if field.name in layout.absent and missing.any():
        values = np.where(missing, np.asarray(layout.absent[field.name], values.dtype), values)
    return values


def _text(field: Field, column: pa.Array, faults: Faults) -> Array:
    long = pc.greater(pc.utf8_length(column), TEXT_CHARS_MAX).to_numpy(zero_copy_only=False)
    faults.add(long, "too_long", lambda _: f"{field.name} has more than {TEXT_CHARS_MAX} characters")
    coded = column.dictionary_encode()
    values: Array = as_text(coded.dictionary)[coded.indices.to_numpy()]
    return values


def _check_keys(name: str, coded: pa.DictionaryArray, allowed: Collection[str], faults: Faults) -> None:
    codes = coded.indices.fill_null(-1).to_numpy()
    faults.add(codes < 0, "key", lambda _: f"there is no {name}")
    names = coded.dictionary
    length = pc.utf8_length(names)
    for wrong, text in (
        (pc.equal(length, 0), lambda _: f"the {name} is empty"),
        (
            pc.greater(length, KEY_CHARS_MAX),
            lambda n: f"the {name} has {len(n)} characters: at most {KEY_CHARS_MAX} are allowed",
        ),
    ):
        _refuse(wrong, names, codes, "key", text, faults)
    if allowed:
        unknown = pc.invert(pc.is_in(names, pa.array(sorted(allowed), pa.string())))
        _refuse(
            unknown,
            names,
            codes,
            "unknown_device",
            lambda n: f"{name} {shown(n)} is not among the {len(allowed)} in `devices`",
            faults,
        )


def _refuse(
    wrong: pa.BooleanArray, names: pa.StringArray, codes: Array, reason: str, text: Callable[[str], str], faults: Faults
) -> None:
    """Refuse the rows whose key is one of the wrong names."""
    if pc.any(wrong).as_py():
        by_code = np.append(wrong.to_numpy(zero_copy_only=False), False)  # the last one for code -1, no key
        faults.add(by_code[codes], reason, lambda i: text(names[int(codes[i])].as_py()))


def _check_time(time: Times, latest_ns: int | Times, faults: Faults) -> None:
    latest = np.broadcast_to(latest_ns, len(time))
    faults.add(time < EARLIEST_NS, "time", lambda i: f"time is {iso(time[i])}, before 1980: is the device's clock set?")
    faults.add(
        time > latest,
        "time",
        lambda i: (
            f"time is {iso(time[i])}, but now it is at most {iso(latest[i])} (`future_max`): set the device's clock"
        ),
    )


def times(column: pa.Array, unit: str, faults: Faults) -> tuple[Times, Array]:
    """(ns since the epoch, mask of those that are there) of a time column: strings if `unit` is 'iso', else numbers."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if unit == "iso":
        return _iso_times(column, faults), there
    scale = UNITS_NS[unit]
    values = column.fill_null(0).to_numpy()
    if values.dtype == np.int64 and scale == 1:
        return values, there
    wrong = ~(np.abs(values) <= 9.2e18 / scale)
    faults.add(wrong & there, "time", lambda i: f"time is {values[i]!s} {unit}: that is no time")
    whole = np.floor(np.where(wrong, 0, values))
    return whole.astype(np.int64) * scale + np.round((np.where(wrong, 0, values) - whole) * scale).astype(
        np.int64
    ), there


def times_or(otherwise: Times, column: pa.Array | None, unit: str, faults: Faults) -> Times:
    """As `times`; where no time is there, or no column at all, that of `otherwise`."""
    if column is None:
        return otherwise
    given, there = times(column, unit, faults)
    return given if there.all() else np.where(there, given, otherwise)


def _iso_times(column: pa.Array, faults: Faults) -> Times:
    try:
        parsed = column.cast(pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid:
        parsed = pa.array(
            [_iso_time(i, text, faults) for i, text in enumerate(column.to_pylist())], pa.timestamp("ns", "UTC")
        )
    ns: Times = parsed.cast(pa.int64()).fill_null(0).to_numpy()
    return ns


def _iso_time(row: int, text: str | None, faults: Faults) -> pa.Scalar | None:
    try:
        return None if text is None else pa.scalar(text).cast(pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid:
        faults.one(
            row, "time", f"time is {shown(text)}: ISO 8601 with a zone is needed, such as '2026-01-31T12:00:00.5Z'"
        )
        return None


def iso(ns: int) -> str:
    """ISO 8601 text of a time in ns."""
    return f"{np.datetime64(int(ns), 'ns').astype('datetime64[ms]')}Z"


def shown(value: object) -> str:
    """A value as it stands in a message: cut if it is long."""
    text = repr(value)
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"
