"""A repository, who serves it, and sites that believe it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.firmware.mirror import Mirror
from containers.embedded import EmbeddedKafka
from containers.firmware.shelf import Shelf
from tests.bed.mosquitto import Mosquitto
from tests.firmware.plant import Site, Web, plan, publish, root_of, shelf_in


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """With an image 2.0 and a campaign."""
    made = shelf_in(tmp_path)
    publish(made, tmp_path)
    plan(made)
    return made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Serves the repository, once there is one."""
    server = Web(tmp_path / "repo")
    yield server
    server.close()


@pytest.fixture
def mirror(tmp_path: Path, shelf: Shelf, web: Web) -> Mirror:
    """Of a site that trusts the first root."""
    return Mirror(web.url, root_of(tmp_path), tmp_path / "site", 10 * 2**20)


@pytest.fixture
def site(kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, web: Web) -> Site:
    """A site of its own for each test, with a repository in which nothing lies."""
    return Site(unique, kafka.bootstrap, mosquitto.url, tmp_path, shelf_in(tmp_path), web)
