"""Which fields of a message matter, as what, and the columns that are found for them, piece by piece. Pure.

A call decodes messages of several schemas, and a field may be of one type in some and of another in others: each kind of
message adds a piece, and what no piece fills is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from connectors import columns
from connectors.base import TimeUnit
from connectors.columns import EXPECTED, Faults, Layout, Raw
from connectors.kafka import KafkaSource
from connectors.kafka.cursor import Cursor, Rows
from pipelines.batch import Times
from pipelines.expr import Array

Role = Literal["key", "time", "value"]
Problem = tuple[str, str | None]  # what is wrong with a field in a schema; its name, if it is merely not there


def with_article(name: str) -> str:
    """'an int', 'a long'."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


class Readings(Protocol):
    """Reads the messages of one source."""

    def raw(self, payloads: Sequence[bytes], taken: Times, faults: Faults) -> Raw:
        """A reading of each; `taken` (ns) is the time of one that holds none. Unusable ones are added to `faults`.

        `pipelines.ports.Lacking` if a schema must be fetched first.
        """
        ...


@dataclass(frozen=True, slots=True)
class Field:
    """A field that matters. `type` is what it becomes (of a time: None), `unit` what numbers and texts mean if it is the time."""

    role: Role
    name: str
    path: str
    type: pa.DataType | None
    unit: TimeUnit
    expected: str  # as messages have it

    def problem(self, found: str, where: str) -> str:
        """What to say of a field of the type `found`."""
        return f"{self.path} is {found} in {where}: {self.expected} is needed"


@dataclass(frozen=True, slots=True)
class Place:
    """What is wanted of a place in a message: its value, for some fields, or what lies within it."""

    fields: list[Field] = field(default_factory=list)
    inside: dict[str, Place] = field(default_factory=dict)

    def all(self) -> Iterator[Field]:
        """The fields that are found here or within."""
        yield from self.fields
        for place in self.inside.values():
            yield from place.all()


def of(source: KafkaSource[Any], layout: Layout) -> Place:
    """The fields of a source's messages."""
    unit, root = source.time_unit, Place()
    paths = source.paths
    fields = [
        Field("value", f.name, paths[f.name], layout.arrow[f.name], unit, EXPECTED[f.dtype]) for f in layout.row.fields
    ]
    fields.append(Field("key", source.key, paths[source.key], pa.string(), unit, "text"))
    if source.time is not None:
        written = "ISO 8601 text" if unit == "iso" else f"a number of {unit} since 1970"
        expected = f"a timestamp or {written} (time_unit={unit!r})"
        fields.append(Field("time", source.time, paths[source.time], None, unit, expected))
    for one in fields:
        place = root
        for name in one.path.split("."):
            place = place.inside.setdefault(name, Place())
        place.fields.append(one)
    return root


class Found:
    """The columns of one call."""

    def __init__(self, rows: int, faults: Faults) -> None:
        self._rows, self._faults = rows, faults
        self._pieces: dict[tuple[Role, str], list[tuple[Rows, pa.Array]]] = {}

    def put(self, of: Field, rows: Rows, values: pa.Array | Array, unit: TimeUnit | None = None) -> None:
        """Values of a field in some messages; of times as they stand there, in `unit`."""
        column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        if unit is not None:
            column = self._times(rows, column, unit)
        self._pieces.setdefault((of.role, of.name), []).append((rows, column))

    def _times(self, rows: Rows, column: pa.Array, unit: TimeUnit) -> pa.Array:
        """As ns since 1970."""
        if unit not in ("iso", "ns") and pa.types.is_integer(column.type):
            column = column.cast(pa.float64(), safe=False)  # whose overflow shows
        faults = Faults(len(rows))
        ns, there = columns.times(column, unit, faults)
        for row, (reason, text) in faults.found.items():
            self._faults.one(int(rows[row]), reason, text)
        return pa.array(ns, mask=~there)

    def raw(self, layout: Layout, source: KafkaSource[Any], taken: Times) -> Raw:
        """All columns; null where nothing was put."""
        times = None
        if source.time is not None:
            times = self._column("time", source.time, pa.int64())
        values: Mapping[str, pa.Array] = {n: self._column("value", n, kind) for n, kind in layout.arrow.items()}
        return Raw(
            self._column("key", source.key, pa.string()),
            columns.times_or(taken, times, "ns", self._faults),
            values,
        )

    def _column(self, role: Role, name: str, kind: pa.DataType) -> pa.Array:
        pieces = self._pieces.get((role, name), [])
        if not pieces:
            return pa.nulls(self._rows, kind)
        if len(pieces) == 1 and len(pieces[0][0]) == self._rows:
            return pieces[0][1]
        place = np.full(self._rows, -1)
        place[np.concatenate([rows for rows, _ in pieces])] = np.arange(sum(len(rows) for rows, _ in pieces))
        return pa.concat_arrays([values for _, values in pieces]).take(pa.array(place, mask=place < 0))


Read = Callable[[Cursor, Found, Rows], None]  # puts the values of a type of message, in those that are of it
