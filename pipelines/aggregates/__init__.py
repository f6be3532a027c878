"""Aggregates over (slice, key) cells: updated in the order of rows, merged over the slices of a window.

`parts` hold what can be merged in arrays, `quantile` and `samples` what cannot; `results` computes aggregates from
them; `fold` is the state of one window step.
"""

from pipelines.aggregates.fold import COUNT, Fold
from pipelines.aggregates.parts import Aggregate, Ints
from pipelines.aggregates.results import result_dtype, result_unit

__all__ = ["COUNT", "Aggregate", "Fold", "Ints", "result_dtype", "result_unit"]
