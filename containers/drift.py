"""Drift: what somebody changed by hand about a container since deploy created it. No I/O.

What the engine was told at creation stands in a label of the container, for labels cannot be changed later. It is compared with
what the engine says now; what the engine fills in by itself counts on neither side. What is compared beyond our own request are
the rights and limits that we never ask for: they must be empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from containers import names
from containers.commands import File
from containers.profiles import SECOND_NS
from pipelines.units import show_size

# By the name that people know it by: HostConfig's fields that deploy sets …
_ASKED = {
    "ReadonlyRootfs": "read-only root", "CapDrop": "dropped capabilities", "SecurityOpt": "security options",
    "Tmpfs": "tmpfs", "PidsLimit": "process limit", "Memory": "memory", "MemorySwap": "memory with swap", "NanoCpus": "cpus",
    "LogConfig": "logging", "RestartPolicy": "restart policy", "IpcMode": "IPC namespace", "ExtraHosts": "hosts",
    "NetworkMode": "network mode",
}  # fmt: skip
# … and that it leaves empty.
_EMPTY = {
    "Privileged": "privileged", "CapAdd": "added capabilities", "Binds": "binds", "Devices": "devices",
    "DeviceRequests": "device requests", "DeviceCgroupRules": "device rules", "PortBindings": "published ports",
    "PublishAllPorts": "published ports", "PidMode": "process namespace", "UTSMode": "host name namespace",
    "UsernsMode": "user namespace", "GroupAdd": "groups", "VolumesFrom": "volumes of others", "Dns": "DNS servers",
    "Sysctls": "sysctls", "Ulimits": "ulimits", "OomKillDisable": "OOM killing", "AutoRemove": "removal at exit",
    "MemoryReservation": "memory reservation", "CpuShares": "cpu shares", "CpuPeriod": "cpu period", "CpuQuota": "cpu quota",
    "CpuRealtimePeriod": "real-time period", "CpuRealtimeRuntime": "real-time runtime", "CpusetCpus": "cpus allowed",
    "CpusetMems": "memory nodes", "BlkioWeight": "block I/O weight",
}  # fmt: skip
_PLAIN = {
    "Hostname": "host name", "User": "user", "StopTimeout": "stop timeout", "Healthcheck": "health check",
    "Env": "environment", "Entrypoint": "entry point", "Cmd": "command", "WorkingDir": "working directory",
}  # fmt: skip
_OF_IMAGE = ("Env", "Entrypoint", "Cmd", "WorkingDir")
_ORDERED = ("entry point", "command", "health check")
_SIZES = ("memory", "memory with swap", "memory reservation")
_SHOWN_CHARS_MAX = 80


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as deploy made it. Texts for people; empty: there is none, or it is not for showing."""

    service: str
    what: str
    now: str
    should: str

    def __str__(self) -> str:
        """E.g. 'memory 512MiB → 256MiB', 'network office added', 'file settings.json altered'."""
        if self.what.startswith(("network ", "mount ", "file ")):
            return f"{self.what} {self.now}"
        return f"{self.what} {self.should or 'none'} → {self.now or 'none'}"


def request(
    config: Mapping[str, Any], networks: Sequence[str], image: Mapping[str, Any], engine: Mapping[str, Any]
) -> dict[str, str]:
    """The label for a container that is about to be created: what it must look like for ever.

    `config` is the body of the call, `networks` are all that it will be in, `image` is what the engine says of its image and
    `engine` what it says of itself: limits that its kernel does not know are dropped, as the engine does it.
    """
    host = {key: config["HostConfig"][key] for key in _ASKED if key in config["HostConfig"]}
    if not engine.get("MemoryLimit", True):
        host |= {"Memory": 0, "MemorySwap": -1}
    elif not engine.get("SwapLimit", True):
        host["MemorySwap"] = -1
    if not engine.get("PidsLimit", True):
        host["PidsLimit"] = 0
    plain = {key: (image["Config"] if key in _OF_IMAGE else config).get(key) for key in _PLAIN}
    told = {
        "image": image["Id"],
        "plain": plain,
        "host": host,
        "networks": sorted(networks),
        "mounts": config["HostConfig"].get("Mounts", []),
    }
    return {names.CREATED: json.dumps(told)}


