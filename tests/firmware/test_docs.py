"""The page about firmware is right: its commands work, and its program refuses what it should."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connectors.firmware.campaign import Campaign
from connectors.firmware.mirror import Mirror
from containers.cli import main
from containers.firmware.shelf import Shelf
from containers.repository.ring import Ring
from pipelines.clock import SystemClock
from tests.firmware.plant import Web

PAGE = (Path(__file__).parents[2] / "docs" / "firmware.md").read_text()


def test_its_commands_sign_what_its_program_believes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("press-2.1.bin").write_bytes(b"new firmware")
    commands = re.findall(r"```sh\n(.*?)```", PAGE, re.S)[0].splitlines()
    assert len(commands) == 3
    for line in commands:
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
    shelf = Shelf(Path("firmware"), Ring(Path("firmware-keys")), SystemClock())
    path = shelf.find("press-mk2", "2.1")
    shelf.change_plan(lambda _: [Campaign(id="c", model="press-mk2", path=path, version="2.1", begun_s=0)])
    web, root = Web(tmp_path / "firmware"), Path("firmware/metadata/1.root.json").read_bytes()
    signed = Mirror(web.url, root, tmp_path / "site", 10**6).refresh()
    image = signed.images["c"]
    order = {"path": path, "length": image.length, "sha256": image.sha256, "metadata": signed.metadata["press-mk2"]}

    program: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], program)  # noqa: S102 - our own text
    flash: dict[str, Any] = {"root": root, "seen": {}}

    def refuses(order: dict[str, Any], model: str = "press-mk2", hardware: str = "B", security: int = 3) -> str:
        return str(program["refuses"](order, flash, model, hardware, security))

    assert refuses(order) == ""
    assert refuses(order, hardware="C") == "not for this device"
    assert refuses(order, security=4) == "not for this device"
    assert refuses(order | {"length": 1}) == "not what was signed"
    assert "not signed" in refuses(order, model="campaigns")
    assert "not signed" in refuses(order | {"path": "x"})
    (key,) = flash["seen"]["press-mk2"]
    flash["seen"]["press-mk2"] = {key: 9}
    assert refuses(order) == "press-mk2 is old"

    stolen = order
    for name in ("root-1", "root-2", "model-press-mk2-1"):
        shelf.keys.rotate(name)
    signed = Mirror(web.url, root, tmp_path / "site", 10**6).refresh()
    order = order | {"metadata": signed.metadata["press-mk2"], "roots": signed.roots_after(1)}
    assert "root 3 does not follow" in refuses(order | {"roots": signed.roots_after(2)})
    for _ in range(2):
        assert refuses(order) == ""
        assert flash["root"] == Path("firmware/metadata/3.root.json").read_bytes()
    assert refuses(stolen) == "targets is old"
    web.close()


def test_the_commands_for_campaigns_exist() -> None:
    for line in "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)[1:]).splitlines():
        words = [w for w in shlex.split(line)[1:] if not w.startswith("-")]
        depth = 3 if words[1] == "campaign" else 2
        assert CliRunner().invoke(main, [*words[:depth], "--help"]).exit_code == 0, line
