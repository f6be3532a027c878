"""A service as it must be, as a value: decided by `desired` from the operator's files, or read from a signed document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from containers import names
from containers.commands import CreateContainer, File
from containers.oci import Image
from containers.profiles import CONFIG_DIR, SETTINGS_FILE, Devices, Limits, Mount, Port, Profile, container_config
from containers.site import GATEWAY
from pipelines.settings import Settings
from pipelines.versions import Version

IMAGE_PARTS = (
    "base image",
    "packages",
    "kafka",
    "code",
    "pipeline",
    "dimensions",
    "schemas",
)  # those parts that stand in its image


@dataclass(frozen=True)
class Desired:
    """A service as it must be. `parts` are what its fingerprint is made of, by name, each a hash."""

    profile: Profile
    tags: tuple[str, ...]  # of its image and of those under it, lowest first
    images: tuple[Image, ...] = field(repr=False)  # the same, if they could be made
    pins: tuple[tuple[str, ...], ...] = field(repr=False)  # the packages of each layer of packages, lowest first
    settings: Settings
    secrets: tuple[File, ...]
    networks: tuple[str, ...]
    hosts: Mapping[str, str]  # name -> IP address or `gateway`
    mounts: tuple[Mount, ...]  # besides the configuration
    limits: Limits
    pipeline: str  # name and fingerprint of the plan
    parts: Mapping[str, str]
    state: Mapping[str, Version]  # of each stateful step, if the service has any
    devices: Devices = field(default_factory=Devices)
    port: Port | None = None
    asks: tuple[str, ...] = ()  # URLs of schema registries

    @property
    def service(self) -> str:
        """The service's name."""
        return self.profile.service

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change when the service must be replaced."""
        return hash_of(dict(self.parts))

    @property
    def edition(self) -> str:
        """12 hex digits that change when the service would find something else in its image: the pipeline file is in every
        image, so another window changes all of them, and the edition of `process` alone."""
        return hash_of({name: self.parts[name] for name in IMAGE_PARTS if name in self.parts})

    @property
    def tag(self) -> str:
        """Name of its image."""
        return self.tags[-1]

    @property
    def config_volume(self) -> str:
        """Name of the volume with settings and secrets; never changed once it is in use."""
        return names.config(self.settings.site, self.service, self.fingerprint)

    @property
    def config_files(self) -> tuple[File, ...]:
        """What is in that volume."""
        settings = msgspec.json.encode(self.settings, order="deterministic")  # as it comes back from a document
        return (File(SETTINGS_FILE, msgspec.json.format(settings)), *self.secrets)

    @property
    def settings_shown(self) -> dict[str, Any]:
        """Its settings as plain values; there is no secret among them."""
        shown: dict[str, Any] = msgspec.to_builtins(self.settings)
        return shown

    @property
    def secret_names(self) -> list[str]:
        """Names of its secrets."""
        return [s.path.rpartition("/")[2] for s in self.secrets]

    def container_name(self, revision: int) -> str:
        """Name of its container of a revision."""
        return names.container(self.settings.site, self.service, revision)

    def container(self, revision: int, gateway: str) -> CreateContainer:
        """The container of a revision; `gateway` is the IP address of the site's machine in the first of its networks."""
        labels = {
            names.SITE: self.settings.site,
            names.SERVICE: self.service,
            names.REVISION: str(revision),
            names.FINGERPRINT: self.fingerprint,
            names.PIPELINE: self.pipeline,
            names.IMAGES: _json(self.tags[::-1]),
            names.CONFIG: self.config_volume,
            names.PARTS: _json(self.parts),
            names.STATE: _json(self.state),
            names.SETTINGS: _json(self.settings),
        }
        hosts = {name: gateway if address == GATEWAY else address for name, address in self.hosts.items()}
        mounts = (Mount(self.config_volume, CONFIG_DIR, read_only=True), *self.mounts)
        config = container_config(
            self.profile,
            self.tag,
            networks=self.networks,
            hosts=hosts,
            mounts=mounts,
            limits=self.limits,
            labels=labels,
            devices=self.devices,
            port=self.port,
        )
        return CreateContainer(self.container_name(revision), config, self.networks[1:])


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def hash_of(value: Any) -> str:
    """12 hex digits of a value of plain values."""
    return hashlib.sha256(_json(value).encode()).hexdigest()[:12]
