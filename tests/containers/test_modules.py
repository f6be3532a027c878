"""Which modules an image holds: what its service imports, and nothing that it must not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from containers import images, modules
from containers.desired import check, contents_of, work_for
from containers.profiles import PROFILES
from pipelines.errors import ConfigError
from tests.containers.kit import BASE, SITE, pipeline_text, site_of

SITE_WITH_DEVICES = SITE + 'devices = "devices.toml"\n'
MQTT = "connectors.mqtt.reader:MqttReader"


def _code_of(service: str, folder: Path) -> set[str]:
    """Files of our own in the image of a service."""
    file = folder / "tiny.py"
    file.write_text(pipeline_text())
    what = images.contents(PROFILES[service], str(file), [MQTT] if service == "collect" else [], BASE)
    prefix = "opt/sitestream/code/"
    return {f.path.removeprefix(prefix) for f in what.files if f.path.startswith(prefix) and f.path.endswith(".py")}


@pytest.mark.parametrize(
    ("service", "has", "has_not"),
    [
        (
            "collect",
            ["connectors/collect.py", "connectors/mqtt/reader.py"],
            ["connectors/control/", "connectors/upload/", "connectors/parquet/", "connectors/replay/", "pipelines/task.py"],
        ),
        ("process", ["pipelines/runtime/worker.py", "pipelines/task.py"], ["connectors/control/", "connectors/mqtt/"]),
        ("upload", ["connectors/upload/service.py", "connectors/parquet/writer.py"], ["connectors/control/", "connectors/mqtt/"]),
        ("control", ["connectors/control/service.py"], ["connectors/upload/", "connectors/parquet/", "pipelines/task.py"]),
    ],
)  # fmt: skip
def test_an_image_holds_what_its_service_imports_and_no_other_service(
    tmp_path: Path, service: str, has: list[str], has_not: list[str]
) -> None:
    code = _code_of(service, tmp_path)
    assert code >= set(has)
    # the descriptions that the pipeline file imports are everywhere, and they import no client library
    extra = {path for path in code for other in has_not if path.startswith(other)} - _descriptions()
    assert not extra


OPCUA_DEVICE = """
[profiles.mixer]
devices = ["m1"]
opcua = {server = "opc.tcp://mixer:4840", username = "control", password = "mixer-password"}
[profiles.mixer.verbs.start]
set = {node = "Objects/Mixer/Run", type = "Boolean", value = true}
"""


def test_only_a_site_with_such_devices_gets_the_code_that_writes_to_them(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE_WITH_DEVICES)
    writer = "opt/sitestream/code/connectors/control/opcua.py"
    for document, has in (("", False), (OPCUA_DEVICE, True)):
        (tmp_path / "devices.toml").write_text(document)
        what = {p.service: contents_of(site, plan, BASE, p) for p in work_for(plan, site)}
        assert {service for service, c in what.items() if writer in {f.path for f in c.files}} == (
            {"control"} if has else set()
        )
        assert what["control"].extras == (("control", "opcua") if has else ("control",))
        assert any(p.startswith("asyncua==") for p in what["control"].extra) == has


def test_the_secrets_of_devices_must_be_given_to_control(tmp_path: Path) -> None:
    site, plan = site_of(tmp_path, SITE_WITH_DEVICES)
    (tmp_path / "devices.toml").write_text(OPCUA_DEVICE)
    with pytest.raises(
        ConfigError, match=r"control needs the secret 'mixer-password' which devices.toml names: add under"
    ):
        check(site, plan)


def _descriptions() -> set[str]:
    found = modules.closure(["connectors.control", "connectors.mqtt", "connectors.parquet"], modules.ours)
    return {modules.image_path(name, file) for name, file in found.items()}


def test_nothing_of_deploying_is_in_an_image(tmp_path: Path) -> None:
    for service in PROFILES:
        assert not [path for path in _code_of(service, tmp_path) if path.startswith("containers")]


def test_imports_within_functions_count_and_those_for_type_checkers_do_not(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\ndef f():\n    import c\n"
    )
    (tmp_path / "b.py").write_text("")
    (tmp_path / "c.py").write_text("from d import e")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/__init__.py").write_text("from .e import f")
    (tmp_path / "d/e.py").write_text("import a")
    assert list(modules.closure(["a"], modules.beside(tmp_path))) == ["a", "c", "d", "d.e"]


def test_modules_beside_the_pipeline_file_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "press.py").write_text("import limits\nfrom connectors import mqtt")
    (tmp_path / "limits.py").write_text("HIGH = 4")
    (tmp_path / "unrelated.py").write_text("")
    files, imported = images.user_modules(f"{tmp_path}/press.py:press")
    assert files == {"press.py": b"import limits\nfrom connectors import mqtt", "limits.py": b"HIGH = 4"}
    assert "connectors.mqtt" in imported


def test_our_own_packages_are_never_taken_from_beside_the_pipeline_file(tmp_path: Path) -> None:
    (tmp_path / "press.py").write_text("import pipelines")
    (tmp_path / "pipelines.py").write_text("")
    assert list(images.user_modules(str(tmp_path / "press.py"))[0]) == ["press.py"]


def test_a_pipeline_file_that_is_not_there_or_not_python(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"press.py: there is no such pipeline file"):
        images.user_modules(str(tmp_path / "press.py"))
    (tmp_path / "press.py").write_text("a = 1\nb = = 2\n")
    with pytest.raises(ConfigError, match=r"press.py:2: invalid syntax"):
        images.user_modules(str(tmp_path / "press.py"))


def test_an_entry_that_is_missing_is_an_incomplete_installation() -> None:
    with pytest.raises(
        ConfigError, match=r"module connectors.teleport does not exist: this installation is not complete"
    ):
        modules.closure(["connectors.teleport"], modules.ours)


def test_a_command_loads_nothing_that_computes() -> None:
    loaded = "import containers.cli, sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "pipelines.task"} & set(said)
