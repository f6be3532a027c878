"""What reads messages of one Protobuf type into columns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from connectors.base import TimeUnit
from connectors.columns import Faults
from connectors.kafka.wanted import Field, Found, Place, Problem, Rows

_TIMESTAMP = "google.protobuf.Timestamp"
_WRAPPED = tuple(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String")
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: pa.int64(), FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT32: pa.int64(), FieldDescriptor.CPPTYPE_UINT64: pa.uint64(),
}  # fmt: skip
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Column:
    """Takes one field from a message, and makes a column of what was taken from many."""

    field: Field
    steps: tuple[tuple[str, bool], ...]  # names on the way, and whether each may be absent
    last: FieldDescriptor

    @property
    def plain(self) -> str | None:
        """The field's name, if it is always there."""
        return self.steps[0][0] if len(self.steps) == 1 and not self.steps[0][1] and not self.is_time else None

    @property
    def is_time(self) -> bool:
        """Whether it is a Timestamp."""
        return self.last.message_type is not None

    def take(self, message: Any) -> Any:
        """Its value; None if it is absent."""
        for name, optional in self.steps:
            if optional and not message.HasField(name):
                return None
            message = getattr(message, name)
        if self.is_time:
            ns = message.seconds * 10**9 + message.nanos
            return ns if abs(ns) <= _INT64_MAX else _INT64_MAX  # which is refused as a time
        return message

    def put(self, values: list[Any], rows: Rows, found: Found, faults: Faults) -> None:
        """A column of the values."""
        column, kind = self._column(values, rows, faults), self.field.type
        unit: TimeUnit | None = "ns" if self.is_time else self.field.unit if kind is None else None
        if kind is not None and column.type != kind:
            column = column.cast(kind, safe=False)
        found.put(self.field, rows, column, unit)

    def _column(self, values: list[Any], rows: Rows, faults: Faults) -> pa.Array:
        if self.is_time:
            return pa.array(values, pa.int64())
        if self.last.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return self._names(values, rows, faults)
        column = pa.array(values, _INTEGERS.get(self.last.cpp_type))
        if column.type == pa.uint64() and self.field.type != pa.float64():
            for at in np.flatnonzero(column.fill_null(0).to_numpy() > _INT64_MAX):
                faults.one(int(rows[at]), "type", f"{self.field.path} is {values[at]}: at most {_INT64_MAX} fits")
            column = column.cast(pa.int64(), safe=False)
        return column

    def _names(self, values: list[Any], rows: Rows, faults: Faults) -> pa.Array:
        enum = self.last.enum_type
        names = {number: value.name for number, value in enum.values_by_number.items()}
        for at, value in enumerate(values):
            if value is not None and value not in names:
                text = f"{self.field.path} is {value}, which {enum.full_name} has no name for: register a newer schema"
                faults.one(int(rows[at]), "type", text)
        return pa.array([names.get(value) for value in values], pa.string())


class Reader:
    """Reads messages of one type. `problems`: see `wanted.Problem`."""

    def __init__(self, made: Callable[[], Any], descriptor: Descriptor, want: Place, where: str) -> None:
        """`made` makes an empty message; `where`: what to call its type."""
        self._made, self._where = made, where
        self.problems: list[Problem] = []
        self._columns = list(self._found(descriptor, want, ()))
        plain = [c.plain for c in self._columns]
        if len(plain) > 1 and all(plain):
            self._take: Callable[[Any], Any] = attrgetter(*[name for name in plain if name])
        else:
            self._take = lambda message: [column.take(message) for column in self._columns]

    def read(self, bodies: Iterable[bytes], rows: Rows, found: Found, faults: Faults) -> None:
        """Columns of these messages, which are numbered `rows`."""
        message, good, taken = self._made(), [], []
        for row, body in zip(rows.tolist(), bodies, strict=True):
            try:
                message.ParseFromString(body)
                taken.append(self._take(message))
            except (DecodeError, UnicodeDecodeError) as e:
                faults.one(row, "not_protobuf", f"the message is no {self._where}: {e}")
                continue
            good.append(row)
        for text, name in self.problems:
            for row in good if name is None else ():
                faults.one(row, "type", text)
        kept = np.array(good, np.int64)
        for column, values in zip(self._columns, zip(*taken, strict=True), strict=bool(taken)):
            column.put(list(values), kept, found, faults)

    def _found(self, descriptor: Descriptor, want: Place, steps: tuple[tuple[str, bool], ...]) -> Iterable[_Column]:
        for name, place in want.inside.items():
            field = descriptor.fields_by_name.get(name)
            if field is None:
                has = ", ".join(descriptor.fields_by_name)
                self.problems += [
                    (f"{f.path} is not there in {self._where}: it has {has}", f.name) for f in place.all()
                ]
                continue
            way = (*steps, (name, field.has_presence))
            inner = field.message_type
            if field.is_repeated:
                self._complain(place.all(), "repeated")
            elif inner is None:
                self._complain((f for p in place.inside.values() for f in p.all()), f"a field of {_kind(field)}")
                yield from self._values(field, place.fields, way)
            elif inner.full_name in _WRAPPED:
                yield from self._values(inner.fields_by_name["value"], place.fields, (*way, ("value", False)))
            else:
                yield from self._values(field, place.fields, way)
                yield from self._found(inner, place, way)

    def _values(
        self, last: FieldDescriptor, fields: Iterable[Field], way: tuple[tuple[str, bool], ...]
    ) -> Iterable[_Column]:
        for field in fields:
            if _fits(last, field):
                yield _Column(field, way, last)
            else:
                self._complain([field], _kind(last))

    def _complain(self, fields: Iterable[Field], found: str) -> None:
        self.problems += [(field.problem(found, self._where), None) for field in fields]


def _fits(last: FieldDescriptor, field: Field) -> bool:
    kind, text = last.cpp_type, last.type == FieldDescriptor.TYPE_STRING
    number = kind in _INTEGERS or kind in _FLOATS
    if field.type is None:
        known = last.message_type is not None and last.message_type.full_name == _TIMESTAMP
        return bool(known or (text if field.unit == "iso" else number))
    if field.type == pa.string():
        return bool(text or kind == FieldDescriptor.CPPTYPE_ENUM)
    if field.type == pa.bool_():
        return bool(kind == FieldDescriptor.CPPTYPE_BOOL)
    return bool(number if field.type == pa.float64() else kind in _INTEGERS)


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return f"a message {field.message_type.full_name}"
    kinds = {getattr(FieldDescriptor, n): n[5:].lower() for n in dir(FieldDescriptor) if n.startswith("TYPE_")}
    name = kinds[field.type]
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
