"""What a service must not be able to do to its machine, its container and other services: tried in each, and refused.

The same acts are tried in a container that has too many rights, and allowed there: so each attempt is known to be a real one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from containers.profiles import FILES_MAX, PIDS_MAX, TMP_MIB_MAX
from pipelines.runtime.identity import KEY_FILE
from tests.privilege.site import SERVICES, SIGNING_KEY, LeastSite, Verdict, attempt, twin

NEW_MOUNTS, NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
INET, INET6, PACKET = 2, 10, 17

Acts = dict[str, list[Any]]
SETUID = "/run/sitestream/program-of-root"  # there is none in the image: the test puts it there
READ_ONLY = ("/", "/etc", "/opt", "/run", "/run/sitestream", "/dev", "/sys/fs/cgroup")
EVERYWHERE: Acts = {
    **{f"write in {folder}": ["write", folder] for folder in READ_ONLY},
    "make a message queue": ["write", "/dev/mqueue"],
    "write in shared memory": ["write", "/dev/shm"],
    "run a program it brought along": ["run_from", "/tmp"],
    "start a shell": ["shell"],
    "fill more than its /tmp": ["fill", "/tmp", TMP_MIB_MAX + 1],
    "give a file away": ["chown"],
    "make a device": ["mknod"],
    "mount": ["mount"],
    "make its root writable": ["remount_root"],
    "take another root": ["chroot"],
    "make a user namespace": ["unshare", NEW_USERS],
    "make a mount namespace": ["unshare", NEW_MOUNTS],
    "make a network namespace": ["unshare", NEW_NETWORK],
    "make a process namespace": ["unshare", NEW_PROCESSES],
    "enter a namespace": ["join_namespace", "/proc/self/ns/net"],
    "rename the machine": ["hostname"],
    "take precedence": ["nice"],
    "leave a core dump": ["dump"],
    "open too many files": ["files", FILES_MAX + 1],
    "become root": ["become_root"],
    "become root by a program": ["root_by_program", SETUID],
    "send raw IP": ["raw_socket", INET, 1],
    "send raw IPv6": ["raw_socket", INET6, 58],
    "send raw frames": ["raw_socket", PACKET, 3],
    "load a module": ["call", "init_module", 0, 0, 0],
    "load another kernel": ["call", "kexec_load", 0, 0, 0, 0],
    "load a BPF program": ["call", "bpf", 0, 0, 0],
    "watch the kernel's events": ["call", "perf_event_open", 0, 0, 0, 0, 0],
    "use the kernel's keys": ["call", "add_key", 0, 0, 0, 0, 0],
    "open files by their number": ["call", "open_by_handle_at", 0, 0, 0],
    "handle page faults": ["call", "userfaultfd", 0],
    "restart the machine": ["reboot"],
    "read the kernel's log": ["kernel_log"],
    "read the kernel's keys": ["read", "/proc/keys"],
    "read the kernel's timers": ["read", "/proc/timer_list"],
    "set what the kernel does with crashes": ["open_to_write", "/proc/sys/kernel/core_pattern"],
    "set what the kernel does": ["open_to_write", "/sys/module/*/parameters/*"],
    "make a control group": ["make_cgroup"],
    "leave its control group": ["open_to_write", "/sys/fs/cgroup/*/cgroup.procs"],
    "speak with the engine": ["docker_socket"],
}  # fmt: skip
IF_THE_KERNEL_HAS = {
    "/proc/kcore": {"read the machine's memory": ["read", "/proc/kcore"]},
    "/proc/sysrq-trigger": {"press the kernel's keys": ["open_to_write", "/proc/sysrq-trigger"]},
    "/sys/kernel/uevent_helper": {"be called by the kernel for a device": ["open_to_write", "/sys/kernel/uevent_helper"]},
    "/sys/fs/cgroup/memory/release_agent": {
        "be called by the kernel for a control group": ["open_to_write", "/sys/fs/cgroup/*/release_agent"],
        "tell the kernel to call": ["open_to_write", "/sys/fs/cgroup/*/notify_on_release"],
    },
}  # fmt: skip
for path, more in IF_THE_KERNEL_HAS.items():
    EVERYWHERE |= more if Path(path).exists() else {}
OF_OTHERS = (
    "trace another service",
    "see another service",
    "read a key that signs firmware",
    *(f"read the key of {service}" for service in SERVICES),
)


def of_others(site: LeastSite, stranger: Container) -> Acts:
    """Acts on what belongs to another: a process, the key of each service."""
    pid = int(stranger.attrs["State"]["Pid"])
    keys = {s: site.inside(s, f"print(open('/run/sitestream/secrets/{KEY_FILE}').read(), end='')") for s in SERVICES}
    digests = {s: hashlib.sha256(key.encode()).hexdigest() for s, key in keys.items()}
    found: Acts = {"trace another service": ["trace", pid], "see another service": ["see", pid]}
    signing = hashlib.sha256((site.folder / "firmware-keys" / SIGNING_KEY).read_bytes()).hexdigest()
    found["read a key that signs firmware"] = ["find", SIGNING_KEY, signing]
    return found | {f"read the key of {s}": ["find", KEY_FILE, digest] for s, digest in digests.items()}


@pytest.fixture(scope="module")
def acts(site: LeastSite, too_free: Container) -> Acts:
    """All acts."""
    return EVERYWHERE | of_others(site, too_free)


@pytest.fixture(scope="module")
def program_of_root(site: LeastSite, too_free: Container) -> Iterator[None]:
    """A Python with the setuid bit, in the volume that each container has."""
    inside = site.inside("upload", "import os, sys; print(os.path.realpath(sys.executable))").strip()
    python = Path(f"/proc/{site.pid('upload')}/root{inside}")
    containers = [*map(site.container, SERVICES), too_free]
    mounts = [
        m["Source"] for c in containers for m in c.attrs["Mounts"] if m["Destination"] == str(Path(SETUID).parent)
    ]
    programs = [Path(folder) / Path(SETUID).name for folder in mounts]
    for program in programs:
        shutil.copy(python, program)
        program.chmod(0o4755)
    yield
    for program in programs:
        program.unlink()


@pytest.fixture(scope="module")
def tried(site: LeastSite, acts: Acts, program_of_root: None) -> Callable[[str], dict[str, Verdict]]:
    """What became of all acts within a service, tried once."""
    return cache(lambda service: attempt(site.container(service), acts))


@pytest.mark.parametrize("act", [*EVERYWHERE, *OF_OTHERS])
@pytest.mark.parametrize("service", SERVICES)
def test_it_is_refused(tried: Callable[[str], dict[str, Verdict]], service: str, act: str) -> None:
    own = act == f"read the key of {service}"
    allowed, said = tried(service)[act]
    assert allowed is own, said


@pytest.fixture(scope="module")
def allowed(too_free: Container, acts: Acts, program_of_root: None) -> dict[str, Verdict]:
    """What becomes of them without confinement; a program with the setuid bit is run as the services' user."""
    by_user = "become root by a program"
    return attempt(too_free, acts) | attempt(too_free, {by_user: acts[by_user]}, user=SERVICES["upload"].user)


