"""The right side of a join: the columns that each row gets from the row it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.expr import Array
from pipelines.plan import Fill


class Fetch:
    """Takes columns by index; where there is none (−1) stands the fill, for floats NaN unless told otherwise."""

    def __init__(self, dtypes: Mapping[str, str], fill: Fill) -> None:
        self.dtypes, self._fill = dict(dtypes), dict(fill)

    def __call__(self, columns: Mapping[str, Array], at: Array) -> dict[str, Array]:
        """Columns of the rows at `at`, shape `(len(at),)`."""
        found = at >= 0
        if found.all():
            return {name: columns[name][at] for name in self.dtypes}
        there, out = at[found], {}
        for name, dtype in self.dtypes.items():
            out[name] = np.full(len(at), self._nothing(name, dtype), dtype)
            out[name][found] = columns[name][there]
        return out

    def _nothing(self, name: str, dtype: str) -> Any:
        return self._fill.get(name, np.nan if dtype.startswith("float") else np.zeros(1, dtype)[0])
