"""A schema of Avro -> what reads messages of it into columns: all of them at once, field by field. Pure.

Fields that nobody wants are skipped in the same way. https://avro.apache.org/docs/1.12.0/specification/ has the encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.base import TimeUnit
from connectors.kafka.cursor import Cursor, Rows
from connectors.kafka.framing import Offsets
from connectors.kafka.wanted import Field, Found, Place, Problem, Read, with_article
from pipelines.expr import Array

DEPTH_MAX = 64  # of messages of a schema that holds itself
EXACT_MAX = 2**53  # whole numbers up to this are exact as float64
POWER_MAX = 22  # and so are powers of ten
_WIDTHS = {"boolean": 1, "float": 4, "double": 8}
_VARINTS = ("int", "long", "enum")
_UNITS: dict[str, TimeUnit] = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns"}
_NUMBERS = ("int", "long", "float", "double")


class Compiler:
    """Makes the reader of one schema. `problems` are fields that cannot be what is wanted of them, each as a text and, if it is
    merely not there, its name.
    """

    def __init__(self, named: Mapping[str, Any], where: str) -> None:
        """`named`: the types by full name, as fastavro parses them; `where`: what to call the schema."""
        self._named, self._where = named, where
        self._skips: dict[str, Read] = {}
        self.problems: list[Problem] = []

    def reader(self, schema: Any, want: Place | None, path: str = "") -> Read:
        """Of a value of this schema."""
        if isinstance(schema, list):
            return self._union(schema, want, path)
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return self.reader(kind, want, path)
        if kind in self._named and not (isinstance(schema, dict) and "name" in schema):
            return self._by_name(kind, want, path)
        if kind in ("record", "error"):
            return self._record(schema, want, path)
        if kind in ("array", "map"):
            return self._blocks(schema, kind, self._complain(want.all() if want else (), with_article(kind)), path)
        return self._leaf(schema if isinstance(schema, dict) else {"type": kind}, kind, want)

    def _by_name(self, name: str, want: Place | None, path: str) -> Read:
        """A type that is named: it may hold itself, so what skips it is made once, and found when it is needed."""
        if want is not None:
            return self.reader(self._named[name], want, path)
        if name not in self._skips:
            self._skips[name] = _nothing
            self._skips[name] = self.reader(self._named[name], None, path)

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            if cursor.depth == DEPTH_MAX:
                cursor.refuse(rows, f"{name} lies within itself more than {DEPTH_MAX} times")
                return
            cursor.depth += 1
            self._skips[name](cursor, found, rows)
            cursor.depth -= 1

        return read

    def _record(self, schema: Mapping[str, Any], want: Place | None, path: str) -> Read:
        complain = self._complain(want.fields if want else (), "a record")
        inside = want.inside if want else {}
        fields = []
        for f in schema["fields"]:
            at = f"{path}.{f['name']}" if path else f["name"]
            fields.append((at, self.reader(f["type"], inside.get(f["name"]), at)))
        names = [f["name"] for f in schema["fields"]]
        self.problems += [
            (f"{one.path} is not there in {self._where}: {schema['name']} has {', '.join(names)}", one.name)
            for name, place in inside.items() if name not in names
            for one in place.all()
        ]  # fmt: skip

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            complain(cursor, found, rows)
            for at, field in fields:
                cursor.at = at
                field(cursor, found, rows)

        return read

    def _union(self, schemas: list[Any], want: Place | None, path: str) -> Read:
        before, wrong = self.problems, []
        branches = []
        for s in schemas:
            self.problems = []
            branches.append(self.reader(s, want, path))
            wrong += [self.problems] if s != "null" else []
        self.problems = before + (wrong[0] if wrong and all(wrong) else [])  # one that fits is enough

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            chosen = cursor.longs(rows)
            for number, branch in enumerate(branches):
                mine = chosen == number
                if mine.any():
                    branch(cursor, found, rows if mine.all() else rows[mine])
            if (none := (chosen < 0) | (chosen >= len(branches))).any():
                cursor.refuse(rows[none], f"{path} is of none of the {len(branches)} types that it may have")

        return read

    def _blocks(self, schema: Mapping[str, Any], kind: str, complain: Read, path: str) -> Read:
        """An array or a map, which nobody wants: skipped. Its parts come in blocks, each with a count; a negative one is followed
        by the block's size in bytes."""
        skip = self._parts(schema, kind, path)

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            complain(cursor, found, rows)
            while len(rows):
                count = cursor.longs(rows)
                if (sized := count < 0).any():
                    cursor.advance(rows[sized], cursor.longs(rows[sized]))
                if (plain := count > 0).any():
                    skip(cursor, found, rows[plain], count[plain])
                rows = rows[(count != 0) & ~cursor.faults.bad[rows]]

        return read

    def _parts(self, schema: Mapping[str, Any], kind: str, path: str) -> Callable[[Cursor, Found, Rows, Offsets], None]:
        of = schema["items"] if kind == "array" else schema["values"]
        part, at = self.reader(of, None, path), path
        simple = of if isinstance(of, str) else of.get("type") if isinstance(of, dict) else None

        def skip(cursor: Cursor, found: Found, rows: Rows, count: Offsets) -> None:
            cursor.at = at
            if kind == "array" and simple in _WIDTHS:
                cursor.advance(rows, np.minimum(count, cursor.end[rows] + 1) * _WIDTHS[simple])
            elif kind == "array" and simple in _VARINTS:
                cursor.skip_varints(rows, count)
            else:
                cursor.require(rows, count)
                for number in range(int(count.max())):
                    active = rows[(count > number) & ~cursor.faults.bad[rows]]
                    if not len(active):
                        break
                    if kind == "map":
                        cursor.spans(active)
                    part(cursor, found, active)

        return skip

    # values

    def _leaf(self, schema: Mapping[str, Any], kind: str, want: Place | None) -> Read:
        """A value that is no composite."""
        values = _VALUES[kind](schema)
        wanted = want if want and kind != "null" else Place()
        takers = [self._taker(schema, kind, f) for f in wanted.fields]
        inside = [f for place in wanted.inside.values() for f in place.all()]
        complain = self._complain(inside, f"a field of {with_article(schema.get('logicalType') or kind)}")

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            complain(cursor, found, rows)
            value = values(cursor, rows)
            for take in takers:
                take(cursor, found, rows, value)

        return read

    def _taker(self, schema: Mapping[str, Any], kind: str, of: Field) -> Callable[..., None]:
        """What makes a column of the values of a type; a complaint if that cannot be what is wanted."""
        logical = schema.get("logicalType")
        decimal = logical == "decimal" and kind in ("bytes", "fixed")
        if of.type is None:
            unit = _UNITS.get(logical or "") if kind == "long" else None
            local = bool(logical) and str(logical).startswith("local-")
            if unit or (not local and kind in (("string",) if of.unit == "iso" else _NUMBERS)):
                text = kind == "string"
                return lambda c, f, rows, v: f.put(of, rows, c.texts(rows, *v, of.path) if text else v, unit or of.unit)
        elif of.type == pa.float64() and kind in _NUMBERS:
            return lambda c, f, rows, v: f.put(of, rows, v.astype(np.float64, copy=False))
        elif of.type == pa.float64() and decimal:
            scale = schema.get("scale", 0)
            return lambda c, f, rows, v: f.put(of, rows, _decimals(c, v[0], v[1], scale))
        elif (of.type == pa.int64() and kind in ("int", "long")) or (of.type == pa.bool_() and kind == "boolean"):
            return lambda c, f, rows, v: f.put(of, rows, v)
        elif of.type == pa.string() and kind == "string":
            return lambda c, f, rows, v: f.put(of, rows, c.texts(rows, *v, of.path))
        elif of.type == pa.string() and kind == "enum":
            symbols = pa.array(schema["symbols"], pa.string())
            return lambda c, f, rows, v: f.put(of, rows, symbols.take(pa.array(v)))
        complain = self._complain([of], with_article(logical or kind))
        return lambda c, f, rows, v: complain(c, f, rows)

    def _complain(self, wanted: Iterable[Field], found: str) -> Read:
        """Of the fields that are wanted of a value that cannot be one."""
        texts = [f.problem(found, self._where) for f in wanted]
        self.problems += [(text, None) for text in texts]
        if not texts:
            return _nothing

        def read(cursor: Cursor, found: Found, rows: Rows) -> None:
            for row in rows.tolist():
                cursor.faults.one(row, "type", texts[0])

        return read


