"""From a step of a plan to the operator that does it."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.operators.asof import AsOfJoin
from pipelines.operators.count import CountOperator
from pipelines.operators.dedupe import Dedupe
from pipelines.operators.dimension import Lookup
from pipelines.operators.flow import Env, Operator
from pipelines.operators.interval import IntervalJoin
from pipelines.operators.key_clock import KeyClockOperator
from pipelines.operators.resample import Resample
from pipelines.operators.rounds import Changes, Scan
from pipelines.operators.session import SessionOperator
from pipelines.operators.sliding import SlidingOperator
from pipelines.operators.stateless import Apply, KeyBy, Pass, Select, Union, Unpivot, Where
from pipelines.operators.window import WindowOperator
from pipelines.plan import Plan, Step, WindowSpec
from pipelines.windows import Count, Session, Sliding

Build = Callable[[Step, Plan, Env], Operator]


def _dtypes(step: Step, plan: Plan) -> list[dict[str, str]]:
    return [plan.by_name[up].dtypes for up in step.ups]


def _sides(step: Step, plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """dtypes of the columns of a join's left side, and of those that it gets from the right."""
    left, right = _dtypes(step, plan)
    return left, {n: d for n, d in right.items() if n in step.dtypes and n not in left}


def _window(spec: WindowSpec, env: Env) -> Operator:
    match spec.over:
        case Session() as over:
            return SessionOperator(over, spec, env)
        case Count() as over:
            return CountOperator(over, spec, env)
        case Sliding() as over:
            return SlidingOperator(over, spec, env)
        case over:
            return (KeyClockOperator if over.idle else WindowOperator)(over, spec, env)


_BUILD: dict[str, Build] = {  # by kind of step
    "where": lambda step, plan, env: Where(step.spec.value),
    "select": lambda step, plan, env: Select(step.spec.value),
    "key_by": lambda step, plan, env: KeyBy(step.spec.value.column),
    "apply": lambda step, plan, env: Apply(step.spec.value),
    "unpivot": lambda step, plan, env: Unpivot(step.spec.value),
    "union": lambda step, plan, env: Union(),
    "changes": lambda step, plan, env: Changes(step.spec.value, env),
    "dedupe": lambda step, plan, env: Dedupe(step.spec.value, env),
    "resample": lambda step, plan, env: Resample(step.spec.value, env, *_dtypes(step, plan)),
    "scan": lambda step, plan, env: Scan(step.spec.value, env, *_dtypes(step, plan)),
    "result": lambda step, plan, env: Pass(),
    "window": lambda step, plan, env: _window(step.spec, env),
    "final": lambda step, plan, env: Where(step.spec.value),
    "join": lambda step, plan, env: AsOfJoin(step.spec.value, *_sides(step, plan), env),
    "within": lambda step, plan, env: IntervalJoin(step.spec.value, *_sides(step, plan), env),
    "lookup": lambda step, plan, env: Lookup(step.spec.value, _sides(step, plan)[1], env.dimensions[step.ups[1]], env),
}


def build(step: Step, plan: Plan, env: Env) -> Operator:
    """The operator of a step that is neither a source nor the late rows of another."""
    return _BUILD[step.kind](step, plan, env)
