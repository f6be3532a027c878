"""What docs/control.md shows is true: its devices.toml, with keys that `pipeline device keys new` has made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.control.commands import Command
from connectors.control.devices import parse
from connectors.control.guard import Guard
from connectors.control.ledger import Ledger
from connectors.control.signing import load, signed
from containers.cli import main

PAGE = (Path(__file__).parents[2] / "docs/control.md").read_text()
SECOND = 10**9
NOW = 1_700_000_000 * SECOND


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """As the page's file makes it, with real keys."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    for name in ("anna", "berta"):
        said = CliRunner().invoke(main, ["device", "keys", "new", name, "--folder", str(tmp_path)])
        (key,) = re.findall(r'^key = "(\w+)"$', said.stdout, re.MULTILINE)
        text = re.sub(rf'(\[issuers\.{name}\][^\n]*\nkey = )"[^"]*"', rf'\1"{key}"', text)
    return Guard("hall1", parse(text, "devices.toml"), [], load(tmp_path / "anna.key"), 0)


@pytest.mark.parametrize(
    ("device", "verb", "args", "refused"),
    [
        ("press-7", "set_speed", {"speed": 0.5}, ""),
        ("press-7", "set_speed", {"speed": 3.0}, "speed"),
        ("press-7", "set_speed", {}, "speed"),
        ("press-7", "explode", {}, "explode"),
        ("drive-1", "start", {}, "anna"),
    ],
)
def test_its_file_allows_what_it_says(
    guard: Guard, tmp_path: Path, device: str, verb: str, args: dict[str, float], refused: str
) -> None:
    command = Command(
        id="1",
        device=device,
        verb=verb,
        args=dict(args),
        issuer="anna",
        issued_at_ns=NOW,
        expires_at_ns=NOW + 30 * SECOND,
    )
    command = signed(command, "hall1", load(tmp_path / "anna.key"))
    assert guard.forged(command) == ""
    found = guard.judge(command, Ledger(), NOW).refusal
    assert (refused in found) if refused else (found == "")


def test_its_commands_exist() -> None:
    for line in re.findall(r"^    pipeline (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE):
        words = line.split()[:3] if line.split()[1] == "keys" else line.split()[:2]
        assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0, line
