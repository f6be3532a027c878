"""A Docker engine of the tests' own: own data, own socket, own subnets, and no container left from before or behind."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import IO, Self

import docker
import psutil
from docker.errors import APIError, ImageNotFound

from containers.cache import cache_dir
from containers.child import Child
from pipelines.errors import Unavailable
from tests.bed.firewall import docker_rules_kept
from tests.bed.parts import CURE, find_part
from tests.bed.slots import take_slot
from tests.bed.waiting import wait_until

ENGINES_MAX = 8
HOST_IN_CONTAINERS = "bed.internal"
_START_TIMEOUT_S = 60


class Engine:
    """One dockerd in a folder that is kept, so that images survive between runs; needs root.

    Engines side by side (another test session, a second site) take the next free folder and range of subnets.
    """

    def __init__(self, data: Path | None = None) -> None:
        self._root, self._data = cache_dir() / "test-engine", data  # another folder for images and all else
        self._lock: IO[str] | None = None
        self._child: Child | None = None
        self._client: docker.DockerClient | None = None
        self.folder = self._root
        self.base_image = ""  # tag of a slim Debian with Python, known once started

    @property
    def url(self) -> str:
        """`unix://…/docker.sock`, as $DOCKER_HOST wants it."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def client(self) -> docker.DockerClient:
        """A client of this engine, closed with it."""
        if self._client is None:
            raise Unavailable("the engine is not running: call start() first")
        return self._client

    def start(self) -> Self:
        """Start dockerd, remove what a killed session left behind, and make sure of the base image."""
        if os.geteuid() != 0:
            raise Unavailable("the test engine needs root: run the tests with `sudo make test`")
        base = _base_tarball()
        slot = self._take_folder()
        words = [
            find_part("dockerd"),
            *("--data-root", str(self._data or self.folder / "data"), "--exec-root", f"{self.folder}/exec"),
            *("--pidfile", f"{self.folder}/dockerd.pid", "--host", self.url),
            *("--log-level", "warn", "--bridge", "none"),
            *("--default-address-pool", f"base=10.213.{slot * 32}.0/19,size=26"),
        ]
        wide = {"COLUMNS": "10000"}  # `ps`, by which it lists processes, cuts them otherwise
        self._child = Child("dockerd", words, self.folder / "dockerd.log", env=wide)
        try:
            self.resume()
            self._client = docker.DockerClient(base_url=self.url)
            self.clean()
            self._load(base)
        except BaseException:
            self.stop()
            raise
        return self

    def kill9(self) -> None:
        """Kill dockerd, what it has started, and all in its containers, as a power cut would."""
        assert self._child is not None
        mark = f"{self.folder}/"
        ours = [one for one in psutil.process_iter(["cmdline"]) if mark in " ".join(one.info["cmdline"] or ())]
        inside = [child for one in ours for child in one.children(recursive=True)]
        self._child.kill9()
        for one in (*ours, *inside):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        (self.folder / "exec/containerd/containerd.pid").unlink()  # as a reboot does: dockerd takes a zombie for alive

    def resume(self) -> None:
        """Start dockerd, also after `kill9`."""
        assert self._child is not None
        with docker_rules_kept():
            self._child.start(self._answers, timeout_s=_START_TIMEOUT_S, cure="Does another dockerd use its folder?")

    def stop(self) -> None:
        """Remove every container, network and volume, then end dockerd."""
        if self._client is not None:
            with contextlib.suppress(APIError):
                self.clean()
            self._client.close()
            self._client = None
        if self._child is not None:
            self._child.stop(timeout_s=30)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def clean(self) -> None:
        """Remove every container, network and volume; images stay."""
        for container in self.client.containers.list(all=True):
            container.remove(force=True, v=True)
        self.client.networks.prune()
        for volume in self.client.volumes.list():
            volume.remove(force=True)
        self.client.images.prune()

    def network(self, name: str, *, internal: bool = True) -> str:
        """Make a network and return the address of its gateway, which is this machine."""
        network = self.client.networks.create(name, internal=internal)
        network.reload()
        gateway: str = network.attrs["IPAM"]["Config"][0]["Gateway"]
        return gateway

    def hosts(self, network: str) -> dict[str, str]:
        """`extra_hosts` for containers on a network: the name under which Kafka's second listener advertises itself."""
        config = self.client.networks.get(network).attrs["IPAM"]["Config"][0]
        return {HOST_IN_CONTAINERS: config["Gateway"]}

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.connect(f"{self.folder}/docker.sock")
            link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in link.recv(64)
        return False

    def _take_folder(self) -> int:
        locks = [self._root / str(slot) / "lock" for slot in range(ENGINES_MAX)]
        slot, self._lock = take_slot(locks, f"test engines run below {self._root}")
        self.folder = locks[slot].parent
        wait_until(self._is_vacant, 30, f"the dockerd a killed session left in {self.folder} to end")
        return slot

    def _is_vacant(self) -> bool:
        pidfile = self.folder / "dockerd.pid"
        return not pidfile.exists() or not Path("/proc", pidfile.read_text().strip(), "comm").exists()

    def _load(self, base: Path) -> None:
        repository, tag = "sitestream/test-base", f"slim-{base.stat().st_mtime_ns}"  # a rebuilt one is taken anew
        self.base_image = f"{repository}:{tag}"
        try:
            self.client.images.get(self.base_image)
        except ImageNotFound:
            self.client.api.import_image_from_file(str(base), repository=repository, tag=tag)


def _base_tarball() -> Path:
    tarball = cache_dir() / "base-small-bookworm.tar"
    if not tarball.exists():
        raise Unavailable(f"the base image of the test engine is missing ({tarball}): {CURE}")
    return tarball
