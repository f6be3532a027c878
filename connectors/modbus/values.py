"""Words of many rows -> columns. Pure: registers of one type and order are decoded at once, over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.modbus.blocks import Item
from connectors.modbus.wire import Words
from pipelines.expr import Array
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import TEXT, Field

Mask = npt.NDArray[np.bool_]
_NUMBERS = {
    "int16": ">i2", "uint16": ">u2", "int32": ">i4", "uint32": ">u4", "int64": ">i8", "uint64": ">u8", "float32": ">f4",
    "float64": ">f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """A column and the item that gives it. `absent` is its value where there is none; None: then the row has none at all."""

    field: Field
    item: Item
    absent: Any


@dataclass(frozen=True)
class _Group:
    """Columns whose registers are of the same type and order."""

    type: str
    columns: tuple[Column, ...]
    words: npt.NDArray[np.intp]  # (columns, words of a value): where they stand in a row, highest first
    swapped: bool


class Values:
    """Decodes the rows of one source."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        alike: dict[tuple[object, ...], list[Column]] = {}
        for c in columns:
            r = c.item.register
            alike.setdefault((r.type, r.words, r.word_order, r.byte_order), []).append(c)
        self._groups = [_group(list(of)) for of in alike.values()]

    @property
    def shape(self) -> tuple[int, int]:
        """Words and values of a row."""
        return sum(c.item.register.words for c in self._columns), len(self._columns)

    def decode(self, words: Words, there: Mask) -> tuple[dict[str, Array], npt.NDArray[np.int8]]:
        """Columns by qualified name, and the quality of each row.

        `words` (rows, words of a row) as the device has them; `there` (rows, items): which values it gave. A value that is not
        there, not finite, no decimal, or larger than its column can hold, is replaced by the column's `absent` and makes the row
        UNCERTAIN; if there is no such replacement, or no value at all, the row is BAD.
        """
        found: dict[str, Array] = {}
        missing = np.empty((len(self._columns), len(words)), bool)
        for group in self._groups:
            for c, values, wrong in _decoded(group, words):
                missing[c.item.number] = lost = wrong | ~there[:, c.item.number]
                found[c.field.qualified] = _filled(c, values, lost)
        fatal = np.array([c.absent is None for c in sorted(self._columns, key=lambda c: c.item.number)])
        bad = missing.all(axis=0) | missing[fatal].any(axis=0)
        quality = np.where(bad, BAD, np.where(missing.any(axis=0), UNCERTAIN, GOOD)).astype(np.int8)
        return {c.field.qualified: found[c.field.qualified] for c in self._columns}, quality


def _filled(c: Column, values: Array, lost: Mask) -> Array:
    if lost.any():
        blank = {"float64": np.nan, "float32": np.nan, TEXT: ""}.get(c.field.dtype, 0)
        values = values.copy()
        values[lost] = blank if c.absent is None else c.absent
    return values


def _group(columns: list[Column]) -> _Group:
    first = columns[0].item.register
    at = np.array([np.arange(c.item.word, c.item.word + first.words) for c in columns])
    little = first.word_order == "little" and first.type != "string"
    return _Group(first.type, tuple(columns), at[:, ::-1] if little else at, first.byte_order == "little")


def _decoded(group: _Group, words: Words) -> list[tuple[Column, Array, Mask]]:
    """For each column its values as its dtype, and which are none."""
    raw = words[:, group.words].transpose(1, 0, 2)  # (columns, rows, words)
    raw = np.ascontiguousarray(raw.byteswap() if group.swapped else raw)
    if group.type == "bool":
        return [(c, *_truth(c, raw[i, :, 0])) for i, c in enumerate(group.columns)]
    wire = raw.astype(">u2")
    if group.type == "string":
        return [(c, *_texts(wire[i])) for i, c in enumerate(group.columns)]
    if group.type.startswith("bcd"):
        numbers, wrong = _decimals(raw)
        return [(c, *_number(c, numbers[i], wrong[i])) for i, c in enumerate(group.columns)]
    numbers = wire.view(_NUMBERS[group.type])[:, :, 0]
    none = np.zeros(len(words), bool)
    return [(c, *_number(c, numbers[i], none)) for i, c in enumerate(group.columns)]


def _truth(c: Column, raw: Words) -> tuple[Array, Mask]:
    bit = c.item.register.bit or 0
    return (raw >> np.uint16(bit) & np.uint16(1)).astype(bool), np.zeros(len(raw), bool)


def _number(c: Column, numbers: Array, wrong: Mask) -> tuple[Array, Mask]:
    scale, offset = c.item.register.scale, c.item.register.offset
    if c.field.dtype == "int64":
        return _whole(numbers, int(scale), int(offset), wrong)
    with np.errstate(over="ignore", invalid="ignore"):
        values = numbers.astype(np.float64)
        if (scale, offset) != (1, 0):
            values = values * scale + offset
        values = values.astype(c.field.dtype)
    return values, wrong | ~np.isfinite(values)


def _whole(numbers: Array, scale: int, offset: int, wrong: Mask) -> tuple[Array, Mask]:
    """Integers are scaled exactly; what leaves the range of int64 is none."""
    info = np.iinfo(np.int64)
    if (scale, offset) == (1, 0) and numbers.dtype != np.dtype(">u8"):
        return numbers.astype(np.int64), wrong
    if not _large(numbers, scale, offset):
        return numbers.astype(np.int64) * scale + offset, wrong
    exact = numbers.astype(object) * scale + offset  # Python's integers, for this rare case
    outside = np.array([not info.min <= x <= info.max for x in exact.tolist()], bool)
    return np.where(outside, 0, exact).astype(np.int64), np.asarray(wrong | outside)


def _large(numbers: Array, scale: int, offset: int) -> bool:
    """Whether a result may leave the range of int64."""
    top = max(abs(int(numbers.max())), abs(int(numbers.min()))) if len(numbers) else 0
    return top * abs(scale) + abs(offset) > np.iinfo(np.int64).max


def _decimals(raw: Words) -> tuple[Array, Mask]:
    """Binary coded decimals; wrong where a digit is more than 9."""
    shifts = np.array([12, 8, 4, 0], np.uint16)
    digits = (raw[..., None] >> shifts & np.uint16(15)).reshape(*raw.shape[:2], 4 * raw.shape[2]).astype(np.int64)
    powers = 10 ** np.arange(digits.shape[2])[::-1]
    wrong: Mask = np.any(digits > 9, axis=2)
    return digits @ powers, wrong


def _texts(wire: Array) -> tuple[Array, Mask]:
    """Text up to the first NUL, without blanks at its end. Wrong where it is not UTF-8. Each distinct text is decoded once."""
    packed = np.ascontiguousarray(wire).view(f"V{2 * wire.shape[1]}")[:, 0]
    distinct, which = np.unique(packed, return_inverse=True)
    texts: list[str] = []
    wrong: list[bool] = []
    for one in distinct:
        try:
            texts.append(one.tobytes().partition(b"\0")[0].decode().rstrip())
            wrong.append(False)
        except UnicodeDecodeError:
            texts.append("")
            wrong.append(True)
    return np.array(texts, np.dtypes.StringDType())[which], np.array(wrong, bool)[which]
