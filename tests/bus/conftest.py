"""One broker with mTLS for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containers.certs import Authority
from containers.embedded import EmbeddedKafka, Tls
from pipelines.clock import SystemClock
from tests.bed.engine import HOST_IN_CONTAINERS
from tests.bus.fleet import ADMINS, Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet, whose broker is reached at `.kafka.tls_bootstrap`."""
    folder = tmp_path_factory.mktemp("fleet")
    authority = Authority(folder, SystemClock())
    authority.init()
    authority.issue("broker", ["127.0.0.1", HOST_IN_CONTAINERS])
    tls = Tls(folder / "ca.pem", folder / "broker.pem", tuple(ADMINS))
    with EmbeddedKafka(folder / "kafka", tls=tls, advertise=HOST_IN_CONTAINERS) as broker:
        yield Fleet(authority, broker)


@pytest.fixture
def plain(kafka: EmbeddedKafka) -> str:
    """A broker that asks nobody who they are."""
    return kafka.bootstrap
