"""What the footers of Parquet files tell: which columns are there, and the pieces of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.backfill.dataset import Found, Place
from connectors.backfill.pieces import Piece
from connectors.backfill.prune import Bounds, may_pass
from connectors.columns import Layout
from pipelines.batch import TIME_NS_MAX, Batch
from pipelines.errors import ConfigError
from pipelines.expr import Expr
from pipelines.plan import Plan, Step
from pipelines.schema import TEXT

TIME = "time"
UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_STORED_NS = {"milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}  # in Parquet
_FITS = {
    "f": (pa.types.is_floating, pa.types.is_integer), "i": (pa.types.is_integer,), "b": (pa.types.is_boolean,),
    "T": (pa.types.is_string, pa.types.is_large_string),
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """The columns of a stream that a backfill reads."""

    stream: str
    key: str
    columns: tuple[tuple[str, str, str], ...]  # (qualified, header in the file, dtype)
    absent: dict[str, Any]  # by header: what stands for a missing value
    low: int  # readings in [low, high), ns
    high: int
    conditions: tuple[Expr[bool], ...]  # of which a reading must meet one, if there are any

    @classmethod
    def of(cls, step: Step, plan: Plan, low: int, high: int) -> Wanted:
        """Of a source step of a plan; a table is known from its beginning."""
        needed = plan.needed[step.spec.stream]
        fields = [f for f in step.row.fields if f.qualified in needed]
        columns = tuple((f.qualified, f.name, f.dtype) for f in fields)
        since = -TIME_NS_MAX if step.kind == "table" else low
        layout = Layout.of(step.spec.schema)
        filled = {f.name: 0 for f in step.spec.schema.measured().fields if f not in layout.row.fields}
        absent = dict(layout.absent) | filled  # of older files: readings were good, and it is not known when they came
        return cls(step.spec.stream, step.row.key, columns, absent, since, high, plan.conditions(step.name))

    @property
    def nothing(self) -> Batch:
        """No readings."""
        columns = {q: np.empty(0, dtype) for q, _, dtype in self.columns}
        return Batch.of_keys([], np.empty(0, np.int64), columns)

    @property
    def row_bytes(self) -> int:
        """Memory of a reading, about."""
        return 12 + sum(24 if d == TEXT else np.dtype(d).itemsize for _, _, d in self.columns)

    @property
    def coded(self) -> list[str]:
        """Headers of columns that are read as dictionaries."""
        return [self.key, *(header for _, header, dtype in self.columns if dtype == TEXT)]


def opened(path: str, wanted: Wanted) -> pq.ParquetFile:
    """A file; `ConfigError` if it cannot be read."""
    place = Place.of(path)
    try:
        source = place.system.open_input_file(place.path)
        metadata = pq.read_metadata(source)
        coded = [c for c in wanted.coded if c in metadata.schema.names]
        return pq.ParquetFile(source, metadata=metadata, read_dictionary=coded)
    except (pa.ArrowException, OSError) as e:
        raise ConfigError(f"{path} cannot be read: {e}: leave it out of the dataset, or bring it again") from e


def pieces(found: Found, number: int, wanted: Wanted) -> list[Piece]:
    """The row groups of a file with readings that are wanted; `ConfigError` if columns are missing or of another type."""
    with opened(found.path, wanted) as file:
        schema = file.schema_arrow
        check(found.path, schema, wanted)
        at = {file.schema.column(i).path: i for i in range(len(file.schema))}
        made = []
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            if not facts.num_rows:
                continue
            begin, end = _times(file, group, at[TIME])
            first, last = _keys(facts.column(at[wanted.key]).statistics)
            useful = may_pass(wanted.conditions, _bounds(facts, at, wanted))
            if begin < wanted.high and end >= wanted.low and useful:
                place = wanted.stream, found.site, found.path, number, group, facts.num_rows
                made.append(Piece(*place, begin, end, first, last, found.partition))
        return made


def check(path: str, schema: pa.Schema, wanted: Wanted) -> None:
    """`ConfigError` if columns are missing or of another type."""
    needed = [wanted.key, TIME, *(h for _, h, _ in wanted.columns if h not in wanted.absent)]
    if lacks := [h for h in needed if h not in schema.names]:
        raise ConfigError(
            f"{path} has no column {', '.join(map(repr, lacks))}; it has {', '.join(map(repr, schema.names))}: name the columns "
            "as the schema does, or give what is missing from older files an absent=: Col[…](absent=…)"
        )
    expected: Sequence[tuple[str, str]] = [(wanted.key, TEXT), *((h, d) for _, h, d in wanted.columns)]
    for header, dtype in expected:
        if header in schema.names:
            kind = schema.field(header).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not any(fits(kind) for fits in _FITS["T" if dtype == TEXT else np.dtype(dtype).kind]):
                raise ConfigError(
                    f"{path}: column {header!r} is {kind}, the schema wants {'text' if dtype == TEXT else dtype}: "
                    "change the schema or convert the column"
                )
    if not pa.types.is_timestamp(schema.field(TIME).type):
        raise ConfigError(f"{path}: column {TIME!r} is {schema.field(TIME).type}: a timestamp is needed; convert it")


def _times(file: pq.ParquetFile, group: int, column: int) -> tuple[int, int]:
    """Bounds of the times of a row group, ns; from its rows if it has no statistics."""
    facts = file.metadata.row_group(group).column(column).statistics
    unit = next((ns for name, ns in _STORED_NS.items() if name in str(file.schema.column(column).logical_type)), 0)
    if facts is not None and facts.has_min_max and unit:
        return int(facts.min_raw) * unit, int(facts.max_raw) * unit
    times = file.read_row_group(group, columns=[TIME], use_threads=False).column(TIME)
    bounds = pc.min_max(times.cast(pa.int64()))
    return tuple((b.as_py() or 0) * UNITS_NS[times.type.unit] for b in (bounds["min"], bounds["max"]))  # type: ignore[return-value]


def _bounds(facts: Any, at: Mapping[str, int], wanted: Wanted) -> Bounds:
    """Of columns without nulls; not of float32, which numpy compares in its own precision."""
    found = {}
    for qualified, header, dtype in wanted.columns if wanted.conditions else ():
        known = facts.column(at[header]).statistics if header in at and dtype != "float32" else None
        if known is not None and known.has_min_max and known.has_null_count and not known.null_count:
            found[qualified] = known.min, known.max
    return found


def _keys(facts: Any) -> tuple[str, str | None]:
    if facts is None or not facts.has_min_max or not isinstance(facts.min, str):
        return "", None
    return facts.min, facts.max
