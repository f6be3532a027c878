"""Batch: the only value that travels. Keys as codes, time as int64 nanoseconds, numpy columns; never a row object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.expr import Array, Expr

Codes = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]
TIME_MIN, TIME_MAX = -(2**63), 2**63 - 1  # watermarks: nothing seen yet; nothing more to come
TIME_NS_MAX = 2**62  # event times beyond (years 1823 to 2116) are refused, so that arithmetic on them cannot overflow
WINDOW_START = "window_start"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one stream, column by column, all of shape `(rows,)`.

    `names` holds the distinct keys (an Arrow string array, possibly with names no row uses); `codes` index it.
    `columns` are keyed by qualified name (`Schema.column`); a windowed batch also has `window_start` (int64 ns).
    """

    names: pa.StringArray
    codes: Codes
    time: Times
    columns: Mapping[str, Array]

    @classmethod
    def of_keys(cls, keys: Sequence[str], time: Times, columns: Mapping[str, Array]) -> Batch:
        """From one key a row."""
        coded = pa.array(keys, pa.string()).dictionary_encode()
        return cls(coded.dictionary, coded.indices.to_numpy(zero_copy_only=False).astype(np.int32), time, columns)

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, column: Expr[Any]) -> Array:
        """Values of a column: `batch[Minute.mean]`."""
        return column.on(self.columns)

    @property
    def keys(self) -> list[str]:
        """The key of each row as Python text; for tests and displays, not for the hot path."""
        return self.names.take(pa.array(self.codes)).to_pylist()  # type: ignore[no-any-return]  # pyarrow is untyped

    def take(self, rows: Array | slice) -> Batch:
        """The rows given by a boolean mask, indices or a slice."""
        return replace(
            self, codes=self.codes[rows], time=self.time[rows], columns={n: c[rows] for n, c in self.columns.items()}
        )


def rounds(codes: Array) -> Iterator[Array]:
    """Indices of the first row of each key, then of the second of those that have one, and so on, each in order."""
    if len(codes) and np.bincount(codes).max() == 1:
        yield np.arange(len(codes))
        return
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0][: len(order)])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    by_rank = order[np.argsort(rank, kind="stable")]
    yield from np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(order) else ()
