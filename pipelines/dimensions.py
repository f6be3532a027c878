"""Load the content of a plan's dimensions from the files beside the pipeline file. Hosts do this once, at their start."""

from __future__ import annotations

import csv
import hashlib
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.batch import Batch
from pipelines.errors import ConfigError
from pipelines.expr import Array
from pipelines.plan import DimensionSpec, Plan, Step
from pipelines.schema import TEXT
from pipelines.wire import text

BYTES_MAX = 64 * 2**20  # of a file: its rows are held in memory
_EXPECTED = {"int64": "a whole number", "bool": "true or false", TEXT: "text"}
log = logging.getLogger(__name__)


def folder_of(pipeline: str) -> Path:
    """The folder of a pipeline file, 'hall/press.py:press' -> 'hall'; the files of dimensions are found from there."""
    return Path(pipeline.partition(":")[0]).parent


def files(plan: Plan, folder: Path) -> dict[str, bytes]:
    """The files of the dimensions, by path; `ConfigError` if one cannot be read or is too large."""
    specs = [(s.name, s.spec.path) for s in plan.steps if s.kind == "dimension"]
    return {path: _read(folder / path, name) for name, path in specs}


def load(plan: Plan, folder: Path) -> dict[str, Batch]:
    """Content of each dimension by step, one row for each key; `ConfigError` names file, line, column and cure."""
    found = {}
    for step in plan.steps:
        if step.kind == "dimension":
            path = folder / step.spec.path
            data = _read(path, step.name)
            found[step.name] = content = _File(path, data, step).content()
            digest = hashlib.sha256(data).hexdigest()[:16]
            log.info("dimension %s: %d rows of %s, sha256 %s", step.name, len(content), path, digest)
    return found


def _read(path: Path, dimension: str) -> bytes:
    try:
        size = path.stat().st_size
        if size <= BYTES_MAX:
            return path.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"{path}: the file of dimension {dimension!r} cannot be read ({e.strerror}): put it beside the pipeline file"
        ) from e
    raise ConfigError(
        f"{path}: {size:,} bytes, and a dimension may have {BYTES_MAX:,}: keep only the columns that are used, or make it a "
        "topic (pipeline.table)"
    )


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    data: bytes
    step: Step

    @property
    def _spec(self) -> DimensionSpec:
        spec: DimensionSpec = self.step.spec
        return spec

    def content(self) -> Batch:
        try:
            table = self._csv() if self._is_csv else self._parquet()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{self.path} cannot be read: {e}") from e
        keys = self._keys(table.column(self._spec.key).combine_chunks())
        dtypes, absent = {f.qualified: f.dtype for f in self.step.scope}, dict(self._spec.absent)
        columns = {
            name: self._values(header, table.column(header).combine_chunks(), dtypes[name], absent.get(name))
            for name, header in self._spec.headers
        }
        return Batch.of_keys(keys, np.zeros(len(keys), np.int64), columns)

    @property
    def _is_csv(self) -> bool:
        return self._spec.path.lower().endswith(".csv")

    @property
    def _headers(self) -> list[str]:
        return list(dict.fromkeys([self._spec.key, *(header for _, header in self._spec.headers)]))

    def _csv(self) -> pa.Table:
        import pyarrow.csv as pa_csv  # as Parquet's: a worker without dimensions has no use for it

        line = self.data.split(b"\n", 1)[0].decode("utf-8-sig")
        self._check_headers(next(csv.reader([line.rstrip("\r")]), []))
        options = pa_csv.ConvertOptions(
            include_columns=self._headers,
            column_types={h: pa.string() for h in self._headers},
            strings_can_be_null=True,
            null_values=[""],
        )
        reading = pa_csv.ReadOptions(use_threads=False)
        return pa_csv.read_csv(BytesIO(self.data), read_options=reading, convert_options=options)

    def _parquet(self) -> pa.Table:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(BytesIO(self.data))
        self._check_headers(file.schema_arrow.names)
        return file.read(columns=self._headers)

    def _check_headers(self, has: list[str]) -> None:
        if lacks := [h for h in self._headers if h not in has]:
            raise ConfigError(
                f"{self.path} has no column {', '.join(map(repr, lacks))}; it has {', '.join(map(repr, has)) or 'none'}: give "
                "dimension(…, key=, columns=)"
            )

    def _wrong(self, row: int, what: str) -> ConfigError:
        return ConfigError(f"{self.path.parent}/{self._place(row)}: {what}")

    def _place(self, row: int) -> str:
        return f"{self.path.name}:{row + 2 if self._is_csv else row + 1}"  # the first line of a CSV file is the header

    def _keys(self, column: pa.Array) -> list[str]:
        header = self._spec.key
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not any(fits(column.type) for fits in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)):
            raise ConfigError(f"{self.path}: column {header!r} is {column.type}: a key is text; write it as text")
        keys: list[Any] = column.cast(pa.string()).to_pylist()
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            if not key:
                raise self._wrong(row, f"{header!r} is empty: each row needs a key; fill it in or remove the row")
            if first.setdefault(key, row) != row:
                raise self._wrong(
                    row, f"{header!r} is {key!r}, as in {self._place(first[key])}: keep one row for each key"
                )
        return keys

    def _values(self, header: str, column: pa.Array, dtype: str, absent: Any) -> Array:
        kind = pa.string() if dtype == TEXT else pa.from_numpy_dtype(np.dtype(dtype))
        typed = self._cast(header, column, kind, _EXPECTED.get(dtype, "a number"))
        if typed.null_count:
            if absent is None:
                row = int(np.flatnonzero(typed.is_null().to_numpy(zero_copy_only=False))[0])
                raise self._wrong(row, f"{header!r} is empty: fill it in, or say what stands for it: Col[…](absent=…)")
            typed = typed.fill_null(pa.scalar(absent, kind))
        if dtype == TEXT:
            return text(typed)
        values: Array = typed.to_numpy(zero_copy_only=False)
        if dtype.startswith("float") and not (finite := np.isfinite(values)).all():
            row = int(np.flatnonzero(~finite)[0])
            raise self._wrong(row, f"{header!r} is {values[row]}: a finite number is needed")
        return values

    def _cast(self, header: str, column: pa.Array, kind: pa.DataType, expected: str) -> pa.Array:
        try:
            return column.cast(kind)
        except pa.ArrowNotImplementedError as e:
            raise ConfigError(
                f"{self.path}: column {header!r} is {column.type}: {expected} is needed; convert it"
            ) from e
        except pa.ArrowInvalid:
            for row, value in enumerate(column):  # only now, to say where
                try:
                    value.cast(kind)
                except pa.ArrowInvalid as e:
                    raise self._wrong(row, f"{header!r} is {value.as_py()!r}: {expected} is needed") from e
            raise
