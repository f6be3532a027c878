"""From a step of a plan to the operator that does it."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.operators.asof import AsOfJoin
from pipelines.operators.flow import Env, Operator
from pipelines.operators.stateless import Pass, Select, Where
from pipelines.operators.window import WindowOperator
from pipelines.plan import Plan, Step

Build = Callable[[Step, Plan, Env], Operator]


def _dtypes(step: Step, plan: Plan) -> list[dict[str, str]]:
    return [plan.by_name[up].dtypes for up in step.ups]


_BUILD: dict[str, Build] = {  # by kind of step
    "where": lambda step, plan, env: Where(step.spec.value),
    "select": lambda step, plan, env: Select(step.spec.value),
    "result": lambda step, plan, env: Pass(),
    "window": lambda step, plan, env: WindowOperator(step.spec, env),
    "join": lambda step, plan, env: AsOfJoin(step.spec.value, *_dtypes(step, plan)),
}


def build(step: Step, plan: Plan, env: Env) -> Operator:
    """The operator of a step that is neither a source nor the late rows of another."""
    return _BUILD[step.kind](step, plan, env)
