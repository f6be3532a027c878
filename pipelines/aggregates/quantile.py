"""Quantiles with a bounded relative error, for many keys at once.

Source: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees" (VLDB 2019).
A value falls into bin ceil(log_γ |x|), γ = (1+α)/(1−α); a bin stands for 2γ^k/(γ+1), which is within α of all its values.
Counts of bins are integers, so results do not depend on how rows were batched.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.expr import Array
from pipelines.state import State

ALPHA = 0.01  # relative error, for 1e-35 < |x| < 1e35; smaller values count as 0, larger ones as infinite
_GAMMA = (1 + ALPHA) / (1 - ALPHA)
_LOG = np.log(_GAMMA)
_BIN_BITS, _SLOT_BITS = 14, 30
_ZERO = 1 << (_BIN_BITS - 1)
_BIN_MAX = _ZERO - 1
_ORIGIN = -4030  # bins count from γ^-4030 ≈ 1e-35
_PENDING_MIN = 1 << 16  # rows kept unsorted before they are folded in

Ints = npt.NDArray[np.int64]


def bins(values: Array) -> Ints:
    """Bin of each value, ascending with the value."""
    with np.errstate(divide="ignore"):
        k = np.ceil(np.log(np.abs(values.astype(np.float64, copy=False))) / _LOG) - _ORIGIN
    size = np.clip(np.nan_to_num(k, neginf=0.0), 0, _BIN_MAX).astype(np.int64)
    return np.asarray(_ZERO + np.where(values < 0, -size, size), np.int64)


def values(of: Ints) -> npt.NDArray[np.float64]:
    """The value that each bin stands for."""
    k = np.abs(of - _ZERO)
    size = np.where(k == 0, 0.0, 2 * np.exp((k + _ORIGIN) * _LOG) / (_GAMMA + 1))
    size[k == _BIN_MAX] = np.inf
    return np.where(of < _ZERO, -size, size)


class Sketches:
    """One sketch for every (row, slot): sorted codes row·slot·bin with their counts, newest rows unsorted beside."""

    def __init__(self) -> None:
        self._codes = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)
        self._pending: list[Ints] = []
        self._pending_rows = 0

    def add(self, rows: Ints, slots: Array, column: Array) -> None:
        """Count each value of a column (no NaN) in the sketch of its row and slot."""
        codes = (((rows << _SLOT_BITS) | slots) << _BIN_BITS) | bins(column)
        self._pending.append(codes)
        self._pending_rows += len(codes)
        if self._pending_rows > max(_PENDING_MIN, 2 * len(self._codes)):
            self._fold()

    def _fold(self) -> None:
        if not self._pending:
            return
        codes, counts = np.unique(np.concatenate(self._pending), return_counts=True)
        self._pending, self._pending_rows = [], 0
        self._codes, self._counts = _sum_by(
            np.concatenate([self._codes, codes]), np.concatenate([self._counts, counts])
        )

    def quantiles(self, rows: list[int], qs: list[float], slots: int) -> npt.NDArray[np.float64]:
        """q-quantiles of the merged sketches of some rows, shape (len(qs), slots); NaN where nothing was counted."""
        self._fold()
        parts = [self._range(r) for r in rows]
        mask = (1 << (_SLOT_BITS + _BIN_BITS)) - 1
        codes, counts = _sum_by(
            np.concatenate([self._codes[p] & mask for p in parts]), np.concatenate([self._counts[p] for p in parts])
        )
        found = np.full((len(qs), slots), np.nan)
        if len(codes):
            slot = codes >> _BIN_BITS
            first = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]])
            upto = np.cumsum(counts)
            before = np.r_[0, upto][first]
            total = np.add.reduceat(counts, first)
            for i, q in enumerate(qs):
                rank = before + np.floor(q * (total - 1)).astype(np.int64)
                at = np.searchsorted(upto, rank, side="right")
                found[i, slot[first]] = values(codes[at] & ((1 << _BIN_BITS) - 1))
        return found

    def release(self, rows: list[int]) -> None:
        """Forget the sketches of some rows."""
        self._fold()
        for row in rows:
            part = self._range(row)
            self._codes = np.delete(self._codes, part)
            self._counts = np.delete(self._counts, part)

    def absorb(self, target: int, source: int, slots: Ints) -> None:
        """Move the sketches of some slots from one row to another."""
        self._fold()
        part = self._range(source)
        moved = self._codes.copy()
        here = np.isin((moved[part] >> _BIN_BITS) & ((1 << _SLOT_BITS) - 1), slots)
        moved[part] += np.where(here, (target - source) << (_SLOT_BITS + _BIN_BITS), 0)
        self._codes, self._counts = _sum_by(moved, self._counts)

    def clear(self, row: int, slots: Ints) -> None:
        """Forget the sketches of some slots of a row."""
        self._fold()
        part = self._range(row)
        gone = part.start + np.flatnonzero(np.isin((self._codes[part] >> _BIN_BITS) & ((1 << _SLOT_BITS) - 1), slots))
        self._codes, self._counts = np.delete(self._codes, gone), np.delete(self._counts, gone)

    def _range(self, row: int) -> slice:
        low, high = np.searchsorted(
            self._codes, [row << (_SLOT_BITS + _BIN_BITS), (row + 1) << (_SLOT_BITS + _BIN_BITS)]
        )
        return slice(int(low), int(high))

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._codes.nbytes + self._counts.nbytes + 8 * self._pending_rows

    def save(self, rows: list[int]) -> State:
        """Plain values; `rows` are renumbered 0, 1, … in the given order."""
        self._fold()
        parts = [self._range(r) for r in rows]
        mask = (1 << (_SLOT_BITS + _BIN_BITS)) - 1
        codes = [(self._codes[p] & mask) | (i << (_SLOT_BITS + _BIN_BITS)) for i, p in enumerate(parts)]
        return {
            "codes": np.concatenate([*codes, _NONE]),
            "counts": np.concatenate([*(self._counts[p] for p in parts), _NONE]),
        }

    def load(self, rows: list[int], state: State) -> None:
        """Inverse of `save`."""
        shift = _SLOT_BITS + _BIN_BITS
        where = np.asarray(rows, np.int64)[state["codes"] >> shift] << shift if len(state["codes"]) else _NONE
        self._codes, self._counts = _sum_by(where | (state["codes"] & ((1 << shift) - 1)), state["counts"])


_NONE = np.empty(0, np.int64)


def _sum_by(codes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Distinct codes, ascending, with the sum of their counts."""
    if not len(codes):
        return codes, counts
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return codes[first], np.add.reduceat(counts[order], first)
