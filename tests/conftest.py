"""Fixtures that hand out real parts: each is started at its first use, once a session, on a free port.

A test that breaks a part for good starts its own, e.g. `EmbeddedKafka(tmp_path).start()`; one that stops a shared part
must start it again. A part that is not installed is an error that names the cure.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from containers.embedded import EmbeddedKafka
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.mosquitto import Mosquitto
from tests.bed.namespace import own_network
from tests.bed.opcua import OpcuaServer
from tests.bed.prometheus import Prometheus
from tests.bed.registry import ImageRegistry
from tests.bed.s3 import S3
from tests.bed.schema_registry import SchemaRegistry

# Folders whose tests use Docker engines. The longest come first, so that processes side by side end together.
_WITH_ENGINES = ("containers", "broker", "agent", "fleet", "bus", "privilege", "firmware", "repository")


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types for it
    """Processes side by side (`-n 2`) take folders where tests use an engine, and modules elsewhere: what they share is then
    set up once.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder = path.split("/")[1]
        return folder if folder in _WITH_ENGINES else path


def pytest_configure(config: pytest.Config) -> None:
    """Processes side by side have networks of their own: ports, and the firewall, which engines would take from each other."""
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        network = ExitStack()
        network.enter_context(own_network())
        config.add_cleanup(network.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first."""
    last = len(_WITH_ENGINES)
    ranks = {folder: rank for rank, folder in enumerate(_WITH_ENGINES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.split("/")[1], last))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SideBySide:
    return SideBySide(config, log)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A short name that no other test and no earlier run has: for topics, groups, buckets' prefixes and containers."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{test[:24].rstrip('-')}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A Kafka broker: `.bootstrap` from here, `.advertised_bootstrap` from containers (see `Engine.hosts`)."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), advertise=HOST_IN_CONTAINERS) as broker:
        yield broker


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A Mosquitto broker: `.url`, `.stop()`, `.start()`, `.kill()`."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="session")
def opcua_server() -> Iterator[OpcuaServer]:
    """An OPC UA server, with and without security: `.url`, `.variable(path)`, `.write(path, value)`, `.forget()`."""
    with OpcuaServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server: `.endpoint`, `.access_key`, `.secret_key`, `.region`, `.bucket`, `.store()`, `.stop()`, `.start()`."""
    with S3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine: `.url`, `.client`, `.base_image`, `.network(name)`, `.hosts(network)`."""
    with Engine() as running:
        yield running


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    """An image registry without TLS and passwords, also for engines here: `.address`, `.folder`, `.stop()`, `.start()`."""
    with ImageRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def schema_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SchemaRegistry]:
    """A schema registry: `.url`, `.register(subject, schema)`. It keeps nothing when it is stopped."""
    with SchemaRegistry(tmp_path_factory.mktemp("schema-registry")) as server:
        yield server


@pytest.fixture
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Prometheus]]:
    """A factory: `prometheus(targets, rules=())` starts a Prometheus that scrapes `targets` every second."""
    with ExitStack() as running:

        def start(targets: Sequence[str], rules: Sequence[Path] = ()) -> Prometheus:
            return running.enter_context(Prometheus(tmp_path_factory.mktemp("prometheus"), targets, rules))

        yield start