@pytest.mark.parametrize("act", [*EVERYWHERE, *OF_OTHERS])
def test_it_would_be_possible_without_confinement(allowed: dict[str, Verdict], act: str) -> None:
    possible, said = allowed[act]
    assert possible, said
    assert "broken" not in said


@pytest.fixture(scope="module")
def sacrificed(site: LeastSite) -> Iterator[Container]:
    """A container with the rights and limits of `collect`, which may suffer."""
    with twin(site, "collect") as container:
        yield container


LIMITS: Acts = {"processes": ["processes", PIDS_MAX + 1], "memory": ["memory", 300]}


def test_a_limit_that_is_passed_ends_in_the_container(sacrificed: Container, too_free: Container) -> None:
    assert {name: v[0] for name, v in attempt(sacrificed, LIMITS).items()} == dict.fromkeys(LIMITS, False)
    assert {name: v[0] for name, v in attempt(too_free, LIMITS).items()} == dict.fromkeys(LIMITS, True)


def test_after_all_that_every_service_is_healthy_and_readings_flow(
    site: LeastSite, tried: Callable[[str], dict[str, Verdict]]
) -> None:
    before = {s["service"]: s["since"] for s in site.status()["services"]}
    for service in SERVICES:
        tried(service)
    site.readings_flow()
    services = site.status()["services"]
    assert {s["service"]: s["since"] for s in services} == before
    assert {s["health"] for s in services} == {"healthy"}
