"""Drift on a real engine: where no hand was there is none; each kind of change by hand is seen. Programs are stood in for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest

from containers import drift, rollout, show_plan
from containers.commands import FillVolume, RemoveContainer, StartContainer
from containers.deploy import Operator
from containers.deployer import Deployment
from containers.drift import Drift
from containers.engine import Engine
from containers.profiles import CONFIG_DIR
from containers.rollout import Record
from containers.walk import _write
from tests.bed import engine as bed
from tests.containers.kit import SITE, as_found, found, site_of, wanted

SLEEPS = 'ENTRYPOINT ["python3", "-c", "import time; time.sleep(900)"]'
IMAGE = "sitestream-test/sleeps:1"
SERVICES = ("upload", "control", "process", "collect")
REVISIONS = count(1)
BUS = "sitestream-hall1-bus"


class Hall:
    """A site whose containers only sleep."""

    def __init__(self, engine: bed.Engine, folder: Path) -> None:
        (folder / "store").mkdir()
        text = SITE.replace("file:///srv/parquet", f"file://{folder}/store") + "[hosts]\nkafka = '10.1.2.3'\n"
        text += "[services.collect.secrets]\nkey = 'env:PATH'\n"
        self.api: Any = engine.client.api
        asleep = self.api.create_container(engine.base_image, command="true")["Id"]
        self.api.commit(asleep, "sitestream-test/sleeps", "1", changes=SLEEPS)
        self.api.remove_container(asleep)
        self.engine = Engine(engine.url)
        self.wanted = {s: replace(d, tags=(IMAGE,)) for s, d in wanted(folder, text).items()}
        self.operator = Operator(site_of(folder, text)[0], self.engine, lambda text, bad=False: None)
        for command in self.operator._things_of(list(self.wanted.values())):
            self.engine.run(command)
        self.api.create_network("office", internal=True)

    def made(self, service: str, *, started: bool = True) -> str:
        """A new container of a service, as deploy makes it."""
        command = self.wanted[service].container(next(REVISIONS), "")
        self.engine.run(command)
        if started:
            self.engine.run(StartContainer(command.name))
        return command.name

    def again(self, name: str, service: str, change: Callable[[dict[str, Any]], None]) -> None:
        """A container is removed and made anew by hand, with the same labels and something else changed."""
        seen = self.api.inspect_container(name)
        first, *others = [BUS, *(n for n in seen["NetworkSettings"]["Networks"] if n != BUS)]
        body = {**seen["Config"], "HostConfig": seen["HostConfig"]}
        body["NetworkingConfig"] = {"EndpointsConfig": {first: {"Aliases": [service]}}}
        change(body)
        self.api.remove_container(name, force=True)
        self.api.create_container_from_config(body, name)
        for network in others:
            self.api.connect_container_to_network(name, network, aliases=[service])

    def update(self, name: str, **limits: Any) -> None:
        """`docker update`."""
        self.api._post_json(self.api._url("/containers/{0}/update", name), data=limits)

    def drift(self, name: str) -> list[str]:
        """What is seen of a container's drift."""
        seen = self.engine.container(name)
        assert seen is not None
        return [str(d) for d in seen.drift]


@pytest.fixture(scope="module")
def hall(engine: bed.Engine, tmp_path_factory: pytest.TempPathFactory) -> Hall:
    return Hall(engine, tmp_path_factory.mktemp("hall"))


@pytest.mark.parametrize("service", SERVICES)
def test_what_deploy_made_has_none_running_or_stopped_or_made_anew_just_so(hall: Hall, service: str) -> None:
    name = hall.made(service)
    seen = hall.engine.container(name)
    assert seen is not None
    want = hall.wanted[service]
    assert (seen.state, hall.operator._looked_into(seen, {(service, want.fingerprint): want.config_files}).drift) == (
        "running", (),
    )  # fmt: skip
    hall.api.kill(name)
    assert hall.drift(name) == []
    hall.again(name, service, lambda body: None)
    assert hall.drift(name) == []


