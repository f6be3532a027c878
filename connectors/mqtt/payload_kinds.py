"""Which format payloads are in, as far as bytes can tell, and what they say. Pure.

A guess. Kinds that can be read are called as in `connectors.formats`; others are what payloads seem to be.
"""

from __future__ import annotations

import csv
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import msgspec

from connectors.mqtt.survey import Sample

CSV = "csv"
MAPS = ("json", "cbor", "msgpack")
READABLE = (*MAPS, "number", CSV, "<f4", ">f4", "<f8", ">f8")
DEPTH_MAX = 16  # of paths
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_PLAUSIBLE_MAX = 1e9  # of a measured value, where bytes could be several numbers
Path = tuple[str, ...]
Document = tuple[dict[str, Any], int]  # what a payload says, by name, and when it came (ns)


@dataclass(frozen=True)
class Looked:
    """The payloads of one topic."""

    kind: str  # of most of them
    documents: list[Document]
    other: dict[str, int]  # how many were of other kinds

    @property
    def names(self) -> frozenset[str]:
        """All that the payloads name."""
        return frozenset(".".join(path) for document, _ in self.documents for path, _ in leaves(document))


def look_at(samples: Sequence[Sample]) -> Looked:
    """The kind of the payloads of one topic, and what those of that kind say."""
    told = [(*_kind(payload), at) for payload, at in samples]
    counts = Counter(kind for kind, _, _ in told)
    if not counts:
        return Looked("too large", [], {})
    if all(kind in ("<f4|>f4", "<f8|>f8") for kind in counts):
        told = [(*_binary([(d["value"], at) for _, d, at in told if isinstance(d, dict)]), 0)]
        kind, documents, _ = told[0]
        return Looked(kind, documents, {})
    kind = counts.most_common(1)[0][0]
    other = {k: n for k, n in counts.items() if k != kind}
    return Looked(kind, [(document, at) for k, document, at in told if k == kind and isinstance(document, dict)], other)


def leaves(document: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of what is no object."""
    for name, value in document.items():
        here = (*path, str(name))
        if isinstance(value, dict) and len(here) < DEPTH_MAX:
            yield from leaves(value, here)
        else:
            yield here, value


def _kind(payload: bytes) -> tuple[str, Any]:
    try:
        text = payload.decode().strip()
    except UnicodeDecodeError:
        return _packed(payload)
    return _packed(payload) if _CONTROL.search(text) else _text(text)


def _text(text: str) -> tuple[str, Any]:
    if _NUMBER.fullmatch(text):
        return "number", {"value": float(text)}
    if text in ("true", "false"):
        return "number", {"value": text == "true"}
    if text[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "text that begins like JSON", None
        return ("json", found) if isinstance(found, dict) else ("a list in JSON: only objects can be read", None)
    lines = list(csv.reader(text.splitlines()))
    widths = {len(line) for line in lines}
    if len(widths) == 1 and widths != {1} and any(_NUMBER.fullmatch(cell) for cell in lines[0]):
        return f"{CSV}:{widths.pop()}", {"lines": [_cells(line) for line in lines]}
    if len(lines) == 1 and widths == {1} and '"' not in text:
        return f"{CSV}:1", {"lines": [{"value": text}]}
    return "text", None


def _cells(line: Sequence[str]) -> dict[str, Any]:
    return {f"x{i}": _cell(cell) for i, cell in enumerate(line, 1) if cell}


def _cell(text: str) -> Any:
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _packed(payload: bytes) -> tuple[str, Any]:
    """Bytes that are no text."""
    if 0x80 <= payload[0] <= 0x8F or payload[0] in (0xDE, 0xDF):
        try:
            found = msgspec.msgpack.decode(payload)
            return ("msgpack", found) if isinstance(found, dict) else ("binary", None)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return "binary", None
    if 0xA0 <= payload[0] <= 0xBF or payload[:3] == b"\xd9\xd9\xf7":
        try:
            found = cbor2.loads(payload)
            return ("cbor", found) if isinstance(found, dict) else ("binary", None)
        except Exception:  # a decoder of tags and dates raises whatever those raise
            return "binary", None
    if len(payload) in (4, 8):
        return f"<f{len(payload)}|>f{len(payload)}", {"value": payload}
    return f"binary, {len(payload)} bytes" if len(payload) < 4 else "binary", None


def _binary(payloads: Sequence[tuple[bytes, int]]) -> tuple[str, list[Document]]:
    """Numbers, if they make sense in one order of bytes only."""
    size = {len(payload) for payload, _ in payloads}
    if len(size) > 1:
        return "binary", []
    letter = {4: "f", 8: "d"}[size.pop()]
    found: dict[str, list[float]] = {}
    for order in "<>":
        values = [struct.unpack(order + letter, payload)[0] for payload, _ in payloads]
        if all(v == 0 or (1 / _PLAUSIBLE_MAX < abs(v) < _PLAUSIBLE_MAX) for v in values):
            found[order] = values
    if len(found) != 1:
        return "binary numbers of either order of bytes" if found else "binary", []
    ((order, values),) = found.items()
    kind = f"{order}f{len(payloads[0][0])}"
    return kind, [({"value": v}, at) for v, (_, at) in zip(values, payloads, strict=True)]
