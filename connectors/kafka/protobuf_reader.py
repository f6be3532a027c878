"""What reads messages of one Protobuf type into columns: all of them at once, field by field in their order. Pure.

Fields may come in any order, and the last of several counts; those that nobody wants are skipped unread.
https://protobuf.dev/programming-guides/encoding/ has the encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from numpy.typing import NDArray

from connectors.base import TimeUnit
from connectors.kafka.cursor import Cursor, Rows, zigzag
from connectors.kafka.wanted import Field, Found, Place, Problem, with_article
from pipelines.expr import Array

D = FieldDescriptor
Raw = NDArray[np.uint64]
_TIMESTAMP = "google.protobuf.Timestamp"
_SECONDS_MAX = 9_000_000_000  # as ns they fit into 64 bits
_INT64_MAX = 2**63 - 1
_WRAPPED = tuple(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String")
)
_UNKNOWN = np.uint64(1 << 40)  # a tag that no field has
VARINT, BITS64, SIZED, BITS32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which nobody writes any more


def _low(raw: Raw) -> NDArray[np.uint32]:
    return raw.astype(np.uint32)


# By type: its wire type, and its values from the bytes. Numbers of 32 bits are written with up to 64, and cut.
_SCALARS: dict[int, tuple[int, Callable[[Raw], Array]]] = {
    D.TYPE_DOUBLE: (BITS64, lambda raw: raw.view(np.float64)),
    D.TYPE_FLOAT: (BITS32, lambda raw: _low(raw).view(np.float32).astype(np.float64)),
    D.TYPE_INT32: (VARINT, lambda raw: _low(raw).view(np.int32).astype(np.int64)),
    D.TYPE_INT64: (VARINT, lambda raw: raw.view(np.int64)),
    D.TYPE_UINT32: (VARINT, lambda raw: _low(raw).astype(np.int64)),
    D.TYPE_UINT64: (VARINT, lambda raw: raw),
    D.TYPE_SINT32: (VARINT, lambda raw: zigzag(_low(raw).astype(np.uint64))),
    D.TYPE_SINT64: (VARINT, zigzag),
    D.TYPE_FIXED32: (BITS32, lambda raw: _low(raw).astype(np.int64)),
    D.TYPE_FIXED64: (BITS64, lambda raw: raw),
    D.TYPE_SFIXED32: (BITS32, lambda raw: _low(raw).view(np.int32).astype(np.int64)),
    D.TYPE_SFIXED64: (BITS64, lambda raw: raw.view(np.int64)),
    D.TYPE_BOOL: (VARINT, lambda raw: raw != 0),
    D.TYPE_ENUM: (VARINT, lambda raw: _low(raw).view(np.int32).astype(np.int64)),
}
_DTYPES = {D.TYPE_DOUBLE: "f8", D.TYPE_FLOAT: "f8", D.TYPE_UINT64: "u8", D.TYPE_FIXED64: "u8", D.TYPE_BOOL: "?"}
_INTEGERS = (D.CPPTYPE_INT32, D.CPPTYPE_INT64, D.CPPTYPE_UINT32, D.CPPTYPE_UINT64)
_FLOATS = (D.CPPTYPE_FLOAT, D.CPPTYPE_DOUBLE)


@dataclass(eq=False, slots=True)
class _Node:
    """A field that matters, or a message with such fields. `optional`: whether it may be absent rather than zero."""

    of: FieldDescriptor | None = None  # None: the whole message
    optional: bool = False
    wanted: list[Field] = field(default_factory=list)
    inside: dict[int, _Node] = field(default_factory=dict)  # by tag: number and wire type
    rivals: list[_Node] = field(default_factory=list)  # others of its oneof

    def all(self) -> Iterable[_Node]:
        """It and what lies within."""
        yield self
        for node in self.inside.values():
            yield from node.all()


@dataclass(frozen=True, slots=True)
class _Values:
    """What was found of a field in each message; of a text, its place."""

    there: NDArray[np.bool_]
    values: Array
    size: NDArray[np.int64]


class Reader:
    """Reads messages of one type. `problems`: see `wanted.Problem`."""

    def __init__(self, descriptor: Descriptor, want: Place, where: str) -> None:
        """`where`: what to call the type."""
        self._where = where
        self.problems: list[Problem] = []
        self._root = self._message(_Node(), descriptor, want)

    def read(self, cursor: Cursor, found: Found, rows: Rows) -> None:
        """Columns of these messages."""
        for text, name in self.problems:
            for row in rows.tolist() if name is None else ():
                cursor.faults.one(row, "type", text)
        count = len(cursor.pos)
        state = {
            node: _Values(
                np.zeros(count, np.bool_),
                np.zeros(count, _DTYPES.get(node.of.type, "i8") if node.of else "i8"),
                np.zeros(count if node.of and _wire(node.of) == SIZED else 0, np.int64),
            )
            for node in self._root.all()
        }
        state[self._root].there[rows] = True
        self._fields(self._root, state, cursor, rows)
        self._put(self._root, state, cursor, found, rows, state[self._root].there[rows])

    # bytes to values

    def _fields(self, node: _Node, state: dict[_Node, _Values], cursor: Cursor, rows: Rows) -> None:
        while len(rows := rows[cursor.pos[rows] < cursor.end[rows]]):
            cursor.at = "the number of a field"
            tags = cursor.varints(rows)
            if (tags == tags[0]).all():
                self._field(node, int(tags[0]), state, cursor, rows)
                continue
            unknown = ~np.isin(tags, np.array(list(node.inside), np.uint64)) & (tags >= 8)
            tags = np.where(unknown, tags & 7 | _UNKNOWN, tags)  # what is skipped is skipped together
            for tag in np.unique(tags):
                self._field(node, int(tag), state, cursor, rows[tags == tag])

    def _field(self, within: _Node, tag: int, state: dict[_Node, _Values], cursor: Cursor, rows: Rows) -> None:
        node, number, wire = within.inside.get(tag), tag >> 3, tag & 7
        cursor.at = "a field" if node is None or node.of is None else node.of.name
        rows = rows[~cursor.faults.bad[rows]]
        if number == 0 or wire not in (VARINT, BITS64, SIZED, BITS32):
            cursor.refuse(rows, f"a field has no number, or the wire type {wire}")
        elif wire == SIZED:
            start, size = cursor.span(rows, cursor.varints(rows).view(np.int64))
            if node is not None:
                self._sized(node, state, cursor, rows, start, size)
        else:
            raw = cursor.varints(rows) if wire == VARINT else cursor.words(rows)
            if wire != VARINT:
                cursor.advance(rows, 8 if wire == BITS64 else 4)
            if node is not None and node.of is not None:
                state[node].values[rows] = _SCALARS[node.of.type][1](raw)
        if node is not None:
            for rival in node.rivals:
                for one in rival.all():
                    state[one].there[rows] = False
            state[node].there[rows] = True

    def _sized(
        self, node: _Node, state: dict[_Node, _Values], cursor: Cursor, rows: Rows, start: Array, size: Array
    ) -> None:
        if not node.inside:
            state[node].values[rows], state[node].size[rows] = start, size
            return
        good = ~cursor.faults.bad[rows]
        inner, behind = rows[good], cursor.end[rows[good]]
        cursor.pos[inner], cursor.end[inner] = start[good], start[good] + size[good]
        self._fields(node, state, cursor, inner)
        whole = ~cursor.faults.bad[inner]
        cursor.pos[inner[whole]], cursor.end[inner[whole]] = (start + size)[good][whole], behind[whole]

    # values to columns

    def _put(
        self, node: _Node, state: dict[_Node, _Values], cursor: Cursor, found: Found, rows: Rows, there: Array
    ) -> None:
        for part in node.inside.values():
            present = there & state[part].there[rows] if part.optional else there
            for one in part.wanted:
                self._column(one, part, state, cursor, found, rows, present)
            self._put(part, state, cursor, found, rows, present)

    def _column(
        self,
        of: Field,
        node: _Node,
        state: dict[_Node, _Values],
        cursor: Cursor,
        found: Found,
        rows: Rows,
        there: Array,
    ) -> None:
        assert node.of is not None
        unit: TimeUnit | None = of.unit if of.type is None else None
        values = state[node].values[rows]
        if node.of.message_type is not None:
            seconds, nanos = (state[part].values[rows] for part in node.inside.values())
            values, unit = np.where(np.abs(seconds) > _SECONDS_MAX, _INT64_MAX, seconds * 10**9 + nanos), "ns"
        if node.of.type == D.TYPE_STRING:
            size = np.where(there & ~cursor.faults.bad[rows], state[node].size[rows], 0)
            column = cursor.texts(rows, np.where(size > 0, values, 0), size, of.path)
            column = column if there.all() else pc.if_else(pa.array(there), column, None)
        elif node.of.type == D.TYPE_ENUM:
            column = self._names(of, node.of.enum_type, values, cursor, rows, there)
        else:
            if values.dtype == np.uint64 and of.type != pa.float64():
                self._refuse(
                    cursor, rows, values > _INT64_MAX, lambda v: f"{of.path} is {v}: at most {_INT64_MAX} fits", values
                )
                values = values.view(np.int64)
            column = pa.array(values.astype(np.float64) if of.type == pa.float64() else values, mask=~there)
        found.put(of, rows, column, unit)

    def _names(self, of: Field, enum: Any, values: Array, cursor: Cursor, rows: Rows, there: Array) -> pa.Array:
        numbers = np.array(sorted(enum.values_by_number), np.int64)
        place = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
        unknown = (numbers[place] != values) & there

        def text(value: object) -> str:
            return f"{of.path} is {value}, which {enum.full_name} has no name for: register a newer schema"

        self._refuse(cursor, rows, unknown, text, values)
        names = pa.array([enum.values_by_number[n].name for n in numbers.tolist()], pa.string())
        return names.take(pa.array(place, mask=~there))

    @staticmethod
    def _refuse(cursor: Cursor, rows: Rows, wrong: Array, text: Callable[[object], str], values: Array) -> None:
        for at in np.flatnonzero(wrong):
            cursor.faults.one(int(rows[at]), "type", text(values[at]))

    # descriptors to nodes

    def _message(self, node: _Node, descriptor: Descriptor, want: Place) -> _Node:
        oneofs: dict[str, FieldDescriptor] = {}
        for name, place in want.inside.items():
            of = descriptor.fields_by_name.get(name)
            if of is None:
                has = ", ".join(descriptor.fields_by_name)
                self.problems += [
                    (f"{f.path} is not there in {self._where}: it has {has}", f.name) for f in place.all()
                ]
            elif of.is_repeated:
                self._complain(place.all(), "repeated")
            else:
                node.inside[_tag(of)] = self._part(of, place)
                if of.containing_oneof is not None:
                    oneofs[of.containing_oneof.name] = of.containing_oneof
        for oneof in oneofs.values():  # each of its fields ends the others, wanted or not
            rivals = [node.inside.setdefault(_tag(of), _Node(of, optional=True)) for of in oneof.fields]
            for one in rivals:
                one.rivals = [other for other in rivals if other is not one]
        return node

    def _part(self, of: FieldDescriptor, place: Place) -> _Node:
        node, inner = _Node(of, of.has_presence), of.message_type
        if inner is None:
            self._complain((f for p in place.inside.values() for f in p.all()), f"a field of {_kind(of)}")
        elif inner.full_name in _WRAPPED:
            return self._message(node, inner, Place(inside={"value": Place(place.fields)}))
        elif inner.full_name == _TIMESTAMP and not place.inside:
            self._message(node, inner, Place(inside={"seconds": Place(), "nanos": Place()}))
        else:
            self._message(node, inner, place)
        for f in place.fields:
            if _fits(of, f):
                node.wanted.append(f)
            else:
                self._complain([f], _kind(of))
        return node

    def _complain(self, fields: Iterable[Field], found: str) -> None:
        self.problems += [(f.problem(found, self._where), None) for f in fields]


def _tag(of: FieldDescriptor) -> int:
    number: int = of.number
    return number << 3 | _wire(of)


def _wire(of: FieldDescriptor) -> int:
    return _SCALARS[of.type][0] if of.type in _SCALARS else SIZED


def _fits(of: FieldDescriptor, wanted: Field) -> bool:
    kind, text = of.cpp_type, of.type == D.TYPE_STRING
    number = kind in _INTEGERS or kind in _FLOATS
    if wanted.type is None:
        known = of.message_type is not None and of.message_type.full_name == _TIMESTAMP
        return bool(known or (text if wanted.unit == "iso" else number))
    if wanted.type == pa.string():
        return bool(text or kind == D.CPPTYPE_ENUM)
    if wanted.type == pa.bool_():
        return bool(kind == D.CPPTYPE_BOOL)
    return bool(number if wanted.type == pa.float64() else kind in _INTEGERS)


def _kind(of: FieldDescriptor) -> str:
    if of.message_type is not None:
        return f"a message {of.message_type.full_name}"
    kinds = {getattr(D, n): n[5:].lower() for n in dir(D) if n.startswith("TYPE_")}
    return with_article(kinds[of.type])