GIB = 2**30
UPDATES: list[tuple[dict[str, Any], list[str]]] = [
    ({"Memory": GIB // 2, "MemorySwap": GIB // 2}, ["memory 2GiB → 512MiB", "memory with swap 2GiB → 512MiB"]),
    ({"MemorySwap": -1}, ["memory with swap 2GiB → unlimited"]),
    ({"NanoCpus": 500_000_000}, ["cpus 1 → 0.5"]),
    ({"PidsLimit": 999}, ["process limit 128 → 999"]),
    ({"CpuShares": 512}, ["cpu shares none → 512"]),
    ({"RestartPolicy": {"Name": "no"}}, ["restart policy unless-stopped → no"]),
]


@pytest.mark.parametrize(("limits", "seen"), UPDATES, ids=[",".join(u) for u, _ in UPDATES])
def test_docker_update(hall: Hall, limits: dict[str, Any], seen: list[str]) -> None:
    name = hall.made("process", started=False)
    hall.update(name, **limits)
    assert hall.drift(name) == seen


def test_networks_joined_and_left(hall: Hall) -> None:
    name = hall.made("process", started=False)
    hall.api.connect_container_to_network(name, "office")
    assert hall.drift(name) == ["network office added"]
    hall.api.disconnect_container_from_network(name, BUS)
    assert hall.drift(name) == ["network office added", f"network {BUS} missing"]
    hall.api.disconnect_container_from_network(name, "office")
    hall.api.connect_container_to_network(name, BUS)
    assert hall.drift(name) == []


def _host(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["HostConfig"].update(changes)


def _plain(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


MOUNT = {"Type": "volume", "Source": "sitestream-hall1-upload-data", "Target": "/peek", "ReadOnly": True}
ANEW = [
    (_host(CapAdd=["NET_ADMIN"]), ["added capabilities none → NET_ADMIN"]),
    (_host(CapDrop=["MKNOD"]), ["dropped capabilities ALL → MKNOD"]),
    (_host(SecurityOpt=["seccomp=unconfined"]), ["security options no-new-privileges → seccomp=unconfined"]),
    (_host(ReadonlyRootfs=False), ["read-only root True → none"]),
    (
        _host(PidMode="host"),  # the engine then turns labels off
        ["security options no-new-privileges → label=disable, no-new-privileges", "process namespace none → host"],
    ),
    (_host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]), None),
    (lambda body: body["HostConfig"]["Mounts"].append(MOUNT), [f"mount {MOUNT['Source']}:/peek:ro added"]),
    (_host(Binds=["/etc:/peek:ro"]), ["binds none → /etc:/peek:ro", "mount /etc:/peek:ro added"]),
    (lambda body: body["HostConfig"]["Mounts"].clear(), None),
    (lambda body: body["HostConfig"]["Mounts"][0].update(ReadOnly=False), None),
    (_plain(User="0:0"), ["user 65532:65532 → 0:0"]),
    (_plain(Env=["TOKEN=hidden"]), ["environment none → TOKEN"]),
    (_plain(Entrypoint=["sleep", "9"]), ["entry point python3, -c, import time; time.sleep(900) → sleep, 9"]),
    (_plain(Healthcheck={"Test": ["NONE"]}), None),
    (_host(Ulimits=[]), None),
]
SHOWN = {
    5: "devices none → ",
    8: "mount sitestream-hall1-process-config-",
    9: "mount sitestream-hall1-process-config-",
    13: "health check ",
    14: "ulimits {",
}


@pytest.mark.parametrize("number", range(len(ANEW)))
def test_made_anew_by_hand(hall: Hall, number: int) -> None:
    change, shown = ANEW[number]
    name = hall.made("process", started=False)
    hall.again(name, "process", change)
    seen = hall.drift(name)
    assert seen == shown if shown else SHOWN[number] in ", ".join(seen), seen
    assert "hidden" not in repr(hall.engine.container(name).drift)  # type: ignore[union-attr]


def test_another_image(hall: Hall, engine: bed.Engine) -> None:
    name = hall.made("process", started=False)
    hall.again(name, "process", _plain(Image=engine.base_image))
    (seen,) = hall.drift(name)
    assert seen.startswith("image ")


def test_files_of_the_configuration(hall: Hall) -> None:
    want, name = hall.wanted["collect"], hall.made("collect")
    files, there = want.config_files, hall.engine.files(name, CONFIG_DIR)
    assert drift.in_files("collect", files, there) == ()
    settings, secret = files
    altered = (replace(settings, content=b"{}"), replace(secret, mode=0o444))
    hall.engine.run(FillVolume(want.config_volume, IMAGE, altered))
    seen = drift.in_files("collect", files, hall.engine.files(name, CONFIG_DIR))
    assert [str(d) for d in seen] == ["file settings.json altered", "file secrets/key with other rights"]
    assert [str(d) for d in drift.in_files("collect", files, {})] == [
        "file settings.json missing",
        "file secrets/key missing",
    ]
    for command in hall.operator._things_of([want]):  # as the deploy that mends does
        hall.engine.run(command)
    assert drift.in_files("collect", files, hall.engine.files(name, CONFIG_DIR)) == ()


def test_plan_shows_drift_of_those_alone_who_have_it(hall: Hall) -> None:
    ours = {service: hall.made(service) for service in SERVICES}
    hall.engine.run(_write("hall1", Record(99, ours, "2026-01-01T00:00:00+00:00")))
    hall.update(ours["process"], Memory=GIB, MemorySwap=GIB)
    hall.api.connect_container_to_network(ours["process"], "office")
    hall.engine.run(RemoveContainer(ours["control"]))
    todo = Deployment(tuple(hall.wanted.values()), hall.operator.as_it_is(list(hall.wanted.values())))
    text = click.unstyle(show_plan.text("hall1", todo)).splitlines()
    assert "+ control   drift: its container was removed" in text
    assert "~ process   drift: memory 2GiB → 1GiB, memory with swap 2GiB → 1GiB, network office added" in text
    assert {line[:9] for line in text if line.startswith("=")} == {"= upload ", "= collect"}
    (facts,) = (s for s in show_plan.value("hall1", todo)["services"] if s["service"] == "process")  # type: ignore[attr-defined]
    assert facts["drift"][2] == {"what": "network office", "is": "added", "should": ""}


# decided


def test_an_engine_that_cannot_limit_is_no_drift() -> None:
    """The kernel of a small machine may know no swap accounting: the engine drops the limit and says so of itself."""
    config = {"HostConfig": {"Memory": 5, "MemorySwap": 5, "PidsLimit": 128, "NetworkMode": "bus"}, "Labels": {}}
    image = {"Id": "sha256:1", "Config": {"Env": ["PATH=/bin"]}}
    networks: dict[str, Any] = {"Networks": {"bus": {}}}

    def seen(engine: dict[str, bool], **host: int) -> list[str]:
        label = drift.request(config, ["bus"], image, engine)
        facts = {
            "Image": "sha256:1", "Config": {"Labels": label, "Env": ["PATH=/bin"]}, "NetworkSettings": networks, "Mounts": [],
            "HostConfig": {**config["HostConfig"], **host},
        }  # fmt: skip
        return [str(d) for d in drift.found("process", facts)]

    assert seen({}) == []
    assert seen({"SwapLimit": False}, MemorySwap=-1) == []
    assert seen({"MemoryLimit": False}, Memory=0, MemorySwap=-1) == []
    assert seen({"PidsLimit": False}, PidsLimit=0) == []
    assert seen({}, MemorySwap=-1) == ["memory with swap 5B → unlimited"]


def test_of_a_container_that_does_not_say_what_it_was_nothing_is_known() -> None:
    assert drift.found("process", {"Config": {"Labels": {}}}) == ()


def test_it_is_replaced_only_if_it_is_not_replaced_anyway(tmp_path: Path) -> None:
    hand = (Drift("process", "memory", "1GiB", "2GiB"),)
    want = wanted(tmp_path)["process"]
    (change,) = rollout.changes([want], {"process": as_found(want, drift=hand)})
    assert (change.mark, change.why, change.drift) == ("~", ("drift: memory 2GiB → 1GiB",), hand)
    (change,) = rollout.changes([want], {"process": found(drift=hand)})
    assert (change.mark, change.drift) == ("~", ())
    assert rollout.changes([want], {})[0].why == ("new",)
