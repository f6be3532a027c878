"""The tables of options in docs/connectors.md are what the functions take: names, order and defaults.

A table says in its head whose it is, and a default as Python writes it, or `required`:

    | `simulator.source` | default | what it is |
    |---|---|---|
    | `schema` | required | … |
    | `every` | `"1s"` | … |
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "connectors.md"
REQUIRED = "required"


def told(name: str, page: Path = PAGE) -> dict[str, Any]:
    """Default by option, as the page says it of the function `name`."""
    lines = page.read_text().splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith(f"| `{name}` |"))
    options: dict[str, Any] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        option, default, what = (cell.strip() for cell in line.strip("|").replace("\\|", "¦").split("|"))
        assert what, f"{name}: {option} is not explained"
        options[option.strip("`")] = REQUIRED if default == REQUIRED else ast.literal_eval(default.strip("`"))
    return options


def taken(function: Callable[..., Any]) -> dict[str, Any]:
    """Default by option, as the function's signature has it."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters}


def check(name: str, function: Callable[..., Any], page: Path = PAGE) -> None:
    """Fail unless page and function agree, in names, order and defaults."""
    assert list(told(name, page).items()) == list(taken(function).items())
