"""What the kernel and the engine say of each running container. A check also runs on one with too many rights, and finds them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from docker.models.containers import Container

from containers import names
from containers.profiles import FILES_MAX, PIDS_MAX, UID
from pipelines.units import size_bytes
from tests.privilege.site import NAME, SERVICES, LeastSite, ask

Facts = dict[str, Any]
KEEPS = ("upload", "control", "firmware")
NETWORKS = {
    "collect": {"bus", "ot"}, "process": {"bus"}, "upload": {"bus", "wan"}, "control": {"bus", "ot"},
    "firmware": {"bus", "ot", "wan"},
}  # fmt: skip
DEVICES = [
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
]
OF_THE_KERNEL = {"overlay", "proc", "tmpfs", "devpts", "sysfs", "cgroup", "cgroup2", "mqueue"}
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def user(f: Facts, _: str) -> bool:
    ids = [f[of][kind].split() for of in ("first", "own") for kind in ("Uid", "Gid", "Groups")]
    return {i for found in ids for i in found} == {str(UID)}


def capabilities(f: Facts, _: str) -> bool:
    sets = [f[of][f"Cap{kind}"] for of in ("first", "own") for kind in ("Eff", "Prm", "Bnd", "Inh", "Amb")]
    return not any(int(found, 16) for found in sets)


def no_new_privileges(f: Facts, _: str) -> bool:
    return bool(f["first"]["NoNewPrivs"] == f["own"]["NoNewPrivs"] == "1")


def no_setuid_program(f: Facts, _: str) -> bool:
    return not f["setuid"]


def seccomp(f: Facts, _: str) -> bool:
    return bool(f["first"]["Seccomp"] == f["own"]["Seccomp"] == "2")  # a filter


def read_only_root(f: Facts, _: str) -> bool:
    return "ro" in f["mounts"]["/"][1].split(",")


def writable_folders(f: Facts, service: str) -> bool:
    """Of queues it may make none, and what is below its own folders is its own."""
    outside = {"/" + place.split("/")[1] for place in f["writable"] if place != "/dev/mqueue"}
    return outside == {"/tmp", *(["/data"] if service in KEEPS else [])}


def tmp(f: Facts, _: str) -> bool:
    kind, options = f["mounts"].get("/tmp", ["", ""])
    return kind == "tmpfs" and {"noexec", "nosuid", "nodev", "size=16384k"} <= set(options.split(","))


def mounts(f: Facts, service: str) -> bool:
    data = {"/data": True} if service in KEEPS else {}
    told = {m["Destination"]: m["RW"] for m in f["engine"]["Mounts"]}
    seen = {place for place, (kind, _) in f["mounts"].items() if kind not in OF_THE_KERNEL}
    files = {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}  # the engine's
    return told == {"/run/sitestream": False, **data} and seen == {"/run/sitestream", *files, *data}


def devices(f: Facts, _: str) -> bool:
    return f["devices"] == DEVICES and not f["engine"]["HostConfig"]["Devices"]


def memory(f: Facts, service: str) -> bool:
    wanted = size_bytes(SERVICES[service].memory)
    return int(_number(f, "memory")) == wanted and _number(f, "with swap") in ("0", str(wanted))


def _number(f: Facts, name: str) -> str:
    return str(f["cgroup"][name]).replace("max", "-1")


def processors(f: Facts, service: str) -> bool:
    return _number(f, "processors").split()[0] == str(int(SERVICES[service].cpus * 100_000))


def processes(f: Facts, _: str) -> bool:
    return bool(f["cgroup"]["processes"] == str(PIDS_MAX))


def open_files_and_core_dumps(f: Facts, _: str) -> bool:
    return bool(f["limits"] == {"core": 0, "files": FILES_MAX})


def logs(f: Facts, _: str) -> bool:
    return bool(f["engine"]["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"})


def own_namespaces(f: Facts, _: str) -> bool:
    own = f["namespaces"]
    return set(own) == set(NAMESPACES) and not set(own.values()) & set(f["other namespaces"])


def own_processes_only(f: Facts, _: str) -> bool:
    return len(f["processes"]) < 10 and f["processes"][0] == 1


def the_service_is_the_first_process(f: Facts, service: str) -> bool:
    """It needs no init: it starts no processes, so that there are none to be reaped."""
    return SERVICES[service].module in f["command"] and not f["zombies"]


def nothing_of_the_machine(f: Facts, _: str) -> bool:
    host = f["engine"]["HostConfig"]
    modes = [host[kind] for kind in ("PidMode", "UTSMode", "UsernsMode", "IpcMode", "CgroupnsMode")]
    opened = [
        host[door] for door in ("Privileged", "PortBindings", "CapAdd", "Binds", "PublishAllPorts", "VolumesFrom")
    ]
    return modes == ["", "", "", "none", "private"] and not any(opened) and "docker.sock" not in repr(f["engine"])


def networks(f: Facts, service: str) -> bool:
    wanted = {names.network(NAME, role) for role in NETWORKS[service]}
    interfaces = [i for i in f["interfaces"] if not i.startswith(("lo", "sit", "tunl", "ip6tnl", "gre", "erspan"))]
    return set(f["engine"]["NetworkSettings"]["Networks"]) == wanted and len(interfaces) == len(wanted)


def no_resolver_without_a_way_out(f: Facts, service: str) -> bool:
    return bool(f["engine"]["HostConfig"]["Dns"] == ([] if "wan" in NETWORKS[service] else ["127.0.0.1"]))


CHECKS: dict[str, Callable[[Facts, str], bool]] = {
    check.__name__: check
    for check in (
        user, capabilities, no_new_privileges, no_setuid_program, seccomp, read_only_root, writable_folders, tmp, mounts,
        devices, memory, processors, processes, open_files_and_core_dumps, logs, own_namespaces, own_processes_only,
        the_service_is_the_first_process, nothing_of_the_machine, networks, no_resolver_without_a_way_out,
    )
}  # fmt: skip


def known(container: Container, first: int) -> Facts:
    """What is known of a container, from within and from without."""
    return {**ask(container, {"say": first}), "engine": container.attrs}


@pytest.fixture(scope="module")
def facts(site: LeastSite) -> Callable[[str], Facts]:
    """What is known of a service."""
    machine = [os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES]

    @cache
    def alone(service: str) -> Facts:
        return known(site.container(service), 1)

    def among_others(service: str) -> Facts:
        others = [alone(s)["namespaces"].values() for s in SERVICES if s != service]
        return alone(service) | {"other namespaces": [*machine, *(n for found in others for n in found)]}

    return among_others


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_no_more_than_its_profile(facts: Callable[[str], Facts], service: str, check: str) -> None:
    found = facts(service)
    assert CHECKS[check](found, service), found


@pytest.fixture(scope="module")
def too_many(too_free: Container) -> Facts:
    """What is known of the container with too many rights."""
    machine = [os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES]
    return known(too_free, int(too_free.attrs["State"]["Pid"])) | {"other namespaces": machine}


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_finds_what_is_too_much(too_many: Facts, check: str) -> None:
    assert not CHECKS[check](too_many, "collect")


def test_only_the_network_of_the_uplink_leads_out(site: LeastSite) -> None:
    found = site.engine.client.networks.list(filters={"label": f"{names.SITE}={NAME}"})
    internal = {str(n.name).rpartition("-")[2]: n.attrs["Internal"] for n in found}
    assert internal == {"ot": True, "bus": True, "wan": False}
