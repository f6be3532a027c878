"""What docs/control.md shows is true: its devices.toml, with keys that `pipeline device keys new` has made."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.control.commands import Command
from connectors.control.devices import parse
from connectors.control.guard import Guard
from connectors.control.ledger import Ledger
from connectors.control.signing import load, signed
from containers.cli import main
from containers.desired import check_given
from containers.embedded import EmbeddedKafka
from tests.bed import free_port
from tests.bed.certificate import self_signed
from tests.bed.mosquitto import Mosquitto
from tests.containers.kit import SITE, site_of
from tests.control.plant import DEVICES, ROOT, Device, Site

PAGE = (Path(__file__).parents[2] / "docs/control.md").read_text()
SECOND = 10**9
NOW = 1_700_000_000 * SECOND


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """As the page's file makes it, with real keys."""
    text = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
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


def test_its_site_file_is_one(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE + re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    check_given(site, plan)
    assert site.site.services.control.listen == "0.0.0.0:9471"


def test_its_commands_exist() -> None:
    for line in re.findall(r"^    pipeline (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE):
        words = line.split()[:3] if line.split()[1] == "keys" else line.split()[:2]
        assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0, line


async def test_its_curl_command_commands_a_device(
    kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path
) -> None:
    (example,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    said = CliRunner().invoke(main, ["device", "keys", "new", "anna", "--folder", str(tmp_path)])
    (key,) = re.findall(r'^key = "(\w+)"$', said.stdout, re.MULTILINE)
    anna = f'[issuers.anna]\nkey = "{key}"\ndevices = ["press-*"]\nverbs = ["set_speed"]\n'
    certificate, private = self_signed("hall1.example")
    port, token = free_port(), "a token of the control room".replace(" ", "-")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pipeline").write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c "from containers.cli import main; main()" "$@"\n'
    )
    (tmp_path / "bin/pipeline").chmod(0o755)
    (tmp_path / "secrets").mkdir()
    for file, content in {
        "secrets/api_tokens": token.encode(), "secrets/api_certificate": certificate, "secrets/api_private_key": private,
        "token": token.encode(), "ca.pem": certificate, ".curlrc": f'connect-to = "::127.0.0.1:{port}"\n'.encode(),
        "hall1.toml": f"site = '{unique}'\npipeline = 'press.py'\nbrokers = 'unreached:9092'\n".encode(),
    }.items():  # fmt: skip
        (tmp_path / file).write_bytes(content)
    site = Site(
        unique,
        kafka.bootstrap,
        mosquitto.url,
        tmp_path,
        devices=anna + DEVICES,
        options={"listen": f"127.0.0.1:{port}"},
    )
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "CURL_HOME": str(tmp_path)}
    async with site.control() as control, Device().on(site, "press-7") as device:
        await control.ready()
        run = await asyncio.create_subprocess_exec(
            "bash", "-ec", example, cwd=tmp_path, env=environment, stdout=PIPE, stderr=PIPE
        )
        out, wrong = await run.communicate()
    assert run.returncode == 0, (out, wrong, site.log.read_text())
    told = json.loads(out)
    assert (told["state"], told["issuer"], told["device"]) == ("SUCCEEDED", "anna", "press-7")
    assert [c["args"] for c in device.heard] == [{"speed": 0.5}]
