"""Payloads that are not JSON -> Arrow columns: CSV lines, CBOR, MessagePack, numbers as text and numbers in binary. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from connectors.base import TimeUnit
from connectors.columns import Faults, Layout, shown
from connectors.payloads import PAYLOAD_BYTES_MAX, Parsed, Payloads
from pipelines.errors import BadData, PlanError

CSV = "csv:"
NAMED = ("json", "cbor", "msgpack", "number")
LINES_MAX = 10_000  # of one payload


class Format(Protocol):
    """Takes payloads apart."""

    def readings(self, payloads: Sequence[bytes], *, whole: bool = True) -> Parsed:
        """All readings of the payloads. `whole=False` looks at each payload by itself, which is slow and gives the same."""
        ...


def check(kind: str, payload: str) -> None:
    """`PlanError` unless `payload` is a format that is known. `kind`: of the source, for the message."""
    if payload in NAMED or (payload.startswith(CSV) and payload.removeprefix(CSV).strip(",")):
        return
    try:
        known = np.dtype(payload).kind in "iuf" and payload[:1] in "<>"
    except TypeError:
        known = False
    if not known:
        raise PlanError(
            f"{kind} payload={payload!r}: write {', '.join(map(repr, NAMED))}, 'csv:time,rms' with the names of its fields, or "
            "the numpy type of a binary number, such as '<f4' or '>i2' (< is little-endian, > is big-endian)"
        )


def format_of(
    payload: str,
    layout: Layout,
    *,
    key: str | None,
    time: str | None,
    time_unit: TimeUnit,
    paths: Mapping[str, str],
    rows: str | None,
    bytes_max: int = PAYLOAD_BYTES_MAX,
) -> Format:
    """The format that a source names; see `Payloads` for the others."""
    if payload == "number":
        return Numbers(layout)
    if payload.startswith(CSV):
        return Lines(
            layout, payload.removeprefix(CSV).split(","), key=key, time=time, time_unit=time_unit, paths=paths,
            bytes_max=bytes_max,
        )  # fmt: skip
    if payload not in NAMED:
        return Binary(layout, np.dtype(payload))
    given: dict[str, Any] = {"key": key, "time": time, "time_unit": time_unit, "paths": paths, "rows": rows}
    given["bytes_max"] = bytes_max
    if payload == "json":
        return Payloads(layout, **given)
    return Payloads(layout, **given, decode=cbor if payload == "cbor" else msgpack)


def cbor(payload: bytes) -> Any:
    """What a payload of CBOR says; `BadData` if it is none."""
    import cbor2

    try:
        return cbor2.loads(payload)
    except Exception as e:  # a decoder of tags and dates raises whatever those raise
        raise BadData(f"the payload is not CBOR: {shown(payload)}: {e}", reason="not_cbor") from e


def msgpack(payload: bytes) -> Any:
    """What a payload of MessagePack says; `BadData` if it is none."""
    import msgspec

    try:
        return msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as e:
        raise BadData(f"the payload is not MessagePack: {shown(payload)}: {e}", reason="not_msgpack") from e


def _whole(values: Mapping[str, pa.Array], count: int) -> Parsed:
    return Parsed(dict(values), np.arange(count), Faults(count))


class Numbers:
    """One number as text: `23.5`."""

    def __init__(self, layout: Layout) -> None:
        self._fields = layout.arrow

    def readings(self, payloads: Sequence[bytes], *, whole: bool = True) -> Parsed:
        """See `Format.readings`."""
        ((name, kind),) = self._fields.items()
        if whole:
            try:
                return _whole({name: _number(payloads, kind)}, len(payloads))
            except pa.ArrowInvalid:
                pass
        faults, values = Faults(len(payloads)), []
        for i, payload in enumerate(payloads):
            try:
                values.append(_number([payload], kind)[0].as_py())
            except pa.ArrowInvalid:
                values.append(None)
                faults.one(
                    i, "not_number", f"the payload is {shown(payload)}: a number as text is needed, such as 23.5"
                )
        return Parsed({name: pa.array(values, kind)}, np.arange(len(payloads)), faults)


def _number(payloads: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    return pa.array([p.strip() for p in payloads], pa.binary()).cast(pa.string()).cast(kind)


class Binary:
    """Numbers of one binary type, one for each column in the schema's order."""

    def __init__(self, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._fields, self._dtype = layout.arrow, dtype
        self._size = dtype.itemsize * len(layout.arrow)

    def readings(self, payloads: Sequence[bytes], *, whole: bool = True) -> Parsed:
        """See `Format.readings`."""
        faults = Faults(len(payloads))
        fitting = np.fromiter((len(p) == self._size for p in payloads), bool, len(payloads))
        what = f"{len(self._fields)} × {self._dtype.str}"
        faults.add(
            ~fitting, "size", lambda i: f"the payload has {len(payloads[i])} bytes: {self._size} are needed ({what})"
        )
        blank = bytes(self._size)
        data = b"".join(
            payloads if fitting.all() else [p if f else blank for p, f in zip(payloads, fitting, strict=True)]
        )
        table = np.frombuffer(data, self._dtype).reshape(len(payloads), len(self._fields))
        native = table.astype(self._dtype.newbyteorder("="))
        values = {n: pa.array(native[:, i].copy()).cast(k, safe=False) for i, (n, k) in enumerate(self._fields.items())}
        return Parsed(values, np.arange(len(payloads)), faults)


class Lines:
    """CSV without a head, a reading on each line; `names` are those of its fields, '' for one that does not matter."""

    def __init__(
        self,
        layout: Layout,
        names: Sequence[str],
        *,
        key: str | None,
        time: str | None,
        time_unit: TimeUnit,
        paths: Mapping[str, str],
        bytes_max: int = PAYLOAD_BYTES_MAX,
    ) -> None:
        self._bytes_max = bytes_max
        kinds = {n: (paths.get(n, n), kind) for n, kind in layout.arrow.items()}
        if key is not None:
            kinds[key] = (key, pa.string())
        if time is not None and time in names:
            number = pa.int64() if time_unit == "ns" else pa.float64()
            kinds[time] = (time, pa.string() if time_unit == "iso" else number)
        if absent := [at for n, (at, _) in kinds.items() if at not in names and n not in layout.absent]:
            raise PlanError(f"payload='csv:{','.join(names)}' has no field {absent[0]!r}: name it there, or in fields=")
        self._names = [n or f"_{i}" for i, n in enumerate(names)]
        self._kinds = kinds
        self._schema = pa.schema([(at, kind) for at, kind in dict(kinds.values()).items() if at in names])
        self._convert = pc.ConvertOptions(
            column_types=self._schema, include_columns=self._schema.names,
            null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
        )  # fmt: skip

    def readings(self, payloads: Sequence[bytes], *, whole: bool = True) -> Parsed:
        """See `Format.readings`."""
        lines = [payload.strip(b"\r\n") for payload in payloads]
        text = b"\n".join(lines).replace(b"\r\n", b"\n")
        counts = np.array([line.count(b"\n") + 1 for line in lines], np.int64)
        small = len(lines) > 0 and counts.max() <= LINES_MAX and max(map(len, payloads)) <= self._bytes_max
        if (
            whole and small and b"\r" not in text and all(text.split(b"\n"))
        ):  # Arrow has views of its own on blank lines
            table = self._table(text, int(counts.sum()))
            if table is not None:
                of = np.repeat(np.arange(len(lines)), counts)
                return Parsed(self._values(table), of, Faults(len(of)))
        return self._one_by_one(payloads, lines)

    def _one_by_one(self, payloads: Sequence[bytes], lines: Sequence[bytes]) -> Parsed:
        tables: list[pa.Table] = []
        of: list[int] = []
        wrong: dict[int, tuple[str, str]] = {}
        for i, text in enumerate(lines):
            parts = text.split(b"\n")
            if len(payloads[i]) > self._bytes_max or len(parts) > LINES_MAX:
                limit = f"{self._bytes_max} bytes or {LINES_MAX} lines"
                wrong[len(of)], parts = ("too_large", f"the payload has more than {limit}"), [b""]
            for n, line in enumerate(parts):
                table = self._table(line, 1)
                if table is None:
                    names = ",".join(self._names)
                    wrong.setdefault(len(of), ("not_csv", f"line {n + 1} is {shown(line)}: fields {names} are needed"))
                    table = pa.table([pa.nulls(1, f.type) for f in self._schema], self._schema)
                tables.append(table)
                of.append(i)
        faults = Faults(len(of))
        for row, (reason, says) in wrong.items():
            faults.one(row, reason, says)
        joined = pa.concat_tables(tables).combine_chunks() if tables else self._schema.empty_table()
        return Parsed(self._values(joined), np.array(of, np.int64), faults)

    def _table(self, text: bytes, rows: int) -> pa.Table | None:
        try:
            text.decode()
            options = pc.ParseOptions(newlines_in_values=False, ignore_empty_lines=False)
            read = pc.ReadOptions(use_threads=False, column_names=self._names, block_size=len(text) + 1)
            table = pc.read_csv(pa.BufferReader(text), read, options, self._convert).combine_chunks()
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        return table if table.num_rows == rows else None

    def _values(self, table: pa.Table) -> dict[str, pa.Array]:
        rows = table.num_rows
        values = {}
        for name, (at, kind) in self._kinds.items():
            there = at in table.column_names
            values[name] = table.column(at).combine_chunks() if there else pa.nulls(rows, kind)
        return values
