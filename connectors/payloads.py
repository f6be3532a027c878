"""JSON payloads -> Arrow columns. Pure. Whole batches go through Arrow's JSON reader; what that refuses is looked at one by
one, and both ways give the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
from numpy.typing import NDArray

from connectors import columns
from connectors.base import TimeUnit
from connectors.columns import Faults, Layout, shown
from connectors.shape import Path, Shape
from pipelines.batch import Times
from pipelines.errors import BadData

PAYLOAD_BYTES_MAX = 64 * 2**10  # one reading of a device; more is refused
_NO_JSON_NUMBER = re.compile(rb"[:\[,\s+-](?:NaN|Inf)")  # Arrow takes these; they are judged one by one
_STRUCTURE = b'",:{}[]'
_SURROGATE = re.compile("[\\ud800-\\udfff]")  # half a character, which JSON can write and UTF-8 cannot
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Readings of some payloads."""

    values: dict[str, pa.Array]  # by field, null where a reading lacks it
    of: NDArray[np.int64]  # which payload each reading is from
    faults: Faults  # by reading; a payload that is unusable as a whole is one reading of nulls


def decode_json(payload: bytes) -> Any:
    """What a payload of JSON says; `BadData` if it is none."""
    try:
        return json.loads(payload.decode())
    except UnicodeDecodeError as e:
        raise BadData(f"the payload is not UTF-8 (byte {e.start})", reason="not_utf8") from e
    except (ValueError, RecursionError) as e:
        why = "nested too deep" if isinstance(e, RecursionError) else str(e)
        text = f"{shown(payload)}: {why}" if payload.strip() else "it is empty"
        raise BadData(f"the payload is not JSON: {text}", reason="not_json") from e


