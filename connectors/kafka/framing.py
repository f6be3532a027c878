"""Confluent's wire format: a message begins with byte 0 and the id of its schema, 4 bytes, big-endian. Pure, and in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectors.columns import Faults, shown
from connectors.payloads import PAYLOAD_BYTES_MAX

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Indexes = tuple[int, ...]
DEPTH_MAX = 16  # of messages declared within messages
PADDING = 32  # zeros behind the last message: whoever reads past an end finds them
HEAD = 5
UNFRAMED = -1  # id of the one schema of messages without a frame


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages one behind the other: message i is `data[start[i]:end[i]]`, and of the schema `ids[i]`."""

    data: Bytes
    start: Offsets
    end: Offsets
    ids: Offsets

    def bodies(self, rows: Offsets) -> Iterator[bytes]:
        """Some of them, apart."""
        places = zip(self.start[rows].tolist(), self.end[rows].tolist(), strict=True)
        return (self.data[a:b].tobytes() for a, b in places)


def messages(payloads: Sequence[bytes], faults: Faults, *, framed: bool) -> Messages:
    """The messages without their frames. Those without a frame where one is needed, and those too long, are faults."""
    data = np.frombuffer(b"".join([*payloads, bytes(PADDING)]), np.uint8)
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    end = np.cumsum(sizes)
    start = end - sizes
    faults.add(sizes > PAYLOAD_BYTES_MAX, "too_large", lambda _: f"the message has more than {PAYLOAD_BYTES_MAX} bytes")
    if not framed:
        return Messages(data, start, end, np.full(len(payloads), UNFRAMED, np.int64))
    faults.add(
        (sizes < HEAD) | (data[start] != 0),
        "not_framed",
        lambda i: (
            f"the message is {shown(payloads[i])}: byte 0 and the id of a schema must come first, as registries' clients "
            "write them"
        ),
    )
    ids = np.zeros(len(payloads), np.int64)
    for at in range(1, HEAD):
        ids = ids << 8 | data[start + at]
    return Messages(data, np.minimum(start + HEAD, end), end, ids)


def split_indexes(given: Messages, faults: Faults) -> dict[Indexes, Offsets]:
    """Behind the id, Protobuf has the number of the message within its file, for nested ones several: (0,) for the first of the
    file. Which messages have which; `start`s go on behind it. What is none is a fault.
    """
    good = np.flatnonzero(~faults.bad)
    first = (given.data[given.start[good]] == 0) & (given.start[good] < given.end[good])
    rows = good[first]
    given.start[rows] += 1  # a single 0 is the short form of (0,)
    others: dict[Indexes, list[int]] = {}
    for row, body in zip(good[~first].tolist(), given.bodies(good[~first]), strict=True):
        try:
            which, size = _indexes(body)
        except (IndexError, ValueError):
            faults.one(row, "not_framed", "behind the schema's id the message does not say which message of it this is")
            continue
        given.start[row] += size
        others.setdefault(which, []).append(row)
    found = {which: np.array(of, np.int64) for which, of in others.items()}
    if len(rows):
        found[0,] = np.sort(np.concatenate([rows, found.get((0,), rows[:0])]))
    return found


def _indexes(body: bytes) -> tuple[Indexes, int]:
    """(the indexes, how many bytes they take); `ValueError` or `IndexError` if there are none."""
    count, at = _varint(body, 0)
    if not 1 <= count <= DEPTH_MAX:
        raise ValueError
    which = []
    for _ in range(count):
        index, at = _varint(body, at)
        which.append(index)
    return tuple(which), at


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value >> 1 ^ -(value & 1), at
        if shift > 63:
            raise ValueError
