"""One broker with mTLS for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containers.embedded import EmbeddedKafka
from tests.bus.fleet import Fleet, running


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """See `running`."""
    with running(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture
def plain(kafka: EmbeddedKafka) -> str:
    """A broker that asks nobody who they are."""
    return kafka.bootstrap
