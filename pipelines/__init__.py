"""Sitestream pipelines: what a pipeline is and how it computes. Pure, but for `pipelines.runtime`.

>>> from pipelines import Col, Key, Pipeline, Schema, agg, tumbling
"""

from pipelines import agg
from pipelines.dsl import Joined, Pipeline, Stream, Table, Windowed
from pipelines.expr import (
    Expr,
    arctan2,
    ceil,
    clip,
    cos,
    exp,
    fill,
    floor,
    if_else,
    isin,
    isnan,
    log,
    log10,
    maximum,
    minimum,
    round,
    sign,
    sin,
    sqrt,
    tan,
    unit,
)  # fmt: skip
from pipelines.schema import Arrival, Col, Key, Quality, Schema
from pipelines.windows import calendar, count, hopping, session, sliding, tumbling

__all__ = [
    "Arrival", "Col", "Expr", "Joined", "Key", "Pipeline", "Quality", "Schema", "Stream", "Table", "Windowed",
    "agg", "arctan2", "calendar", "ceil", "clip", "cos", "count", "exp", "fill", "floor", "hopping", "if_else", "isin", "isnan",
    "log", "log10", "maximum", "minimum", "round", "session", "sign", "sin", "sliding", "sqrt", "tan", "tumbling", "unit",
]  # fmt: skip
