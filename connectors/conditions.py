"""What a source reports of the readings it gets: the exceptions to "all of them".

Descriptions only; `connectors.reporting` applies them, in `collect`, between the reader and Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from connectors.options import duration
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema

Kind = Literal["change", "absolute", "percent", "door", "scale"]
HOLD = "10s"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked of one column. Made by the functions of this module."""

    kind: Kind
    column: str  # qualified name
    limit: float = 0.0  # absolute: in the column's unit; percent: of the last reported value; door: the deviation
    factor: float = 1.0  # of scale
    offset: float = 0.0  # of scale
    every_ns: int = 0  # a reading is reported at least that often, in event time; 0: no matter how often
    hold_ns: int = 0  # a door holds a reading back no longer than that


def report_on_change(column: Expr[Any], *, at_least_every: str | None = None) -> Condition:
    """Report a reading whose value differs from the last reported one. For columns of every type."""
    return Condition("change", _name(column), every_ns=_every(at_least_every))


def deadband(
    column: Expr[Any],
    *,
    absolute: float | None = None,
    percent: float | None = None,
    at_least_every: str | None = None,
) -> Condition:
    """Report a reading that differs from the last reported one by more than `absolute`, or by more than `percent` of that."""
    if (absolute is None) == (percent is None):
        raise PlanError(f"deadband({column}): give either absolute= or percent=")
    kind: Kind = "percent" if absolute is None else "absolute"
    limit = _positive(f"deadband({column}, {kind}=…)", percent if absolute is None else absolute)
    return Condition(kind, _name(column), limit, every_ns=_every(at_least_every))


def swinging_door(
    column: Expr[Any], *, deviation: float, hold: str = HOLD, at_least_every: str | None = None
) -> Condition:
    """Report the corners of a line that follows the readings: none that is left out lies further than `deviation` from it.

    For that the newest reading is held back until the next one shows whether it is a corner, at most `hold` (event time); the
    source's watermark waits for it.
    """
    limit = _positive(f"swinging_door({column}, deviation=…)", deviation)
    hold_ns = duration("swinging_door", "hold", hold)
    return Condition("door", _name(column), limit, every_ns=_every(at_least_every), hold_ns=hold_ns)


def scale(column: Expr[float], *, factor: float = 1.0, offset: float = 0.0) -> Condition:
    """value · factor + offset, before anything else is asked of the column. For columns of float."""
    if not all(abs(x) < float("inf") for x in (factor, offset)) or factor == 0:
        raise PlanError(f"scale({column}, factor={factor}, offset={offset}): finite numbers are needed, factor not 0")
    return Condition("scale", _name(column), factor=factor, offset=offset)


def check(what: str, schema: type[Schema], conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions of a source of `schema`; `PlanError` if one cannot be met."""
    dtypes = {f.qualified: f.dtype for f in schema.sent().fields}
    for n, c in enumerate(conditions):
        if not isinstance(c, Condition):
            raise PlanError(
                f"{what} conditions: {c!r} is none; write deadband({schema.__name__}.…, absolute=…) or such"
            )
        if c.column not in dtypes:
            raise PlanError(
                f"{what} conditions: devices send no {c.column}; they send {', '.join(dtypes) or 'nothing'}"
            )
        if any((c.kind == "scale") == (other.kind == "scale") and c.column == other.column for other in conditions[:n]):
            raise PlanError(f"{what} conditions: {c.column} has two of a kind; one is enough")
        accepts = {"change": dtypes[c.column], "scale": "float", "door": "float"}.get(c.kind, "float int")
        if not any(dtypes[c.column].startswith(a) for a in accepts.split()):
            raise PlanError(f"{what} conditions: {c.kind} of {c.column}: only a column of {accepts} can have it")
    return tuple(conditions)


def _name(column: Expr[Any]) -> str:
    if not isinstance(column, Expr) or not column.qualified:
        raise PlanError(f"a condition is about a column of the source's schema, such as Tank.level, not {column!r}")
    return column.qualified


def _every(text: str | None) -> int:
    return 0 if text is None else duration("condition", "at_least_every", text)


def _positive(what: str, value: float | None) -> float:
    if value is None or not 0 <= value < float("inf"):
        raise PlanError(f"{what}: {value} is given, a finite number of at least 0 is needed")
    return float(value)
