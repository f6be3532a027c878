"""Sitestream pipelines: what a pipeline is and how it computes. Pure, but for `pipelines.runtime`.

>>> from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
"""

from pipelines import agg
from pipelines.dsl import Pipeline, Stream, Table, Windowed
from pipelines.expr import Expr, exp, if_else, isnan, log, sqrt
from pipelines.schema import Col, Key, Schema
from pipelines.windows import hopping, tumbling

__all__ = [
    "Col", "Expr", "Key", "Pipeline", "Schema", "Stream", "Table", "Windowed",
    "agg", "exp", "hopping", "if_else", "isnan", "log", "sqrt", "tumbling",
]  # fmt: skip
