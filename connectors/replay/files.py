"""CSV, Parquet and JSONL files -> columns, block by block in bounded memory."""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from connectors import columns
from connectors.columns import EXPECTED, Faults, Layout, Raw, shown
from connectors.payloads import PAYLOAD_BYTES_MAX, Payloads
from connectors.replay import FILE_STEM, Form
from pipelines.batch import TIME_MAX, Batch
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError
from pipelines.expr import Array

BLOCK_BYTES = 2**20
BLOCK_ROWS = 16_384
_CELL = {  # what a cell must look like, by Arrow type
    "double": r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(nan|inf)$",
    "int64": r"^-?\d{1,18}$",
    "bool": "^(true|false|1|0)$",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file."""

    batch: Batch
    rejects: tuple[DeadLetter, ...]
    rows: int  # read from the file, good or bad


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns of a file by header, as they are in it, and the line (or row) of each."""

    table: pa.Table
    lines: Array
    broken: tuple[DeadLetter, ...] = ()
    faults: Faults | None = None  # what is known to be wrong already
    raw: Sequence[bytes] = ()  # the rows as they stand in the file, if they are not cells


def blocks(path: str, form: Form[Any]) -> Iterator[Block]:
    """Every block of every file that matches; `ConfigError` if there is no file, or one lacks a column or is damaged."""
    paths = sorted(glob.glob(path, recursive=True))
    if not paths:
        raise ConfigError(f"replay: no file matches {path!r}")
    for file in paths:
        yield from blocks_of(file, form)


def blocks_of(path: str, form: Form[Any]) -> Iterator[Block]:
    """Every block of a file; `ConfigError` if it lacks a column or is damaged."""
    layout = Layout.of(form.schema)
    try:
        for part in _PARTS[PurePath(path).suffix.lower()](path, form):
            yield _block(path, part, form, layout)
    except (pa.ArrowException, OSError) as e:
        raise ConfigError(f"replay: {path} cannot be read: {e}") from e


def _block(path: str, part: _Part, form: Form[Any], layout: Layout) -> Block:
    rows = part.table.num_rows
    faults = part.faults or Faults(rows)
    table = {name: _text(name, part.table.column(name).combine_chunks(), faults) for name in part.table.column_names}
    values = {name: _typed(header, table[header], layout.arrow[name], faults) for name, header in form.headers}
    keys = pa.array([_stem(path)] * rows, pa.string()) if form.key == FILE_STEM else table[form.key].cast(pa.string())
    time, there = _times(table[form.time], form, faults)
    faults.add(~there, "missing", lambda _: f"{form.time} is missing")
    batch = columns.batch(layout, Raw(keys, time, values), faults, latest_ns=TIME_MAX)
    rejects = tuple(_dead(path, part, i, *faults.found[i]) for i in sorted(faults.found))
    return Block(batch, part.broken + rejects, rows + len(part.broken))


def _dead(path: str, part: _Part, row: int, reason: str, text: str) -> DeadLetter:
    origin = f"{path}:{part.lines[row]}"
    cells = part.raw[row] if part.raw else b",".join(map(_cell, part.table.slice(row, 1).to_pylist()[0].values()))
    return DeadLetter(cells[:PAYLOAD_BYTES_MAX], reason, f"{origin}: {text}", origin)


def _times(column: pa.Array, form: Form[Any], faults: Faults) -> tuple[Array, Array]:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        ns = column.cast(pa.timestamp("ns", getattr(column.type, "tz", None))).cast(pa.int64())
        return ns.fill_null(0).to_numpy(), column.is_valid().to_numpy(zero_copy_only=False)
    if form.time_unit != "iso":
        column = _typed(form.time, column, pa.int64() if form.time_unit == "ns" else pa.float64(), faults)
    elif not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    return columns.times(column, form.time_unit, faults)


def _text(header: str, column: pa.Array, faults: Faults) -> pa.Array:
    """Bytes as text; a cell that is not UTF-8 becomes null with a fault."""
    if not pa.types.is_binary(column.type):
        return column
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_utf8(i, header, cell, faults) for i, cell in enumerate(column.to_pylist())], pa.string())


def _utf8(row: int, header: str, cell: bytes | None, faults: Faults) -> str | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        faults.one(row, "not_utf8", f"{header} is {shown(cell)}, which is not UTF-8")
        return None


