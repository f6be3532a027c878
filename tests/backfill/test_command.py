"""`pipeline backfill` as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from containers.cli import main
from tests.backfill import kit
from tests.backfill.kit import ONE, TWO, Store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with raw.parquet, one.py and two.py, and we are in it."""
    monkeypatch.chdir(tmp_path)
    file = kit.program(tmp_path, ONE)
    Store(file, tmp_path).plain("readings", kit.readings(20_000, 5), by="key", group=50_000).rename(
        tmp_path / "raw.parquet"
    )
    (tmp_path / "one.py").write_text(ONE)
    (tmp_path / "two.py").write_text(TWO)
    return tmp_path


def backfill(*words: str) -> Result:
    return CliRunner().invoke(main, ["backfill", *words])


def test_it_says_what_it_did_and_how_far_it_is(place: Path) -> None:
    said = backfill("one.py", "--source", "raw.parquet", "--out", "out", "--jobs", "1")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.startswith("20,000 readings gave tens 100, minute 20, ")
    assert said.stdout.endswith(" files in out\n")
    assert "20,000 of 20,000 readings" in said.stderr
    again = backfill("one.py:test", "--source", "readings=raw.parquet", "--out", "new", "--jobs", "1", "-o", "json")
    facts = json.loads(again.stdout)
    assert (facts["version"], facts["readings"], facts["left_out"], facts["results"]["tens"]) == (1, 20_000, 0, 100)


def test_times_have_a_zone(place: Path) -> None:
    begin, end = "2026-05-28T00:01Z", "2026-05-28T02:02+02:00"
    said = backfill(
        "one.py", "--source", "raw.parquet", "--out", "out", "--from", begin, "--to", end, "--jobs", "1", "-o", "json"
    )
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["results"]["tens"] == 6 * 5
    whole = backfill(
        "one.py", "--source", "raw.parquet", "--out", "day", "--from", "2026-05-28", "--jobs", "1", "-o", "json"
    )
    assert json.loads(whole.stdout)["results"]["tens"] == 100


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["one.py", "--source", "raw.parquet"], 64, "Missing option '--out'"),
        (
            ["one.py", "--source", "raw.parquet", "--out", "o", "--from", "may"],
            64,
            "'may' is not a time: write 2026",
        ),
        (
            ["one.py", "--source", "raw.parquet", "--out", "o", "--to", "2026-05-28T01:00"],
            64,
            "does not say in which zone",
        ),
        (
            ["two.py", "--source", "raw.parquet", "--out", "o"],
            1,
            "test reads readings, tools, work: say whose",
        ),
        (["one.py", "--source", "rav.parquet", "--out", "o"], 1, "rav.parquet: there is no such file or folder"),
        (["one.py", "--source", "raw.parquet", "--out", "o", "--jobs", "0"], 64, "--jobs"),
    ],
)
def test_mistakes_are_one_line(place: Path, words: list[str], code: int, message: str) -> None:
    said = backfill(*words)
    assert said.exit_code == code
    assert message in said.stderr


def test_readings_that_are_left_out_are_told(place: Path) -> None:
    (place / "r.csv").write_text("device,time,x,k,state\nm,2026-05-28T00:00Z,1.0,1,run\nm,2026-05-28T00:00Z,,1,run\n")
    said = backfill("one.py", "--source", "r.csv", "--out", "out", "--jobs", "1")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.startswith("1 readings gave tens 1,")


def test_a_bar_on_a_terminal(place: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "containers.cli", "backfill", "one.py", "--source", "raw.parquet", "--out", "out"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), "TERM": "xterm"}
    child = subprocess.Popen(words, stderr=theirs, stdout=subprocess.PIPE, env=env)
    os.close(theirs)
    shown = b""
    try:
        while some := os.read(ours, 65536):
            shown += some
    except OSError:  # the terminal is gone with the child
        pass
    out, _ = child.communicate(timeout=60)
    os.close(ours)
    assert child.returncode == 0
    assert out.startswith(b"20,000 readings gave")
    assert b"100%" in shown
