"""A pipeline file is what its text says now."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipelines.load import load

TEXT = """\
from pipelines import Pipeline

p = Pipeline("{name}")
"""


def test_a_change_within_a_second_counts_and_nothing_compiled_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "p.py"
    for name in ("one", "two"):  # of the same size
        file.write_text(TEXT.format(name=name))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert load(str(file)).name == name
    assert [f.name for f in tmp_path.iterdir()] == ["p.py"]
