"""A release: the images of a pipeline's services, and what is in them, under one signed name.

The id of a release is the hash of its content, and in it stands no time: the same inputs make the same release. It goes to a
repository (`pipeline build --push`) or into one file (`--save`) that is carried to where no network leads; there `pipeline load`
believes it if it is signed, and a deploy then needs no package index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import REGISTRY
from securesystemslib.signer import Signer

import pipelines.metrics
from containers import bases, packages
from containers.bases import Known
from containers.fetch import kafka_jars
from containers.images import Base
from containers.jars import jar_parts
from containers.oci import Image, Layer, LayerStore
from containers.profiles import KAFKA_DIR
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.statement import check, first_root, next_root, sign
from containers.repository.transfer import pull_blob
from containers.rootfs import RootFS
from containers.sbom import Part, image_parts, licences, sbom
from containers.site import Site
from pipelines.clock import Clock
from pipelines.errors import ConfigError
from pipelines.plan import Plan

RELEASE = "application/vnd.sitestream.release.v1+json"
SBOM, LICENCES = "application/vnd.cyclonedx+json", "text/plain"
DOCUMENTS = "documents"  # name in the repository
KAFKA = "kafka"  # the part of the broker that its jars are
DAYS_GOOD = 365  # a release that is older is not begun with anywhere
ID_CHARS = 12


class ServiceImage(msgspec.Struct, frozen=True):
    """The image of one service: `id` is what engines call it, `manifest` what registries do."""

    tag: str
    id: str
    manifest: str
    bytes: int  # of all its layers as they are shipped
    code_bytes: int  # of the one that changes with each release
    sbom: str  # digest of its document
    licences: str


class Release(msgspec.Struct, frozen=True):
    """What a release consists of."""

    id: str  # hash of all the rest
    pipeline: str
    fingerprint: str
    sitestream: str  # version
    base_image: str
    base: Known
    services: dict[str, ServiceImage]
    layers: dict[str, Layer]  # of packages and jars, by what the cache calls them
    metrics: dict[str, str]  # of all services: name -> help
    site_schema: dict[str, Any]  # JSON schema of site files
    version: int = 1


@dataclass(frozen=True)
class Piece:
    """One service of a release, or the agent."""

    service: str
    images: tuple[Image, ...]  # lowest first
    pins: tuple[tuple[str, ...], ...]  # the packages of each layer of packages, lowest first
    kafka: str = ""  # what the cache calls the layer of Kafka's jars, if there is one


@dataclass(frozen=True)
class Build:
    """What a release is made of: images that are made, on a base whose layers are in the store."""

    plan: Plan
    base_image: str
    base: Base
    pieces: tuple[Piece, ...]
    store: LayerStore


@dataclass(frozen=True)
class _Blob:
    digest: str
    size: int
    path: Path


def publish(repo: Repository, build: Build, signers: Sequence[Signer], clock: Clock, roots: Sequence[bytes]) -> Release:
    """Bring a release to a repository: images, documents, and last what makes it a release, signed if there are signers."""
    parts = _parts(build)
    services = {p.service: _publish(repo, build, p, parts[p.service]) for p in build.pieces}
    made = _identified(
        Release(
            "",
            build.plan.pipeline,
            build.plan.fingerprint,
            packages.own_version(),
            build.base_image,
            Known.of(build.base),
            services,
            _package_layers(build),
            metrics(),
            msgspec.json.schema(Site),
        )
    )
    document = _encoded(made)
    if signers:
        now_ns = clock.now_ns()
        expires = datetime.fromtimestamp(now_ns // 10**9, UTC) + timedelta(days=DAYS_GOOD)
        statement = sign(document, _path(made.id), now_ns // 10**9, expires, signers)
        artifact.put_roots(repo, roots)
    else:
        statement = b""
    artifact.put_document(repo, artifact.RELEASE, made.id, document, RELEASE, statement)
    return made


def take(repo: Repository, name: str, root: bytes | None, store: LayerStore, clock: Clock) -> Release:
    """Verify a release and fill the cache with its layers. Without a `root`, it is taken on trust."""
    found = artifact.get_document(repo, artifact.RELEASE, name)
    assert found is not None  # nothing is known before
    if root is not None:
        state = first_root(root)
        number = 2
        while newer := artifact.get_root(repo, number):
            state, number = next_root(state, newer), number + 1
        check(state, found.statement, _path(name), found.content, clock.now_ns())
    made = msgspec.json.decode(found.content, type=Release)
    if _identified(made).id != name:
        raise ConfigError(f"release {name} of {repo.where} has other content than its name says: it is not used")
    for key, layer in made.layers.items():
        _fetch(repo, layer, store)
        store.keep(key, layer)
    for layer in made.base.layers:
        _fetch(repo, layer, store)
    bases.remember(store.folder / bases.FOLDER, made.base_image, made.base)
    return made


def _fetch(repo: Repository, layer: Layer, store: LayerStore) -> None:
    if not store.path(layer).exists():
        store.folder.mkdir(parents=True, exist_ok=True)
        pull_blob(repo, artifact.IMAGES, layer.digest, layer.size, store.path(layer))


def metrics() -> dict[str, str]:
    """Every metric of the services: name -> what it says."""
    assert pipelines.metrics.errors  # declared by import
    return {m.name: m.documentation for m in REGISTRY.collect() if m.name.startswith("sitestream_")}


def _publish(repo: Repository, build: Build, d: Piece, parts: tuple[Part, ...]) -> ServiceImage:
    image = whole(d.images[-1], build.base)
    tag, manifest = push_image(repo, image, build.store)
    bill, papers = sbom(image.tag, parts), licences(parts).encode()
    artifact.put_document(repo, DOCUMENTS, f"{tag}-sbom", bill, SBOM)
    artifact.put_document(repo, DOCUMENTS, f"{tag}-licences", papers, LICENCES)
    digests = [f"sha256:{hashlib.sha256(document).hexdigest()}" for document in (bill, papers)]
    return ServiceImage(image.tag, image.id, manifest, image.size, image.layers[-1].size, *digests)


def push_image(repo: Repository, image: Image, store: LayerStore) -> tuple[str, str]:
    """Bring an image whose layers are all in the store to a repository; its tag there and the digest of its manifest."""
    layers = [_Blob(layer.digest, layer.size, store.path(layer)) for layer in image.layers]
    tag = image.tag.rpartition("/")[2].replace(":", "-")
    return tag, artifact.put_image(repo, artifact.IMAGES, image.config.encode(), layers, tag)


def whole(image: Image, base: Base) -> Image:
    """An image whose layers are all known as files, those of its base, too."""
    assert base.image is not None
    below = base.image.layers
    return replace(image, layers=(*below, *image.layers[len(below) :]))


def _parts(build: Build) -> dict[str, tuple[Part, ...]]:
    """What is in each service's image."""
    with ExitStack() as opened:
        assert build.base.image is not None
        tars = [opened.enter_context(build.store.opened(layer)) for layer in build.base.image.layers]
        base = RootFS(*tars)
        return {p.service: (*_in_image(build, p, base), *_jars(p)) for p in build.pieces}


