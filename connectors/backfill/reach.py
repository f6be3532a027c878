"""How far before a moment readings can lie that its results are computed from. Pure."""

from __future__ import annotations

from typing import Any

from pipelines.plan import Plan, Step, WithinSpec
from pipelines.shapes import DedupeSpec, ResampleSpec
from pipelines.windows import Calendar, Even, Session, Sliding, Window

_DAY_NS = 86_400 * 10**9
_UNITS_NS = {"day": _DAY_NS, "week": 7 * _DAY_NS, "month": 31 * _DAY_NS, "quarter": 92 * _DAY_NS, "year": 366 * _DAY_NS}
_HOUR_NS = 3600 * 10**9  # what a clock that is set back adds to a day


def reach(plan: Plan) -> int:
    """ns, along the longest way through the plan.

    Where there is no bound (a count, a table, an operator of a user, the beginning of a session) a step adds what is known
    of it, or nothing.
    """
    found: dict[str, int] = {}
    for step in plan.steps:
        found[step.name] = max((found[up] for up in step.ups), default=0) + _own(step)
    return max(found.values())


def _own(step: Step) -> int:
    spec: Any = step.spec.over if step.kind == "window" else getattr(step.spec, "value", step.spec)
    match spec:
        case Window(grid=Calendar() as grid):
            return int(spec.size * _UNITS_NS[grid.unit] + _HOUR_NS)
        case Window(grid=Even() as grid):
            return int(spec.size * grid.width)
        case Sliding() | Session():
            return spec.size if isinstance(spec, Sliding) else spec.gap
        case WithinSpec():
            return spec.before + spec.after
        case DedupeSpec():
            return spec.within
        case ResampleSpec():
            return spec.max_gap + spec.every
        case _:
            return getattr(spec, "tolerance", None) or 0
