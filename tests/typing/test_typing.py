"""Wrong programs fail in the type checker, before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def errors_of(file: str) -> list[tuple[int, str]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(HERE / file)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200).stdout
    found = re.findall(rf"{re.escape(file)}:(\d+): error: .*\[([a-z-]+)\]", out)
    assert not re.search(r"error: (?!.*\[)", out), out
    return [(int(line), code) for line, code in found]


def test_a_right_program_passes() -> None:
    assert errors_of("good.py") == []


def test_each_wrong_line_is_refused_for_the_right_reason() -> None:
    lines = (HERE / "bad_programs.py").read_text().splitlines()
    expected = [(n, line.partition("  # ")[2]) for n, line in enumerate(lines, 1) if "  # " in line]
    assert len(expected) == 20
    assert errors_of("bad_programs.py") == expected
