"""The published port on a real engine: devices come in by it, and nobody gets an address of the machine's to go out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containers import drift
from containers.child import free_port
from containers.commands import CreateContainer, CreateNetwork, StartContainer
from containers.engine import Engine as Connected
from containers.names import SITE
from containers.profiles import INGRESS, INTERNAL, PROFILES, Limits, Port, container_config
from tests.bed import wait_until
from tests.bed.engine import Engine
from tests.bed.firewall import rules
from tests.bed.parts import find_part
from tests.privilege.parts import Machine

INSIDE = 9470
ASK = "import urllib.request as u, sys; print(u.urlopen(sys.argv[1], timeout=3).status)"


@dataclass
class Plant:
    """A container that listens, published; and a machine elsewhere."""

    engine: Engine
    outside: Machine
    here: str  # this machine's address, as the other sees it
    port: int
    web: int
    log: Path

    def from_outside(self, port: int) -> str:
        words = [find_part("nsenter"), f"--net=/run/netns/{self.outside.name}", "--", sys.executable, "-c", ASK]
        done = subprocess.run([*words, f"http://{self.here}:{port}/"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def from_inside(self) -> str:
        url = f"http://{self.outside.address}:{self.web}/"
        output: Any = self.engine.client.containers.get("listens").exec_run(["python3", "-c", ASK, url]).output
        return str(output.decode().strip().splitlines()[-1])


@pytest.fixture(scope="module")
def plant(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder, number, port = tmp_path_factory.mktemp("listen"), free_port() % 250, Port("0.0.0.0", free_port(), INSIDE)
    connected, labels = Connected(engine.url), {SITE: "listens"}
    networks = ("sitestream-listens-bus", "sitestream-listens-ingress")
    for role, name in zip(("bus", INGRESS), networks, strict=True):
        connected.run(CreateNetwork(name, INTERNAL[role], labels, masquerade=role != INGRESS))
    config = container_config(
        PROFILES["collect"], engine.base_image, networks=networks, hosts={}, mounts=[], limits=Limits(2**27, 1), labels=labels,
        port=port,
    )  # fmt: skip
    config |= {"Entrypoint": ["python3", "-m", "http.server", str(INSIDE), "--directory", "/tmp"]}
    connected.run(CreateContainer("listens", config, networks[1:]))
    connected.run(StartContainer("listens"))
    with Machine("out", f"198.17.{number}.2", f"198.17.{number}.1") as outside:
        web = free_port()
        server = outside.serve(web, folder, folder / "web.log")
        yield Plant(engine, outside, f"198.17.{number}.1", port.outside, web, folder / "web.log")
        server.stop()
    engine.client.containers.get("listens").remove(force=True)
    connected.close()


def test_devices_come_in_by_the_published_port_and_by_no_other(plant: Plant) -> None:
    wait_until(lambda: plant.from_outside(plant.port) == "200", 20, "the container to listen")
    assert "200" not in plant.from_outside(INSIDE)
    found = drift.found("collect", plant.engine.client.containers.get("listens").attrs)
    assert [d.what for d in found] == ["entry point"]  # which is this test's


def test_who_goes_out_has_no_address_of_the_machines_and_the_rule_in_the_docs_ends_it(plant: Plant) -> None:
    container = plant.engine.client.containers.get("listens")
    own = container.attrs["NetworkSettings"]["Networks"]["sitestream-listens-ingress"]["IPAddress"]
    assert plant.from_inside() == "200"  # the other machine's way back leads over this one
    assert own in plant.log.read_text()
    subnet = plant.engine.client.networks.get("sitestream-listens-ingress").attrs["IPAM"]["Config"][0]["Subnet"]
    rule = ["DOCKER-USER", "-s", subnet, "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]
    with rules(rule):
        assert "timed out" in plant.from_inside()
        assert plant.from_outside(plant.port) == "200"
