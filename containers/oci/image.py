"""Images as values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"  # an image has no birthday: else no two builds were alike
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # of Linux -> of Go, which images use


@dataclass(frozen=True)
class Layer:
    """Files that are laid over those of the layers below."""

    diff_id: str  # sha256:… of the tar
    digest: str = ""  # sha256:… of the compressed tar; empty if only an engine has it
    size: int = 0  # bytes of the compressed tar


@dataclass(frozen=True)
class Image:
    """An image: `tag` is derived from what it is made of, `id` from what has become of that."""

    tag: str
    config: str  # JSON, as its id is the hash of these very bytes
    layers: tuple[Layer, ...]

    @property
    def id(self) -> str:
        """sha256:… of its configuration, by which engines know it."""
        return f"sha256:{hashlib.sha256(self.config.encode()).hexdigest()}"

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """What its layers are, lowest first."""
        return tuple(layer.diff_id for layer in self.layers)

    @property
    def size(self) -> int:
        """Bytes of its layers as they are shipped."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class Base:
    """What all images stand on. `config` is the part of an image's configuration that is called so there."""

    layers: tuple[Layer, ...]
    machine: str  # x86_64, aarch64, …
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """sha256:… of what it is: two engines that imported the same files have the same."""
        what = [[layer.diff_id for layer in self.layers], self.machine, self.config.get("Env")]
        return f"sha256:{hashlib.sha256(json.dumps(what).encode()).hexdigest()}"


@dataclass(frozen=True)
class Settings:
    """How the containers of an image start, unless they are told otherwise."""

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    entrypoint: tuple[str, ...] = ()


def extended(below: Base | Image, tag: str, layers: Sequence[Layer], settings: Settings, label: str) -> Image:
    """An image that has more layers, and starts in another way. `label` is a label whose value is its tag."""
    if isinstance(below, Base):
        architecture, config = ARCHITECTURES.get(below.machine, below.machine), dict(below.config)
    else:
        made: dict[str, Any] = json.loads(below.config)
        architecture, config = made["architecture"], made["config"]
    old = dict(pair.split("=", 1) for pair in config.get("Env") or ())
    config |= {"Env": [f"{k}={v}" for k, v in {**old, **settings.env}.items()], "Labels": {label: tag}}
    if settings.entrypoint:
        config |= {"Entrypoint": list(settings.entrypoint), "User": settings.user, "WorkingDir": "/"}
    every = (*below.layers, *layers)
    text = {
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in every]},
        "history": [{"created": EPOCH, "created_by": "sitestream"}] * len(every),
    }
    return Image(tag, json.dumps(text, sort_keys=True, separators=(",", ":")), every)
