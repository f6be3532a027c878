"""One site for the whole folder, and beside it one container with too many rights: there every probe must say that it may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from tests.bed.engine import Engine
from tests.privilege.site import LeastSite, deployed, loose


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[LeastSite]:
    """A site with everything deployed."""
    with deployed(tmp_path_factory.mktemp("least"), engine) as site:
        yield site


@pytest.fixture(scope="session")
def too_free(site: LeastSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container in which nothing is confined."""
    with loose(site, tmp_path_factory.mktemp("loose")) as container:
        yield container
