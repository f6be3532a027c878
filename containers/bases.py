"""Base images that this machine has layers of: an engine that lacks its base image is sent it, instead of pulling it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from containers import oci
from containers.images import Base
from containers.oci import Layer
from containers.python import Python

FOLDER = "bases"  # in the folder of the layers


class Known(msgspec.Struct, frozen=True):
    """A base image whose layers are all in the cache."""

    layers: tuple[Layer, ...]
    machine: str
    config: dict[str, Any]
    python: Python

    @classmethod
    def of(cls, base: Base) -> Known:
        """As a value that can be written."""
        assert base.image is not None
        return cls(base.image.layers, base.image.machine, dict(base.image.config), base.python)

    @property
    def base(self) -> Base:
        """The base image."""
        image = oci.Base(self.layers, self.machine, self.config)
        return Base(image.id, self.python, image)


def remember(folder: Path, name: str, known: Known) -> None:
    """From now on the base image that site files call `name` is known in this cache."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{_file(name)}.new"
    draft.write_bytes(msgspec.json.encode(known))
    draft.rename(folder / _file(name))


def recall(folder: Path, name: str) -> Base | None:
    """The base image of that name, if it is known here."""
    path = folder / _file(name)
    return msgspec.json.decode(path.read_bytes(), type=Known).base if path.exists() else None


def _file(name: str) -> str:
    return f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
