"""All kinds of repositories are the same to those who use them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from containers.repository.layout import Folder, Tar
from containers.repository.registry import Registry
from tests.bed.registry import ImageRegistry
from tests.repository.conformance import Conformance, World


class TestRegistry(Conformance):
    @pytest.fixture
    def world(self, registry: ImageRegistry, unique: str) -> World:
        return World(lambda: Registry(f"{registry.address}/{unique}"), unique)


class TestFolder(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(lambda: nullcontext(Folder(tmp_path / "layout")), "plant")


class TestTar(Conformance):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(lambda: Tar(tmp_path / "release.tar"), "plant")