def _in_image(build: Build, of: Piece, base: RootFS) -> tuple[Part, ...]:
    folders: dict[str, tuple[Path, ...]] = {}
    for at, pins in packages.placed(of.pins):
        folders[at] = (*folders.get(at, ()), packages.installed(pins, build.base.python, at))
    return image_parts(build.base.python, folders, base)


def _jars(of: Piece) -> Iterator[Part]:
    return jar_parts(kafka_jars(), KAFKA_DIR) if of.kafka else iter(())


def _package_layers(build: Build) -> dict[str, Layer]:
    assert build.base.image is not None
    below = len(build.base.image.layers)
    found: dict[str, Layer] = {}
    for d in build.pieces:
        for n, pins in enumerate(d.pins):
            found[f"packages-{packages.folder_key(pins, build.base.python)}"] = d.images[-1].layers[below + n]
        if d.kafka:
            found[d.kafka] = d.images[-1].layers[below + len(d.pins)]
    return found


def _identified(of: Release) -> Release:
    content = _encoded(msgspec.structs.replace(of, id=""))
    return msgspec.structs.replace(of, id=hashlib.sha256(content).hexdigest()[:ID_CHARS])


def _encoded(of: Release) -> bytes:
    return msgspec.json.format(msgspec.json.encode(of, order="deterministic")) + b"\n"


def _path(release: str) -> str:
    return f"release/{release}"
