"""What the options of sources have in common: one way to check them, with one wording. For functions such as `mqtt.source`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.errors import ConfigError, PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.units import duration_ns


def duration(kind: str, option: str, text: str, *, zero: bool = False) -> int:
    """Nanoseconds of a duration such as '10m'; `PlanError` if it is none, or zero where that has no meaning."""
    try:
        ns = duration_ns(text)
    except ConfigError as e:
        raise PlanError(f"{kind} {option}: {e}") from e
    if not ns and not zero:
        raise PlanError(f"{kind} {option}: {text!r} is no time at all")
    return ns


def durations(kind: str, **options: str | None) -> None:
    """`PlanError` if an option that is given is no duration, or zero."""
    for option, text in options.items():
        if text is not None:
            duration(kind, option, text)


def named(kind: str, schema: type[Schema], fields: Mapping[Any, str] | None) -> tuple[tuple[str, str], ...]:
    """`fields=` by bare name of the column; `PlanError` if one is not a column that devices send."""
    found, ours = [], {f.qualified: f.name for f in schema.sent().fields}
    for column, path in (fields or {}).items():
        if not isinstance(column, Expr) or column.qualified not in ours:
            raise PlanError(f"{kind} fields: {column!r} is no column that devices send; they send {', '.join(ours)}")
        found.append((ours[column.qualified], path))
    return tuple(found)