def found(service: str, seen: Mapping[str, Any]) -> tuple[Drift, ...]:
    """How a container, as the engine describes it, differs from what was asked for; nothing if that is not known."""
    label = seen["Config"]["Labels"].get(names.CREATED)
    return tuple(_found(service, json.loads(label), seen)) if label else ()


def _found(service: str, told: Mapping[str, Any], seen: Mapping[str, Any]) -> Iterator[Drift]:
    if seen["Image"] != told["image"]:
        yield Drift(service, "image", seen["Image"][7:19], told["image"][7:19])
    for key, name in _PLAIN.items():
        yield from _compared(service, name, seen["Config"].get(key), told["plain"].get(key))
    for key, name in _ASKED.items():
        yield from _compared(service, name, seen["HostConfig"].get(key), told["host"].get(key))
    for key, name in _EMPTY.items():
        yield from _compared(service, name, seen["HostConfig"].get(key), None)
    yield from _members(service, "network", set(seen["NetworkSettings"]["Networks"]), set(told["networks"]))
    own = seen["Config"].get("Volumes") or {}  # which the base image brings along
    mounts = {_mount(m) for m in seen["Mounts"] if m["Destination"] not in own}
    asked = {(m["Source"], m["Target"], "ro" if m["ReadOnly"] else "rw") for m in told["mounts"]}
    yield from _members(service, "mount", {":".join(m) for m in mounts}, {":".join(m) for m in asked})


def _mount(seen: Mapping[str, Any]) -> tuple[str, str, str]:
    return seen.get("Name") or seen["Source"], seen["Destination"], "rw" if seen["RW"] else "ro"


def _members(service: str, kind: str, now: set[str], should: set[str]) -> Iterator[Drift]:
    yield from (Drift(service, f"{kind} {name}", "added", "") for name in sorted(now - should))
    yield from (Drift(service, f"{kind} {name}", "missing", name) for name in sorted(should - now))


def _compared(service: str, name: str, now: Any, should: Any) -> Iterator[Drift]:
    now, should = _normal(now, name), _normal(should, name)
    if now != should:
        yield Drift(service, name, _show(name, now), _show(name, should))


def _normal(value: Any, name: str) -> Any:
    """Equal for what means the same: the engine fills in zeros, orders sets as it likes, writes capabilities with a prefix."""
    if isinstance(value, Mapping):
        return {k: n for k, v in value.items() if (n := _normal(v, name)) is not None} or None
    if isinstance(value, list):
        texts = [str(_normal(v, name)).removeprefix("CAP_") for v in value]
        return (texts if name in _ORDERED else sorted(texts)) or None
    return value or None


def _show(name: str, value: Any) -> str:
    """A normal value."""
    if value is None:
        return ""
    if name in _SIZES:
        return show_size(value) if value > 0 else "unlimited"
    if name == "cpus":
        return f"{value / SECOND_NS:g}"
    if name == "environment":  # may hold what is not for showing
        return ", ".join(str(line).partition("=")[0] for line in value)
    if name == "restart policy":
        return str(value.get("Name", ""))
    text = ", ".join(value) if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else str(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"


def in_files(service: str, wanted: Sequence[File], there: Mapping[str, File]) -> tuple[Drift, ...]:
    """How the files of a service's configuration volume differ. Their content is never shown."""

    def state(file: File) -> str:
        have = there.get(file.path)
        if have is None:
            return "missing"
        if have.content != file.content:
            return "altered"
        return "" if (have.mode, have.uid) == (file.mode, file.uid) else "with other rights"

    return tuple(Drift(service, f"file {f.path}", state(f), "") for f in wanted if state(f))
