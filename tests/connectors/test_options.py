"""What options of sources have in common, and that the page about them is true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors import replay, simulator
from connectors.options import duration, durations
from pipelines.errors import PlanError
from tests.connectors.options_table import check, told


@pytest.mark.parametrize(
    ("name", "function"), [("simulator.source", simulator.source), ("replay.source", replay.source)]
)
def test_the_page_says_what_the_function_takes(name: str, function: Callable[..., Any]) -> None:
    check(name, function)


def test_a_page_that_is_wrong_is_found(tmp_path: Path) -> None:
    def source(schema: type, every: str = "1s") -> None: ...

    head = "| `x.source` | default | what it is |\n|---|---|---|\n| `schema` | required | a schema |\n"
    page = tmp_path / "page.md"
    page.write_text(head + '| `every` | `"2s"` | a time |\n\nText.')
    assert told("x.source", page) == {"schema": "required", "every": "2s"}
    check("x.source", lambda schema, every="2s": None, page)
    for wrong in (source, lambda schema: None, lambda schema, other="2s": None, lambda every="2s", schema=0: None):
        with pytest.raises(AssertionError):
            check("x.source", wrong, page)
    page.write_text(head + "| `every` | `1` |  |\n")
    with pytest.raises(AssertionError, match="`every` is not explained"):
        told("x.source", page)


@pytest.mark.parametrize(
    ("text", "says"), [("soon", "mqtt stale: 'soon' is not a duration"), ("0s", "mqtt stale: '0s' is no time at all")]
)
def test_durations(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        durations("mqtt", silence="2s", stale=text)


def test_good_durations() -> None:
    durations("mqtt", silence="2s", stale=None)
    assert duration("mqtt", "disorder", "0s", zero=True) == 0