class Payloads:
    """Parses the payloads of one source: objects whose fields are columns, or the bare value of the only column."""

    def __init__(
        self,
        layout: Layout,
        *,
        key: str | None,
        time: str | None,
        time_unit: TimeUnit,
        paths: Mapping[str, str | Path] | None = None,
        rows: str | None = None,
        decode: Callable[[bytes], Any] = decode_json,
        bytes_max: int = PAYLOAD_BYTES_MAX,
    ) -> None:
        """`key`, `time`: the fields that hold the key and the time, None if payloads hold none.

        `paths`: where columns stand that do not stand under their own names, and `rows` where the list of readings is, if there
        is one (see `connectors.shape`). `decode`: of payloads that are not JSON. `bytes_max`: of one; more is refused.
        """
        self._layout, self._key, self._time, self._time_unit = layout, key, time, time_unit
        self._fields = dict(layout.arrow)  # the payload's fields that matter, and their Arrow types
        if key is not None:
            self._fields[key] = pa.string()
        if time is not None:
            number = pa.int64() if time_unit == "ns" else pa.float64()
            self._fields[time] = pa.string() if time_unit == "iso" else number
        self._shape = Shape({name: (paths or {}).get(name, name) for name in self._fields}, rows)
        self._schema = self._shape.schema(self._fields)
        alone = len(layout.arrow) == 1 and self._shape.flat
        self._only = next(iter(layout.arrow)) if alone else None  # its bare value is a payload, too
        self._decode, self._bytes_max = decode, bytes_max

    def parse(self, payloads: Sequence[bytes], faults: Faults, *, whole: bool = True) -> dict[str, pa.Array]:
        """Columns by field of payloads that are a reading each, null where one lacks a field. For `whole` see `readings`."""
        parsed = self.readings(payloads, whole=whole)
        for row, (reason, text) in parsed.faults.found.items():
            faults.one(row, reason, text)
        return parsed.values

    def readings(self, payloads: Sequence[bytes], *, whole: bool = True) -> Parsed:
        """All readings of the payloads. `whole=False` looks at each payload by itself, which is slow and gives the same."""
        table = None
        if whole and self._decode is decode_json:
            table = _at_once(payloads, self._schema, self._only, self._bytes_max)
        found = None if table is None else self._shape.columns(table)
        if found is None:
            return self._one_by_one(payloads)
        return Parsed(*found, Faults(len(found[1])))

    def times(self, parsed: Mapping[str, pa.Array], otherwise: Times, faults: Faults) -> Times:
        """ns of each; `otherwise` for those that hold no time."""
        if self._time is None:
            return otherwise
        times, there = columns.times(parsed[self._time], self._time_unit, faults)
        return times if there.all() else np.where(there, times, otherwise)

    def _one_by_one(self, payloads: Sequence[bytes]) -> Parsed:
        rows: list[dict[str, Any]] = []
        of: list[int] = []
        wrong: dict[int, BadData] = {}
        for i, payload in enumerate(payloads):
            try:
                raw: list[dict[str, Any]] = self._message(payload)
            except BadData as e:
                wrong[len(rows)] = e
                raw = [{}]
            for n, reading in enumerate(raw):
                try:
                    rows.append(self._reading(reading))
                except BadData as e:
                    which = f"reading {n}: " if self._shape.rows else ""
                    wrong[len(rows)] = BadData(f"{which}{e}", reason=e.reason)
                    rows.append({})
                of.append(i)
        faults = Faults(len(rows))
        for row, fault in wrong.items():
            faults.one(row, fault.reason, str(fault))
        values = {n: pa.array([row.get(n) for row in rows], kind) for n, kind in self._fields.items()}
        return Parsed(values, np.array(of, np.int64), faults)

    def _message(self, payload: bytes) -> list[dict[str, Any]]:
        """The fields that matter of the readings of one message; `BadData` if it is not what a message may be."""
        if len(payload) > self._bytes_max:
            raise BadData(f"the payload has more than {self._bytes_max} bytes", reason="too_large")
        got = self._decode(payload)
        if not isinstance(got, dict):
            if self._only is None or isinstance(got, list | str) or got is None:
                kind = "an object" if self._only is None else f"an object or the value of {self._only}"
                raise BadData(
                    f"the payload is {shown(payload)}: {kind} is needed, such as {self._example()}", reason="not_object"
                )
            got = {self._only: got}
        return self._shape.readings(got)

    def _reading(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {name: typed(name, raw.get(name), kind, self._expected(name)) for name, kind in self._fields.items()}

    def _expected(self, name: str) -> str:
        if name == self._time and name not in self._layout.arrow:
            unit = self._time_unit
            return "ISO 8601 text (or set time_unit=)" if unit == "iso" else f"a number of {unit} since 1970"
        return columns.EXPECTED[str(self._dtype(name))] if name in self._layout.arrow else "text"

    def _dtype(self, name: str) -> str:
        return next(f.dtype for f in self._layout.row.fields if f.name == name)

    def _example(self) -> str:
        return json.dumps({name: True if kind == pa.bool_() else 1 for name, kind in self._layout.arrow.items()})


def _at_once(payloads: Sequence[bytes], fields: pa.Schema, only: str | None, bytes_max: int) -> pa.Table | None:
    """A table of all payloads by Arrow's JSON reader; None if not each of them is, beyond doubt, one JSON object or value."""
    if not payloads or max(map(len, payloads)) > bytes_max:
        return None
    text = b"\n".join(payloads)
    if only is not None and not payloads[0].startswith(b"{"):
        if len(text.translate(None, _STRUCTURE)) != len(text):
            return None
        head = b'{"%b":' % only.encode()
        text = head + (b"}\n" + head).join(payloads) + b"}"
    # each line is one object: no line end within a payload, none of several payloads, none of a part of one
    lines = len(payloads) - 1
    if (
        text.count(b"\n") != lines
        or text.count(b"}\n{") != lines
        or not (text.startswith(b"{") and text.endswith(b"}"))
    ):
        return None
    if (b"NaN" in text or b"Inf" in text) and _NO_JSON_NUMBER.search(text):
        return None
    try:
        text.decode()
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=fields, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    return table.combine_chunks() if table.num_rows == len(payloads) else None


def typed(name: str, value: Any, kind: pa.DataType, expected: str) -> Any:
    """A value of JSON as the Arrow type wants it; `BadData` if it is of another type. Strict, as Arrow's JSON reader is."""
    if value is None:
        return None
    if kind == pa.float64() and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    if kind == pa.int64() and type(value) is int and value in _INT64:
        return value
    if kind == pa.bool_() and type(value) is bool:
        return value
    if kind == pa.string() and type(value) is str and not _SURROGATE.search(value):
        return value
    raise BadData(f"{name} is {shown(value)}: {expected} is needed", reason="type")
