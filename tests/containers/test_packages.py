"""The packages of the images: exactly what is installed here, for the Python of the base image."""

from __future__ import annotations

import importlib.metadata
import io
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from containers import packages
from containers.packages import Python
from pipelines.errors import ConfigError, Unavailable

PYTHON = Python((3, 11), "x86_64", "2.36")


def test_pins_are_the_versions_installed_here_with_all_that_they_need() -> None:
    pins = packages.pins(PYTHON)
    for name in ("aiokafka", "msgspec", "numpy", "prometheus-client", "pyarrow"):
        assert f"{name}=={importlib.metadata.version(name)}" in pins
    assert [p for p in pins if p.startswith("packaging==")]  # needed by aiokafka
    assert not [p for p in pins if p.startswith(("pytest", "docker", "obstore", "faust"))]


def test_an_extra_adds_its_packages() -> None:
    more = set(packages.pins(PYTHON, ("upload",))) - set(packages.pins(PYTHON))
    assert more == {f"obstore=={importlib.metadata.version('obstore')}"}


def test_every_extra_of_a_profile_exists() -> None:
    assert {"upload", "control"} <= packages.extras()


def test_requirements_follow_the_python_of_the_image() -> None:
    old, new = Python((3, 11), "x86_64", "2.36"), Python((3, 14), "x86_64", "2.36")
    assert old.markers["python_version"] == "3.11"
    assert new.markers["python_version"] == "3.14"
    assert new.markers["sys_platform"] == "linux"


def test_a_package_that_is_not_installed_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    packages.pins.cache_clear()
    with pytest.raises(ConfigError, match=r"not installed here, and images carry the versions that are: pip install "):
        packages.pins(PYTHON)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (Python((3, 9), "x86_64", "2.36"), r"base image old has Python 3.9, and 3.11 or newer is needed"),
        (Python((3, 12), "x86_64", ""), r"base image old has no glibc \(Alpine has musl\).*python:3.12-slim"),
    ],
)
def test_a_base_image_that_cannot_do_is_refused(python: Python, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        python.check("old")


def test_platform_tags_go_down_from_the_base_images_glibc() -> None:
    tags = Python((3, 11), "aarch64", "2.31").platforms
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux2014_aarch64" in tags
    assert "manylinux_2_32_aarch64" not in tags


def test_packages_are_installed_once_and_trimmed(tmp_path: Path) -> None:
    pin = f"msgspec=={importlib.metadata.version('msgspec')}"
    folder = packages.installed([pin], PYTHON, "/lib", tmp_path)
    assert (folder / "msgspec/__init__.py").is_file()
    assert not list(folder.rglob("*.pyi"))
    (folder / "mark").touch()
    assert packages.installed([pin], PYTHON, "/lib", tmp_path) == folder
    assert (folder / "mark").exists()  # it was not made again
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]  # and nothing is left behind


def test_packages_for_another_processor_are_those_made_for_it(tmp_path: Path) -> None:
    pin = f"msgspec=={importlib.metadata.version('msgspec')}"
    folder = packages.installed([pin], Python((3, 11), "aarch64", "2.36"), "/lib", tmp_path)
    (module,) = folder.glob("msgspec/_core*.so")
    assert ELFFile(io.BytesIO(module.read_bytes())).get_machine_arch() == "AArch64"
    assert list(folder.glob("msgspec/__pycache__/*.pyc"))


def _pip_says(monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    """Have pip fail with a message: these faults cannot be had from a working package index."""
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)


def test_a_package_without_a_wheel_for_the_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pip_says(monkeypatch, "ERROR: Could not find a version\nERROR: No matching distribution found for numpy==2.0")
    with pytest.raises(ConfigError, match=r"no wheel for Python 3.11 on x86_64: .*"):
        packages.installed(["numpy==2.0"], PYTHON, "/lib", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_package_index_that_is_not_there_is_no_fault_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip_says(monkeypatch, "WARNING: Connection broken\nERROR: No matching distribution found for numpy==2.0")
    with pytest.raises(Unavailable, match=r"pip could not fetch the packages of the images"):
        packages.installed(["numpy==2.0"], PYTHON, "/lib", tmp_path)


def test_without_pip_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pip_says(monkeypatch, f"{sys.executable}: No module named pip")
    with pytest.raises(ConfigError, match=r"python -m ensurepip"):
        packages.installed(["numpy==2.0"], PYTHON, "/lib", tmp_path)
