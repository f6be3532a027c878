"""Row groups that no step can use: only filters read the stream, and none lets a value within their bounds pass. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.expr import Expr

Bounds = Mapping[
    str, tuple[Any, Any]
]  # least and greatest value, by qualified name; a column whose are not known is left out
_PASSES: dict[str, Callable[[Any, Any, Any], bool]] = {  # least, greatest, constant
    ">": lambda low, high, c: high > c,
    ">=": lambda low, high, c: high >= c,
    "<": lambda low, high, c: low < c,
    "<=": lambda low, high, c: low <= c,
    "==": lambda low, high, c: low <= c <= high,
}
_TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "=="}


def may_pass(conditions: tuple[Expr[bool], ...], bounds: Bounds) -> bool:
    """Whether rows within bounds can be of use."""
    return not conditions or any(_may(c, bounds) for c in conditions)


def _may(condition: Expr[Any], bounds: Bounds) -> bool:
    match condition.op, condition.args:
        case "&", (Expr() as a, Expr() as b):
            return _may(a, bounds) and _may(b, bounds)
        case "|", (Expr() as a, Expr() as b):
            return _may(a, bounds) or _may(b, bounds)
        case op, (Expr() as column, int() | float() | str() as constant) if op in _PASSES:
            return _within(op, column, constant, bounds)
        case op, (int() | float() | str() as constant, Expr() as column) if op in _PASSES:
            return _within(_TURNED[op], column, constant, bounds)
    return True


def _within(op: str, column: Expr[Any], constant: Any, bounds: Bounds) -> bool:
    low, high = bounds.get(column.qualified, (None, None))
    if low is None or isinstance(low, str) is not isinstance(constant, str):
        return True
    return _PASSES[op](low, high, constant)
