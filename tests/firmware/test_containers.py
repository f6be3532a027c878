"""A campaign end to end: the service in its own container, led by the command line, 200 devices over MQTT."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from docker.models.containers import Container

from connectors.firmware.campaign import Campaign
from containers.cli import main
from containers.embedded import EmbeddedKafka
from containers.firmware import drive
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bed.mosquitto import Mosquitto
from tests.firmware.device import STEPS, Device, living
from tests.firmware.plant import IMAGE, Web

pytestmark = pytest.mark.timeout(400)
DEVICES = 200
SITE = """\
site = "{name}"
pipeline = "tiny.py"
brokers = "{brokers}"
partitions = 1
engine = "{engine}"
base_image = "{base}"
[kafka]
admin = "{admin}"
[hosts]
"{host}" = "gateway"
[firmware]
repository = "http://{host}:{web}"
mqtt = "mqtt://{host}:{mqtt}"
refresh = "1s"
jitter = "0s"
"""
PIPELINE = """\
from connectors import mqtt
from pipelines import Col, Key, Pipeline, Schema

class Reading(Schema):
    device = Key[str]()
    value = Col[float]()

tiny = Pipeline("tiny")
tiny.read(mqtt.source(Reading, broker="mqtt://{host}:{mqtt}", topic="tiny/{{device}}/v"))
"""


class Plant:
    """A folder with a site, a firmware repository and its keys, and the site on an engine."""

    def __init__(self, folder: Path, engine: Engine, kafka: EmbeddedKafka, mosquitto: Mosquitto, web: Web) -> None:
        self.folder, self.engine, self.mosquitto = folder, engine, mosquitto
        self.name = f"fw{abs(hash(folder)) % 10**6}"
        settings = {
            "name": self.name, "brokers": kafka.advertised_bootstrap, "admin": kafka.bootstrap,
            "engine": engine.url, "base": engine.base_image,
            "host": HOST_IN_CONTAINERS, "web": web.port, "mqtt": mosquitto.port,
        }  # fmt: skip
        (folder / "site.toml").write_text(SITE.format(**settings))
        (folder / "tiny.py").write_text(PIPELINE.format(**settings))
        (folder / "press.bin").write_bytes(IMAGE[: 100 * 1024])

    def run(self, *words: str) -> tuple[int, str]:
        """Exit code and all that `pipeline words…` says."""
        said = CliRunner().invoke(main, [*words, "--site", str(self.folder / "site.toml")])
        return said.exit_code, said.output

    def firmware(self, *words: str) -> str:
        """What `pipeline firmware words…` says, if it goes well."""
        where = ("--repository", str(self.folder / "firmware"), "--keys", str(self.folder / "firmware-keys"))
        code, said = self.run("firmware", *words, *where)
        assert code == 0, said
        return said

    @property
    def container(self) -> Container:
        """The service's."""
        (found,) = self.engine.client.containers.list(filters={"name": f"sitestream-{self.name}-firmware-"})
        return found

    def inside(self, program: str) -> str:
        """What a Python program prints there."""
        output: Any = self.container.exec_run(["python3", "-c", program]).output
        return str(output.decode())


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, kafka: EmbeddedKafka, mosquitto: Mosquitto
) -> Iterator[Plant]:
    """A site where firmware runs."""
    folder = tmp_path_factory.mktemp("firmware")
    web = Web(folder / "firmware")
    made = Plant(folder, engine, kafka, mosquitto, web)
    made.firmware("keys", "init")
    made.firmware("keys", "add-model", "m")
    made.firmware(
        "publish", str(folder / "press.bin"), "--model", "m", "--version", "2.0", "--hardware", "A",
        "--security-version", "1",
    )  # fmt: skip
    code, said = made.run("deploy")
    assert code == 0, said
    yield made
    made.run("destroy", "-y")
    web.close()


async def test_two_hundred_devices_are_updated_stage_by_stage(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "POLL_S", 0.3)
    root = (plant.folder / "firmware/metadata/1.root.json").read_bytes()
    devices = [
        Device(f"{plant.name}-{i}", root, cut={STEPS[i % len(STEPS)]} if i % 4 == 0 else set()) for i in range(DEVICES)
    ]
    sketch = Campaign(id="m-2-0", model="m", path="m/2.0/press.bin", version="2.0", begun_s=0, stages=(100, 1000), stage=1,
                      quotas={plant.name: 1})  # fmt: skip
    late = [d for d in devices if not sketch.includes(plant.name, d.name)]
    late[0].kind = late[1].kind = "weak"
    async with living(devices, "127.0.0.1", plant.mosquitto.port):
        begin = (
            "campaign", "start", "--model", "m", "--version", "2.0", "--canary", "0", "--stages", "10%,100%", "--soak", "1s",
            "--at-risk-max", "25%",
        )  # fmt: skip
        said = await asyncio.to_thread(plant.firmware, *begin)
        assert "stage 2 of 2" in said
        stands = json.loads(await asyncio.to_thread(plant.firmware, "status", "-o", "json"))
    assert stands["counts"] == {"COMMITTED": DEVICES - 2, "ROLLED_BACK": 2}
    assert Counter(d.flash.versions[d.flash.active][0] for d in devices) == {"2.0": DEVICES - 2, "1.0": 2}
    assert {e["device"] for e in stands["devices"] if e["state"] == "ROLLED_BACK"} == {late[0].name, late[1].name}


def test_its_container_has_no_shell_no_key_no_pipeline_and_no_numpy(plant: Plant) -> None:
    seen = plant.inside(
        "import os, pathlib\n"
        "files = [str(p) for top in ('/bin', '/usr', '/opt', '/run', '/etc') for p in pathlib.Path(top).rglob('*')]\n"
        "print([f for f in files if f.rsplit('/', 1)[-1] in ('sh', 'bash', 'dash', 'busybox')])\n"
        "print([f for f in files if f.endswith('.key') or 'containers/' in f or '/numpy' in f or '/control/' in f or "
        "'sitestream/pipeline' in f])\n"
    )
    assert seen.splitlines() == ["[]", "[]"]
    for folder in ("/run/sitestream", "/opt", "/"):
        assert "Read-only" in plant.inside(f"try:\n open('{folder}/x', 'w')\nexcept OSError as e:\n print(e.strerror)")
    config = plant.container.attrs["HostConfig"]
    assert config["CapDrop"] == ["ALL"]
    assert not config["Privileged"]
    assert not config["Devices"]
    assert re.search(r"NoNewPrivs:\s*1", plant.inside("print(open('/proc/self/status').read())"))
