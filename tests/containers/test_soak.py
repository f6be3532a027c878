"""Versions that fail for real, each in its own way: the site goes back to the very containers that ran before, and soon.

Those that crash or hang at their start are in `test_deploy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from containers.embedded import EmbeddedKafka
from tests.bed.engine import Engine
from tests.bed.mosquitto import Mosquitto
from tests.bed.s3 import S3
from tests.containers.plant import STALLS, USES_NOTHING, Plant

pytestmark = pytest.mark.timeout(300)
BACK_S_MAX = 60


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka, mosquitto: Mosquitto, s3: S3
) -> Iterator[Plant]:
    """See `Plant.deployed`."""
    with Plant.deployed(tmp_path_factory.mktemp("plant"), engine, kafka, mosquitto, s3) as plant, readings(plant):
        yield plant


@contextmanager
def readings(plant: Plant) -> Iterator[None]:
    """Devices that send a reading each, five times a second."""
    client, stop = Client(CallbackAPIVersion.VERSION2), Event()
    client.connect("127.0.0.1", plant.mosquitto.port)
    client.loop_start()

    def send() -> None:
        while not stop.wait(0.2):
            for i in range(4):
                client.publish(f"tiny/d{i}/v", '{"value": 1}', qos=1)

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize(
    ("fault", "words", "message"),
    [
        (
            USES_NOTHING,
            ("--soak", "60s"),
            r"process: (\d+) of \1 records since (its start|the soak began) went to the dead-letter topic plant\d+\.dead "
            r"\(\d+ type\); 10% may, the version before had 0%",
        ),
        (STALLS, (), r"process stands still: none of \d+ records was taken for 15 s, and more came in"),
    ],
    ids=["dead-letters everything", "stalls"],
)  # fmt: skip
def test_a_version_that_fails_is_rolled_back(plant: Plant, fault: str, words: tuple[str, ...], message: str) -> None:
    before = plant.status()
    plant.write(first_lines=fault, log_level="WARNING")  # keeps its state
    code, err = plant.deploy(*words)
    assert code == 3, err
    is_back(plant, before, err, message)


def test_a_version_that_dies_in_its_soak_is_rolled_back(plant: Plant) -> None:
    before = plant.status()
    plant.write(log_level="WARNING")
    with plant.started("deploy", "--soak", "60s") as deploy:
        assert deploy.stderr is not None
        for line in deploy.stderr:
            if line.startswith("soak: all must stay well for 60 s"):
                plant.container("process").kill()
                break
        err = deploy.stderr.read()
        assert deploy.wait(60) == 3
    is_back(plant, before, err, r"process ended with code 137 in the soak, after \d s")


def is_back(plant: Plant, before: dict[str, Any], err: str, message: str) -> None:
    """Fails unless a deploy said why it failed, and all is as it was."""
    assert re.search(f"^{message}", err, re.MULTILINE), err
    assert re.search(r"^last 50 lines of sitestream-plant\d+-process-r\d+:", err, re.MULTILINE)
    back = re.search(r"^what ran before is back after (\d+\.\d) s", err, re.MULTILINE)
    assert back
    print(f"back after {back[1]} s")
    assert float(back[1]) < BACK_S_MAX
    after = plant.status()
    assert after["revision"] == before["revision"]
    assert not after["broken_off"]
    ids = {s["service"]: s["id"] for s in before["services"]}
    assert {s["service"]: s["id"] for s in after["services"]} == ids
    assert {s["state"] for s in after["services"]} == {"running"}
    plant.write()
    assert plant.run("plan", "--detailed-exitcode")[0] == 0


def test_after_all_that_a_good_version_passes_its_soak(plant: Plant) -> None:
    before = plant.status()["revision"]
    plant.write(log_level="DEBUG")
    code, err = plant.deploy("--soak", "2s")
    assert code == 0, err
    assert "soak: all must stay well for 2 s" in err
    assert plant.status()["revision"] == before + 1
    plant.readings_flow()