def _nothing(cursor: Cursor, found: Found, rows: Rows) -> None:
    pass


def _floats(width: int) -> Callable[[Cursor, Rows], Array]:
    def read(cursor: Cursor, rows: Rows) -> Array:
        words = cursor.words(rows)
        cursor.advance(rows, width)
        return words.view("<f8") if width == 8 else words.astype("<u4").view("<f4")

    return read


def _booleans(cursor: Cursor, rows: Rows) -> Array:
    values = cursor.bytes(rows)
    if (wrong := values > 1).any():
        cursor.refuse(rows[wrong], f"{cursor.at} is neither true nor false")
    true: Array = values == 1
    return true


def _symbols(count: int) -> Callable[[Cursor, Rows], Array]:
    def read(cursor: Cursor, rows: Rows) -> Array:
        values = cursor.longs(rows)
        if (wrong := (values < 0) | (values >= count)).any():
            cursor.refuse(rows[wrong], f"{cursor.at} is none of the {count} symbols that it may be")
        return np.where(wrong, 0, values)

    return read


def _fixed(size: int) -> Callable[[Cursor, Rows], tuple[Offsets, Offsets]]:
    def read(cursor: Cursor, rows: Rows) -> tuple[Offsets, Offsets]:
        return cursor.span(rows, np.full(len(rows), size))

    return read


_VALUES: dict[str, Callable[[Mapping[str, Any]], Callable[[Cursor, Rows], Any]]] = {
    "null": lambda _: lambda cursor, rows: None,
    "boolean": lambda _: _booleans,
    "int": lambda _: Cursor.longs,
    "long": lambda _: Cursor.longs,
    "float": lambda _: _floats(4),
    "double": lambda _: _floats(8),
    "bytes": lambda _: Cursor.spans,
    "string": lambda _: Cursor.spans,
    "fixed": lambda schema: _fixed(schema["size"]),
    "enum": lambda schema: _symbols(len(schema["symbols"])),
}


def _decimals(cursor: Cursor, start: Offsets, size: Offsets, scale: int) -> Array:
    """Numbers of big-endian two's complement bytes, over 10**scale: the nearest float64 of each."""
    short = np.clip(size, 1, 8)
    whole = cursor.big_endian(start) >> (8 * (8 - short))
    values: Array = np.where(size == 0, 0, whole) / 10.0 ** min(scale, POWER_MAX)
    slow = (size > 8) | (np.abs(whole) > EXACT_MAX) | (whole == np.iinfo(np.int64).min) | (scale > POWER_MAX)
    for i in np.flatnonzero(slow & (size > 0)):
        digits = int.from_bytes(cursor.data[start[i] : start[i] + size[i]].tobytes(), "big", signed=True)
        values[i] = _quotient(digits, scale)
    return values


def _quotient(digits: int, scale: int) -> float:
    try:
        return float(digits) if scale == 0 else digits / 10**scale
    except OverflowError:
        return float("inf") if digits > 0 else float("-inf")
