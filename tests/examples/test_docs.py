"""Every program in the documentation runs, each by itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def programs() -> list[tuple[str, str]]:
    """(file:line, text) of each block of Python, the text moved down so that a traceback names the line in the file."""
    found = []
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1))
            found.append((f"{file.relative_to(DOCS)}:{line + 1}", "\n" * line + match[1]))
    return found


@pytest.mark.parametrize(("where", "text"), programs(), ids=lambda x: x if ":" in x[:80] and "\n" not in x else "")
def test_a_program_of_the_documentation_runs(where: str, text: str) -> None:
    file = str(DOCS / where.partition(":")[0])
    program = ModuleType("program")
    sys.modules["program"] = program
    exec(compile(text, file, "exec", dont_inherit=True), vars(program))  # noqa: S102 - our own text
