"""Search among the rows of a key: rows sorted by key and then by time, each key's a range of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.batch import Codes, Times

Ints = npt.NDArray[np.int64]


def ranges(codes: Codes, keys: int, of: Codes) -> tuple[Ints, Ints]:
    """Where the rows of each key in `of` begin and end. `codes` ascend; there are `keys` different ones at most."""
    edges = np.searchsorted(codes, np.arange(keys + 1))
    return edges[of], edges[of + 1]


def first_at_least(times: Times, low: Ints, high: Ints, least: Times) -> Ints:
    """First index in each range `[low, high)`, in which `times` ascend, that is at least `least`; `high` if there is none."""
    while (low < high).any():
        middle = (low + high) // 2
        less = (times[np.minimum(middle, len(times) - 1)] < least) & (low < high)
        low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
    return low
