"""Where each of many messages has been read to: numbers and lengths are read from all of them at once. Pure.

There is no object for a message, and no step of Python for one: a varint is read from all messages by a dozen operations on
columns. A message that turns out broken is parked on zeros behind the data, which read as empty values.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import Faults
from connectors.kafka.framing import PADDING, Bytes, Offsets
from pipelines.expr import Array

Rows = NDArray[np.int64]  # which messages, by number
EMPTY_MAX = 1_000  # parts of an array that take no byte; more are refused, for each costs a step
_MORE, _SEVEN = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
# Halves of neighbours are joined: 8 × 7 bits to 4 × 14 to 2 × 28 to 56. (mask of the lower ones, of the upper ones, shift)
_JOINS = (
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)
_ONE = np.uint64(1)


def zigzag(value: NDArray[np.uint64]) -> NDArray[np.int64]:
    """0, -1, 1, -2 … of 0, 1, 2, 3 …"""
    return (value >> _ONE).view(np.int64) ^ -(value & _ONE).view(np.int64)


class Cursor:
    """Reads messages `data[pos[i]:end[i]]`, those numbered in `rows` at each call; what is broken becomes a fault."""

    def __init__(self, data: Bytes, start: Offsets, end: Offsets, faults: Faults, *, reason: str) -> None:
        """`data` has `PADDING` zeros behind the last message; `reason`: of the faults."""
        self.data, self.pos, self.end, self.faults = data, start.copy(), end.copy(), faults
        self._reason = reason
        self.at, self.depth = "", 0  # path of the field that is being read, for faults; of what lies within itself
        self._words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))  # the 8 bytes from each byte on
        self._parked = len(data) - PADDING

    def advance(self, rows: Rows, by: Array | int) -> None:
        """Go on by so many bytes; `end`s are kept."""
        pos = self.pos[rows]
        left = self.end[rows] - pos
        fits = np.greater_equal(by, 0) & (left >= by)
        if fits.all():
            self.pos[rows] = pos + by
            return
        self.pos[rows] = np.where(fits, pos + by, self._parked)
        self.refuse(rows[~fits], f"it ends within {self.at}" if self.at else "it ends too early")

    def refuse(self, rows: Rows, text: str) -> None:
        """These messages are broken."""
        self.pos[rows] = self.end[rows] = self._parked
        for row in rows[~self.faults.bad[rows]].tolist():
            self.faults.one(row, self._reason, f"the message is not what its schema says: {text}")

    def finish(self, rows: Rows) -> None:
        """These messages have been read: nothing of them may be left."""
        if (more := self.pos[rows] < self.end[rows]).any():
            self.refuse(rows[more], "it goes on behind its last field")

    def words(self, rows: Rows) -> NDArray[np.uint64]:
        """The next 8 bytes of each, little-endian, without going on."""
        return self._words[self.pos[rows]]

    def bytes(self, rows: Rows) -> Bytes:
        """The next byte of each."""
        values = self.data[self.pos[rows]]
        self.advance(rows, 1)
        return values

    def varints(self, rows: Rows) -> NDArray[np.uint64]:
        """A varint, of 1 to 10 bytes."""
        word = self.words(rows)
        stop = ~word & _MORE
        low = stop & (~stop + _ONE)  # the highest bit of the last byte
        kept = low | (low - _ONE)  # the bytes that count; all of them if there is no last one
        value = word & kept & _SEVEN
        for lower, upper, shift in _JOINS:
            value = (value & lower) | ((value & upper) >> shift)
        size = (np.bitwise_count(kept) >> 3).astype(np.int64)
        if (long := stop == 0).any():
            self._ninth(rows[long], long, value, size)
        self.advance(rows, size)
        return value

    def longs(self, rows: Rows) -> NDArray[np.int64]:
        """A varint that stands for a signed number: Avro's int and long."""
        return zigzag(self.varints(rows))

    def _ninth(self, rows: Rows, of: Array, value: NDArray[np.uint64], size: Offsets) -> None:
        """Bytes 9 and 10 of the longest varints."""
        pos = self.pos[rows] + 8
        ninth, tenth = self.data[pos], self.data[pos + 1]
        two = ninth >= 0x80
        high = (ninth & 0x7F).astype(np.uint64) | (np.where(two, tenth & 1, 0).astype(np.uint64) << np.uint64(7))
        value[of] |= high << np.uint64(56)
        size[of] = np.where(two & (tenth > 1), np.iinfo(np.int64).max, 9 + two)  # more than 64 bits: no number

    def spans(self, rows: Rows) -> tuple[Offsets, Offsets]:
        """Start and size of bytes or a string, and go on behind them."""
        return self.span(rows, self.longs(rows))

    def span(self, rows: Rows, size: Offsets) -> tuple[Offsets, Offsets]:
        """The same, of known size."""
        start = self.pos[rows]
        self.advance(rows, size)
        broken = self.faults.bad[rows]
        return np.where(broken, self._parked, start), np.where(broken, 0, size)

    def big_endian(self, start: Offsets) -> NDArray[np.int64]:
        """The 8 bytes from each place on as a signed number."""
        return self._words[start].byteswap().view(np.int64)

    def texts(self, rows: Rows, start: Offsets, size: Offsets, name: str) -> pa.Array:
        """The strings at these places; what is not UTF-8 is a fault."""
        ends = np.cumsum(size)
        index = np.repeat(start - (ends - size), size) + np.arange(ends[-1] if len(ends) else 0)
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        found = pa.StringArray.from_buffers(len(size), pa.py_buffer(offsets), pa.py_buffer(self.data[index]))
        try:
            found.validate(full=True)
        except pa.ArrowInvalid:
            return pa.array([self._text(*of, name) for of in zip(rows, start, size, strict=True)], pa.string())
        return found

    def _text(self, row: int, start: int, size: int, name: str) -> str:
        try:
            return self.data[start : start + size].tobytes().decode()
        except UnicodeDecodeError as e:
            self.faults.one(int(row), "not_utf8", f"{name} is not UTF-8 (byte {e.start})")
            return ""

    def require(self, rows: Rows, count: Offsets) -> None:
        """So many parts are still to come, of a byte each but for a few that are empty."""
        if (wrong := count > self.end[rows] - self.pos[rows] + EMPTY_MAX).any():
            self.refuse(rows[wrong], f"{self.at} has more parts than the message has bytes")

    def skip_varints(self, rows: Rows, count: Offsets) -> None:
        """Go on behind so many numbers, whose last bytes are those below 128."""
        lasts = self._lasts
        behind = np.searchsorted(lasts, self.pos[rows]) + np.minimum(count, len(lasts)) - 1
        there = behind < len(lasts)
        ends = np.where(there, lasts[np.where(there, behind, 0)] + 1, np.iinfo(np.int64).max)
        self.advance(rows, ends - self.pos[rows])

    @cached_property
    def _lasts(self) -> Offsets:
        return np.flatnonzero(self.data < 0x80)
