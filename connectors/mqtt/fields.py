"""What payloads that are objects hold: columns, the time and its unit, the key, the list of readings. Pure; a guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from connectors.columns import EARLIEST_NS, KEY_CHARS_MAX, UNITS_NS
from connectors.mqtt.payload_kinds import Document, Path, leaves
from connectors.naming import snake
from connectors.shape import ROOT, ROWS

NAMES_MAX = 1_000  # of one kind of payload; more are left out
DAY_NS = 86_400 * 10**9
EXACT_MAX = 2**53  # greater whole numbers are no float
TIMES = {"time", "timestamp", "ts", "t", "at", "date", "datetime", "when", "time_stamp", "utc"}
KEYS = {
    "device", "device_id", "id", "uid", "uuid", "serial", "serial_number", "sensor", "sensor_id", "machine", "machine_id", "tag",
    "asset", "mac", "dev_eui", "node", "name", "station",
}  # fmt: skip
GENERIC = {"value", "val", "v", "reading", "data", "x"}  # names that say nothing: the topic says what it is
UNIT_NAMES = {"unit", "units", "uom"}
SUFFIXES = {
    "c": "°C", "degc": "°C", "celsius": "°C", "pct": "%", "percent": "%", "bar": "bar", "mbar": "mbar", "kpa": "kPa",
    "hpa": "hPa", "v": "V", "a": "A", "w": "W", "kw": "kW", "kwh": "kWh", "hz": "Hz", "rpm": "1/min",
    "mm_s": "mm/s", "mm": "mm", "ms": "ms",
}  # fmt: skip
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:")
_LEAST_NS = 946_684_800 * 10**9  # 2000: a number that is less is no time


@dataclass
class Field:
    """One name in payloads."""

    path: str  # as a source's `fields=` has it
    names: Path
    values: list[tuple[Any, int]] = field(default_factory=list)  # with the time of arrival
    missing: bool = False  # in some payloads
    unit: str = ""

    @property
    def type(self) -> str:
        """Python's type of a column for it, '' if there is none."""
        kinds = {type(v) for v, _ in self.values}
        if kinds <= {int, float} and kinds:
            numbers = [v for v, _ in self.values]
            return (
                "int" if any(isinstance(v, int) and abs(v) > EXACT_MAX for v in numbers) and kinds == {int} else "float"
            )
        return {bool: "bool", str: "str"}.get(kinds.pop(), "") if len(kinds) == 1 else ""

    @property
    def why(self) -> str:
        """Why there is no column for it."""
        kinds = {type(v) for v, _ in self.values}
        if any(not n or "." in n or "[" in n for n in self.names):
            return "its name cannot stand in a path"
        if not kinds:
            return "it is always null"
        return (
            "it is a list"
            if list in kinds
            else "it is of several types"
            if len(kinds) > 1
            else "its type has no column"
        )

    @property
    def example(self) -> str:
        """What was seen, shortly."""
        shown = [v for v, _ in self.values]
        if self.type in ("float", "int"):
            low, high = min(shown), max(shown)
            return f"{low:.6g}" if low == high else f"{low:.6g} … {high:.6g}"
        return repr(shown[0])[:40] if shown else ""


@dataclass
class Content:
    """What the payloads of one pattern hold."""

    rows: str | None  # where the list of readings is
    fields: list[Field]  # columns
    without: list[Field]  # that no column can have
    time: Field | None
    time_unit: str
    key: Field | None  # if the payload says whose readings these are
    per_payload: float  # readings
    note: str = ""


def content(documents: Mapping[str, Sequence[Document]], *, key: bool) -> Content:
    """Of documents by topic. `key`: whether payloads have to tell devices apart, since topics do not."""
    rows = _rows([d for some in documents.values() for d, _ in some])
    found, count, within = _collected(documents, rows)
    for each in found.values():
        each.missing = len(each.values) < count
    usable = {n: f for n, f in found.items() if f.type and f.why not in ("its name cannot stand in a path",)}
    usable = {n: f for n, f in usable.items() if not any(o != n and o[: len(n)] == n for o in found)}
    time, unit, note = _time(list(usable.values()))
    named = _key([f for f in usable.values() if f is not time], within, alone=key)
    taken = [f for f in (time, named) if f is not None]
    fields = [f for f in usable.values() if f not in taken]
    _units(fields)
    without = [f for n, f in found.items() if n not in usable]
    payloads = sum(len(some) for some in documents.values())
    return Content(
        f"{'.'.join(rows)}{ROWS}" if rows else None, fields, without, time, unit, named, count / payloads, note
    )


