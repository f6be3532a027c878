"""Layers of images, fetched from the repository when the engine lacks them, and deployed from there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from containers.agent.document import Rules
from containers.deployer import Deployer
from containers.engine import Engine
from containers.oci import Image, Layer, LayerStore
from containers.repository.artifact import IMAGES
from containers.repository.base import Repository
from containers.repository.transfer import pull_blob
from containers.walk import Report
from pipelines.clock import Clock
from pipelines.units import show_bytes


class PulledLayers(LayerStore):
    """Layers that are fetched when they are needed; what has come of one that broke off is not fetched again."""

    def __init__(self, folder: Path, repo: Repository) -> None:
        super().__init__(folder)
        self.repo = repo

    def path(self, layer: Layer) -> Path:
        """See `LayerStore.path`. `Unreachable`, `WrongDigest`, `WrongLength`, `DiskFull`."""
        file = super().path(layer)
        if not file.exists():
            pull_blob(self.repo, IMAGES, layer.digest, layer.size, file)
        return file

    def clear(self) -> None:
        """The engine has what it needs: the disk is wanted for other things."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Puller(Deployer):
    """Brings a site to what a document says."""

    site: str
    rules: Rules
    engine: Engine
    layers: PulledLayers
    report: Report
    clock: Clock
    shipped_bytes: int = 0

    @property
    def name(self) -> str:
        """See `Deployer`."""
        return self.site

    @property
    def where(self) -> str:
        """See `Deployer`."""
        return f"the release for {self.site}"

    @property
    def errors_max(self) -> float:
        """See `Deployer`."""
        return self.rules.errors_max

    @property
    def store(self) -> LayerStore:
        """See `Deployer`."""
        return self.layers

    def ship(self, images: Iterable[Image]) -> None:
        """Fetch first what the engine lacks, so that it does not wait for a slow link; then see `Deployer`."""
        every = list(images)
        for image, count, size in self.lacking(every):
            self.report(f"{image.tag}: fetching {show_bytes(size)}")
            for layer in image.layers[len(image.layers) - count :]:
                self.layers.path(layer)
        super().ship(every)
        self.layers.clear()
