"""Pieces of a dataset, shares of its keys, and slabs of time: who reads what, and when. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.expr import Array


@dataclass(frozen=True, slots=True)
class Piece:
    """A row group of a file. Times and keys are bounds: what lies in it lies between them."""

    stream: str
    site: str
    path: str
    file: int  # number of the file in its dataset: of equal times, the earlier file's come first
    group: int
    rows: int
    low: int  # ns
    high: int
    first: str = ""
    last: str | None = None  # None: not known
    partition: int | None = None  # of the stream, if the file's name tells


@dataclass(frozen=True, slots=True)
class Share:
    """The keys in `[first, last)`, by their UTF-8 bytes; with `partition` of `partitions`, only those of it."""

    first: str = ""
    last: str | None = None
    partition: int | None = None
    partitions: int = 0

    def has(self, key: str) -> bool:
        """Whether a key is one of them."""
        return self.first <= key and (self.last is None or key < self.last)

    def may_have(self, piece: Piece) -> bool:
        """Whether a piece can hold one of them."""
        if self.partition is not None and piece.partition != self.partition:
            return False
        return (piece.last is None or self.first <= piece.last) and (self.last is None or piece.first < self.last)


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one worker: a share of the keys of a site. Units do not depend on each other."""

    number: int
    site: str
    share: Share


@dataclass(frozen=True, slots=True)
class Slab:
    """A stretch of time `[.., end)`, complete once `pieces` and those of the slabs before have been read."""

    end: int
    pieces: tuple[Piece, ...]


def in_order(pieces: Sequence[Piece]) -> list[Piece]:
    """By their earliest time, then as they lie in the dataset."""
    return sorted(pieces, key=lambda p: (p.low, p.file, p.group))


def slabs(pieces: Sequence[Piece], end: int, rows: int) -> list[Slab]:
    """Cut the time up to `end` into slabs of about so many rows, where pieces overlap so little.

    Cuts are first times of pieces: what has not been read by then is not older.
    """
    ordered = in_order(pieces)
    low, high = (np.array([getattr(p, n) for p in ordered], np.float64) for n in ("low", "high"))
    counts = np.array([p.rows for p in ordered], np.float64)
    found, begun, cut, wait = [], 0, -(2**63), float(rows)
    for i, piece in enumerate(ordered):
        if wait <= 0 and piece.low > cut:
            complete = _complete(low[:i], high[:i], counts[:i], piece.low) - _complete(
                low[:i], high[:i], counts[:i], cut
            )
            wait = rows - complete
            if wait <= 0:
                found.append(Slab(piece.low, tuple(ordered[begun:i])))
                begun, cut, wait = i, piece.low, float(rows)
        wait -= piece.rows
    return [*found, Slab(end, tuple(ordered[begun:]))]


def _complete(low: Array, high: Array, rows: Array, when: int) -> float:
    """Rows before a time, as if they lay evenly in their pieces."""
    return float((np.clip((when - low) / (high - low + 1), 0, 1) * rows).sum())


def held_max(found: Sequence[Slab]) -> int:
    """The most rows that are held at once when slab after slab is read."""
    most, begin, waiting = 0, -(2**63), list[Piece]()
    for slab in found:
        waiting = [p for p in waiting if p.high >= begin] + list(slab.pieces)
        most = max(most, sum(p.rows for p in waiting))
        begin = slab.end
    return most


def cut_keys(keys: Sequence[str], weights: Sequence[int], count: int) -> Iterator[Share]:
    """At most `count` shares of about the same weight. `keys` ascend."""
    total, sums = sum(weights), np.cumsum(weights)
    at = np.searchsorted(sums, [total * i / count for i in range(1, count)], "right")
    edges = sorted({keys[i] for i in at.tolist() if 0 < i < len(keys)})
    for first, last in zip(["", *edges], [*edges, None], strict=True):
        yield Share(first, last)