def _typed(header: str, column: pa.Array, kind: pa.DataType, faults: Faults) -> pa.Array:
    """The column in its type; cells that are not of it become nulls with a fault."""
    if kind == pa.int64() and pa.types.is_floating(column.type):
        raise ConfigError(f"replay: column {header!r} is {column.type}, the schema wants int: make it Col[float]")
    if kind == pa.string():
        return column if pa.types.is_string(column.type) else column.cast(kind)
    if not pa.types.is_string(column.type):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            column = column.cast(pa.string())
    good = pc.match_substring_regex(column, _CELL[str(kind)], ignore_case=True).fill_null(True)
    bad = ~good.to_numpy(zero_copy_only=False)
    faults.add(
        bad, "type", lambda i: f"{header} is {shown(column[i].as_py())}: {EXPECTED[_numpy_name(kind)]} is needed"
    )
    return pc.if_else(good, column, pa.scalar(None, pa.string())).cast(kind)


def _numpy_name(kind: pa.DataType) -> str:
    return str(np.dtype(kind.to_pandas_dtype()))


def _cell(value: object) -> bytes:
    return b"" if value is None else value if isinstance(value, bytes) else str(value).encode()


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _headers(form: Form[Any]) -> list[str]:
    wanted = [form.time, *(header for _, header in form.headers)]
    return list(dict.fromkeys(wanted if form.key == FILE_STEM else [form.key, *wanted]))


def _check_headers(path: str, has: Sequence[str], form: Form[Any]) -> None:
    if lacks := [h for h in _headers(form) if h not in has]:
        raise ConfigError(
            f"replay: {path} has no column {', '.join(map(repr, lacks))}; "
            f"it has {', '.join(map(repr, has))}: give columns=, key= or time="
        )


def _csv(path: str, form: Form[Any]) -> Iterator[_Part]:
    broken: list[Any] = []

    def skip(row: Any) -> str:
        broken.append(row)
        return "skip"

    with open(path, "rb") as file:
        header = file.readline().decode(errors="replace").lstrip("\ufeff")
    _check_headers(path, next(csv.reader([header]), []), form)
    convert = pa_csv.ConvertOptions(
        include_columns=_headers(form),
        column_types={h: pa.binary() for h in _headers(form)},
        strings_can_be_null=True,
        null_values=[""],
    )
    line = 2  # the header is the first
    with pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=skip),
        convert_options=convert,
    ) as reader:
        for batch in reader:
            letters, places = [], []
            for row in [*broken]:
                places.append(row.number)
                text = f"the line has {row.actual_columns} cells, the header {row.expected_columns}"
                letters.append(
                    DeadLetter(_cell(row.text), "cells", f"{path}:{row.number}: {text}", f"{path}:{row.number}")
                )
            broken.clear()
            lines = np.setdiff1d(np.arange(line, line + batch.num_rows + len(places)), places)
            line += batch.num_rows + len(places)
            yield _Part(pa.Table.from_batches([batch]), lines, tuple(letters))


def _parquet(path: str, form: Form[Any]) -> Iterator[_Part]:
    with pq.ParquetFile(path) as file:
        _check_headers(path, file.schema_arrow.names, form)
        row = 1
        for batch in file.iter_batches(BLOCK_ROWS, columns=_headers(form)):
            yield _Part(pa.Table.from_batches([batch]), np.arange(row, row + batch.num_rows))
            row += batch.num_rows


def _jsonl(path: str, form: Form[Any]) -> Iterator[_Part]:
    """Blocks of lines, each of which is a JSON object; what is read is strict about types, as payloads of devices are."""
    renamed = dict(form.headers)
    sent = form.schema.sent()
    fields = tuple(replace(f, qualified=f"{sent.name}.{renamed[f.name]}") for f in sent.fields)
    key = None if form.key == FILE_STEM else form.key
    literal = {name: (name,) for name in (*(f.name for f in fields), key, form.time) if name is not None}
    parser = Payloads(
        Layout(replace(sent, fields=fields), {}), key=key, time=form.time, time_unit=form.time_unit, paths=literal
    )
    number = 1
    with open(path, "rb") as file:
        for lines in _lines(file):
            some = [i for i, line in enumerate(lines) if line.strip()]
            raw = [lines[i].strip() for i in some]
            faults = Faults(len(raw))
            if raw:
                table = pa.table(parser.parse(raw, faults))
                yield _Part(table, np.array(some) + number, (), faults, raw)
            number += len(lines)


def _lines(file: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a file, a block at a time. Of one that is too long only so much is kept that it shows."""
    rest = b""
    while block := file.read(BLOCK_BYTES):
        *lines, last = block.split(b"\n")
        if lines:
            lines[0] = rest + lines[0]
            rest = b""
            yield lines
        rest = (rest + last)[: PAYLOAD_BYTES_MAX + 1]
    if rest:
        yield [rest]


_PARTS: dict[str, Callable[[str, Form[Any]], Iterator[_Part]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
