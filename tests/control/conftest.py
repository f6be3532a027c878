"""What tests of the whole service share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from containers.embedded import EmbeddedKafka
from tests.bed.mosquitto import Mosquitto
from tests.bed.opcua import OpcuaServer
from tests.control.plant import MakeSite, Site
from tests.control.test_devices import Drive
from tests.control.test_opcua import Mixer


@pytest.fixture
def make_site(kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path) -> MakeSite:
    """Makes a site of the test's own; see `Site` for what may be said of it."""
    return partial(Site, unique, kafka.bootstrap, mosquitto.url, tmp_path)


@pytest.fixture
def drive() -> Drive:
    return Drive()


@pytest.fixture
def mixer(opcua_server: OpcuaServer, unique: str) -> Mixer:
    return Mixer(opcua_server, unique, "m1")
