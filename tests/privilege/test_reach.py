"""Whom each service reaches over the network: tried from within, at servers that are there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from docker.models.containers import Container

from containers import names
from containers.profiles import METRICS_PORT
from tests.bed.firewall import rules
from tests.privilege.site import NAME, SERVICES, LeastSite, Verdict, attempt

REACHES = {  # "this machine" and the last two of `upload` are the site's to close, by the rules of the documentation
    "collect": {"Kafka", "the device broker", "collect on ot", "collect on bus", "this machine"},
    "process": {"Kafka", "collect on bus", "this machine"},
    "upload": {
        "Kafka", "the store", "the world", "collect on bus", "this machine", "a device that this machine reaches",
        "the cloud's metadata",
    },
    "control": {"Kafka", "the device broker", "collect on ot", "collect on bus", "this machine"},
    "firmware": {
        "Kafka", "the device broker", "the store", "the world", "collect on ot", "collect on bus", "this machine",
        "a device that this machine reaches", "the cloud's metadata",
    },
}  # fmt: skip
TARGETS = (
    "Kafka", "Kafka without a certificate", "the store", "the world", "the device broker", "a device that this machine reaches",
    "the cloud's metadata", "collect on ot", "collect on bus", "this machine",
)  # fmt: skip
Targets = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def targets(site: LeastSite) -> Iterator[Targets]:
    """Where each of them is."""
    gateway = site.gateway("bus")
    with socket.create_server(("", 0), backlog=64) as other:  # a program of the site's machine, on all its addresses
        yield {
            "Kafka": (gateway, site.kafka.advertise_port),
            "Kafka without a certificate": (gateway, site.kafka.port),
            "the store": (site.world.address, site.s3.port),
            "the world": (site.world.address, site.web_port),
            "the device broker": (site.edge.address, site.mosquitto.port),
            "a device that this machine reaches": (site.lan.address, site.web_port),
            "the cloud's metadata": (site.metadata, site.web_port),
            "collect on ot": (site.address("collect", "ot"), METRICS_PORT),
            "collect on bus": (site.address("collect", "bus"), METRICS_PORT),
            "this machine": (gateway, other.getsockname()[1]),
        }


def reach(container: Container, targets: Targets) -> dict[str, Verdict]:
    """Try all at once."""
    return attempt(container, {name: ["connect", *where] for name, where in targets.items()}, "try at once")


@pytest.fixture(scope="module")
def reached(site: LeastSite, targets: Targets) -> Callable[[str], dict[str, Verdict]]:
    """What a service reaches, tried once."""
    return cache(lambda service: reach(site.container(service), targets))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("service", SERVICES)
def test_it_reaches_what_it_needs_and_no_more(
    reached: Callable[[str], dict[str, Verdict]], service: str, target: str
) -> None:
    found, said = reached(service)[target]
    assert found is (target in REACHES[service]), said


def test_all_of_them_are_reached_from_all_networks(too_free: Container, targets: Targets) -> None:
    found = {target for target, (yes, _) in reach(too_free, targets).items() if yes}
    assert found == set(targets) - {"Kafka without a certificate"}  # which listens on the machine's loopback alone


def test_the_rules_of_the_documentation_close_the_rest(site: LeastSite, targets: Targets) -> None:
    """docs/security.md: what bridges cannot keep apart, the machine's firewall can."""
    subnets = {role: _subnet(site, role) for role in ("ot", "bus", "wan")}
    kafka = str(site.kafka.advertise_port)
    closed = [
        ["INPUT", "-s", subnet, "-p", "tcp", "!", "--dport", kafka, "-j", "REJECT"] for subnet in subnets.values()
    ]
    for away in (f"{site.lan.address}/32", "169.254.0.0/16"):
        closed.append(["DOCKER-USER", "-s", subnets["wan"], "-d", away, "-j", "REJECT"])
    with rules(*closed):
        for service in SERVICES:
            still = reach(site.container(service), {target: targets[target] for target in REACHES[service]})
            assert {target for target, (yes, _) in still.items() if yes} == REACHES[service] - {
                "this machine", "a device that this machine reaches", "the cloud's metadata"
            }, service  # fmt: skip


def _subnet(site: LeastSite, role: str) -> str:
    network = site.engine.client.networks.get(names.network(NAME, role))
    return str(network.attrs["IPAM"]["Config"][0]["Subnet"])