def _rows(documents: Sequence[dict[str, Any]]) -> Path | None:
    """The list of objects that each payload has, if it has one."""
    found: dict[Path, int] = defaultdict(int)
    some: set[Path] = set()
    for document in documents:
        for path, value in leaves(document):
            if isinstance(value, list) and all(isinstance(item, dict) for item in value):
                found[path] += 1
                some |= {path} if value else set()
    lists = [p for p, n in found.items() if n == len(documents) and p in some and all(p) and "." not in "".join(p)]
    return lists[0] if lists else None


def _readings(document: dict[str, Any], rows: Path | None) -> Iterator[dict[Path, Any]]:
    """The values of each reading of a payload, by path; one that begins with '$' is of the whole payload."""
    if rows is None:
        yield dict(leaves(document))
        return
    items: Any = document
    for name in rows:
        items = items[name]
    whole = {("$", *path): value for path, value in leaves(document) if path != rows}
    for item in items:
        yield dict(leaves(item)) | whole


def _collected(
    documents: Mapping[str, Sequence[Document]], rows: Path | None
) -> tuple[dict[Path, Field], int, set[Path]]:
    """(fields, readings, those that differ within one topic)."""
    found: dict[Path, Field] = {}
    count, within = 0, set()
    for some in documents.values():
        texts: dict[Path, set[str]] = defaultdict(set)
        for document, arrived in some:
            for reading in _readings(document, rows):
                count += 1
                for path, value in reading.items():
                    if path not in found and len(found) >= NAMES_MAX:
                        continue
                    name = ROOT + ".".join(path[1:]) if path[0] == "$" and rows else ".".join(path)
                    each = found.setdefault(path, Field(name, path))
                    if value is not None:
                        each.values.append((value, arrived))
                    if isinstance(value, str):
                        texts[path].add(value)
        within |= {path for path, values in texts.items() if len(values) > 1}
    return found, count, within


def _time(fields: Sequence[Field]) -> tuple[Field | None, str, str]:
    """(field, unit, what to know) of the time."""
    note = ""
    for each in sorted(fields, key=lambda f: snake(f.names[-1]) not in TIMES):
        unit = _unit_of_time(each)
        if unit == "zoneless":
            note = f"{each.path!r} looks like a time, but has no zone, so the time of arrival counts"
        elif unit:
            return each, unit, ""
    return None, "iso", note


def _unit_of_time(each: Field) -> str:
    """'iso', 's', 'ms', 'us', 'ns'; 'zoneless'; or '' if it is no time."""
    if each.type == "str":
        return _iso(each)
    if each.type not in ("int", "float"):
        return ""
    hinted = snake(each.names[-1]) in TIMES
    for unit, scale in UNITS_NS.items():
        if all(
            abs(v * scale - at) < DAY_NS or (hinted and _LEAST_NS <= v * scale < at + DAY_NS) for v, at in each.values
        ):
            return unit
    return ""


def _iso(each: Field) -> str:
    if not all(_ISO.match(v) for v, _ in each.values):
        return ""
    try:
        times = pa.array([v for v, _ in each.values]).cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    except pa.ArrowInvalid:
        return "zoneless"
    return "iso" if min(times.to_pylist()) >= EARLIEST_NS else ""


def _key(fields: Sequence[Field], within: set[Path], *, alone: bool) -> Field | None:
    """The field that tells devices apart: needed if it differs within a topic, or if topics cannot (`alone`)."""
    for each in fields:
        text = each.type == "str" and not each.missing and all(0 < len(v) <= KEY_CHARS_MAX for v, _ in each.values)
        if text and snake(each.names[-1]) in KEYS and (alone or each.names in within):
            return each
    return None


def _units(fields: list[Field]) -> None:
    """Fill in units: from a field beside the only number that says so, or from a name such as 'flow_bar'."""
    said = [f for f in fields if snake(f.names[-1]) in UNIT_NAMES and len({v for v, _ in f.values}) == 1]
    numbers = [f for f in fields if f.type in ("float", "int")]
    for each in numbers:
        words = snake(each.names[-1]).split("_")
        for size in (2, 1):
            if len(words) > size and not each.unit:
                each.unit = SUFFIXES.get("_".join(words[-size:]), "")
    if len(numbers) == 1 and len(said) == 1 and said[0].type == "str":
        numbers[0].unit = str(said[0].values[0][0])
        fields.remove(said[0])
