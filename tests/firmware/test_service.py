"""The service with a real Kafka, a real Mosquitto, a real web server, and devices that lose power."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from containers.embedded import EmbeddedKafka
from tests.bed.mosquitto import Mosquitto
from tests.firmware.device import STEPS, Device, living
from tests.firmware.plant import IMAGE, Site, Web, publish, shelf_in


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Serves the repository."""
    server = Web(tmp_path / "repo")
    yield server
    server.close()


@pytest.fixture
def site(kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path, web: Web) -> Site:
    """A site of its own for each test."""
    return Site(unique, kafka.bootstrap, mosquitto.url, tmp_path, shelf_in(tmp_path), web)


def where(site: Site) -> tuple[str, int]:
    """Host and port of the MQTT broker."""
    url = urlsplit(site.mqtt)
    return str(url.hostname), url.port or 1883


async def test_devices_that_lose_power_at_each_step_all_commit(site: Site) -> None:
    path = publish(site.shelf, site.folder)
    site.campaign("c1", path, quota=20)
    devices = [Device(f"{site.name}-{i}", site.root, cut={step}) for i, step in enumerate(STEPS)]
    devices.append(Device(f"{site.name}-garbled", site.root, garble=5))
    async with site.service() as service, living(devices, *where(site)):
        await site.settled(lambda s: len(s) == len(devices) and set(s.values()) == {"COMMITTED"}, 40)
        assert not any(d.cut for d in devices)
        assert all(d.flash.slots[d.flash.active] == IMAGE for d in devices)
        service.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.wait(), 15) == 0
    assert "Traceback" not in site.log.read_text()
