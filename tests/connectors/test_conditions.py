"""Conditions as they are written, and the mistakes in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from connectors import simulator
from connectors.conditions import Condition, check, deadband, report_on_change, scale, swinging_door
from pipelines import Arrival, Col, Key, Quality, Schema
from pipelines.errors import PlanError

S = 10**9


class Press(Schema):
    device = Key[str]()
    force = Col[float]("kN")
    strokes = Col[int]()
    open = Col[bool]()
    mode = Col[str]()
    quality = Quality()
    at = Arrival()


def test_what_is_written_is_what_is_kept() -> None:
    asked = [
        scale(Press.force, factor=0.1, offset=-40.0),
        swinging_door(Press.force, deviation=0.5, hold="30s", at_least_every="1h"),
        deadband(Press.strokes, percent=5, at_least_every="10m"),
        report_on_change(Press.mode),
        report_on_change(Press.open),
    ]
    assert check("simulator", Press, asked) == (
        Condition("scale", "Press.force", factor=0.1, offset=-40.0),
        Condition("door", "Press.force", 0.5, every_ns=3600 * S, hold_ns=30 * S),
        Condition("percent", "Press.strokes", 5.0, every_ns=600 * S),
        Condition("change", "Press.mode"),
        Condition("change", "Press.open"),
    )
    assert deadband(Press.force, absolute=0.25) == Condition("absolute", "Press.force", 0.25)
    assert simulator.source(Press, conditions=asked).conditions == check("simulator", Press, asked)
    assert simulator.source(Press).conditions == ()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda: deadband(Press.force), r"deadband\(Press.force\): give either absolute= or percent="),
        (lambda: deadband(Press.force, absolute=1, percent=1), "give either"),
        (lambda: deadband(Press.force, absolute=-1), r"deadband\(Press.force, absolute=…\): -1 is given, a finite"),
        (lambda: deadband(Press.force, percent=float("nan")), "nan is given, a finite number of at least 0"),
        (lambda: swinging_door(Press.force, deviation=float("inf")), r"deviation=…\): inf is given"),
        (lambda: swinging_door(Press.force, deviation=1, hold="0s"), "swinging_door hold: '0s' is no time at all"),
        (lambda: report_on_change(Press.mode, at_least_every="often"), "condition at_least_every: 'often' is not"),
        (lambda: scale(Press.force, factor=0), "factor not 0"),
        (lambda: scale(Press.force, offset=float("nan")), "finite numbers are needed"),
        (lambda: report_on_change(Press.force * 2), "is about a column of the source's schema"),
        (lambda: report_on_change("force"), "not 'force'"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_mistakes_in_a_condition(write: Callable[[], Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        write()


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ([deadband(Press.open, absolute=1)], "absolute of Press.open: only a column of float int can have it"),
        ([deadband(Press.mode, percent=1)], "percent of Press.mode: only a column of float int"),
        ([swinging_door(Press.strokes, deviation=1)], "door of Press.strokes: only a column of float can have it"),
        ([scale(Press.strokes, factor=2)], "scale of Press.strokes: only a column of float"),
        ([report_on_change(Press.quality)], "devices send no Press.quality; they send Press.force, Press.strokes"),
        ([report_on_change(Press.at)], "devices send no Press.at"),
        (
            [report_on_change(Press.force), deadband(Press.force, absolute=1)],
            "Press.force has two of a kind; one is enough",
        ),
        ([scale(Press.force, factor=2), scale(Press.force, factor=2)], "two of a kind"),
        (["change"], r"simulator conditions: 'change' is none; write deadband\(Press.…"),
    ],
)
def test_conditions_that_a_source_cannot_meet(conditions: list[Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        simulator.source(Press, conditions=conditions)
