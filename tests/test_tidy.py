"""The habits of this code base, as tests: small files and functions, one clock, documented names."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipelines", "connectors", "containers")
FILES = sorted(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))
LINES_MAX, FUNCTION_LINES_MAX, FUNCTION_LINES_MEDIAN = 500, 60, 10
CLOCK = ROOT / "pipelines" / "clock.py"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (n for n in ast.walk(tree) if isinstance(n, Function))


def length(f: Function) -> int:
    body = f.body[1:] if ast.get_docstring(f) and len(f.body) > 1 else f.body
    return (f.end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_file_is_small_and_keeps_the_rules(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= LINES_MAX
    assert {f.name: length(f) for f in functions(tree) if length(f) > FUNCTION_LINES_MAX} == {}
    assert ast.get_docstring(tree), "a module says what it is for"
    if file != CLOCK:
        for call in ("time.time(", "time_ns(", "datetime.now(", "utcnow("):
            assert call not in text.replace("now_ns(", ""), f"{call}…) belongs to pipelines/clock.py: take a Clock"


def test_functions_are_short() -> None:
    lengths = [length(f) for file in FILES for f in functions(ast.parse(file.read_text()))]
    assert statistics.median(lengths) <= FUNCTION_LINES_MEDIAN


def test_public_names_are_documented() -> None:
    public = [
        (file.name, node.name, bool(ast.get_docstring(node)))
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
    ]
    without = [f"{f}:{n}" for f, n, documented in public if not documented]
    assert len(without) <= 0.1 * len(public), without
