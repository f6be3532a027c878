"""What lies in a repository: images, and documents with their statements, each under a name and a tag.

    release         the tag is the release     what it consists of
    site/SITE       desired                    what the site should run
    site/SITE       release-NUMBER             what it should have run, each release by its number, for who goes back
    status/SITE     status                     how the site is, signed by the site itself
    images          service and version        the images of all services
    trust           root-1, root-2, …          which keys count, see `trust.update_root`

A document and its statement are two blobs of one manifest, so that a tag never leads to one without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from containers.repository.base import Repository, sha256
from containers.repository.errors import Malformed, NotFound
from containers.repository.manifests import OCI_MANIFEST, Body, Descriptor, decode, encode
from containers.repository.statement import DOCUMENT_BYTES_MAX, STATEMENT_BYTES_MAX
from containers.repository.transfer import read_blob

RELEASE, TRUST, DESIRED, IMAGES = "release", "trust", "desired", "images"
STATEMENT = "application/vnd.sitestream.statement.v1+json"
ROOT = "application/vnd.sitestream.root.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_EMPTY = "application/vnd.oci.empty.v1+json"


class Layer(Protocol):
    """A layer of an image: `path` is the file with its gz blob, which has this digest and size."""

    @property
    def digest(self) -> str:
        """'sha256:…' of the file."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def path(self) -> Path:
        """The file."""
        ...


@dataclass(frozen=True)
class Document:
    """A document as it came: trusted for nothing before `trust.verify`."""

    content: bytes
    media_type: str
    statement: bytes  # empty: it has none
    digest: str  # of its manifest: another one if anything has changed


def site_name(site: str) -> str:
    """The name under which a site finds what it should run, tag `DESIRED`; also the path in its statement."""
    return f"site/{site}"


def kept(version: int) -> str:
    """The tag under which what a site should run stays when something newer is published."""
    return f"release-{version}"


def put_image(repo: Repository, name: str, config: bytes, layers: Sequence[Layer], tag: str = "") -> str:
    """Bring an image there, only those layers that are missing; the digest of its manifest.

    Use one name for all images of a fleet: a registry shares blobs within a name. An image without a tag may be taken for
    garbage by a registry that clears up.
    """
    for layer in layers:
        repo.push_blob(name, layer.digest, layer.size, layer.path)
    body = Body(
        2,
        OCI_MANIFEST,
        config=_push(repo, name, config, IMAGE_CONFIG),
        layers=[Descriptor(IMAGE_LAYER, layer.digest, layer.size) for layer in layers],
    )
    return _put(repo, name, tag, body)


def put_document(
    repo: Repository, name: str, tag: str, content: bytes, media_type: str, statement: bytes = b"", *, also: Sequence[str] = ()
) -> str:  # fmt: skip
    """Put a document, and the statement that is signed for it, under a tag, and before that under others; the digest of their
    manifest."""
    layers = [_push(repo, name, content, media_type)]
    if statement:
        layers.append(_push(repo, name, statement, STATEMENT))
    body = Body(2, OCI_MANIFEST, media_type, config=_push(repo, name, b"{}", _EMPTY), layers=layers)
    for other in also:
        _put(repo, name, other, body)
    return _put(repo, name, tag, body)


def get_document(repo: Repository, name: str, tag: str, *, known: str = "") -> Document | None:
    """Get a document; None if it is still the one whose `digest` is `known`. `TooLarge` before too much is read."""
    manifest = repo.manifest(name, tag)
    if manifest.digest == known:
        return None
    what = f"{name} {tag} of {repo.where}"
    layers = decode(manifest.content, what).layers
    if not 1 <= len(layers) <= 2 or any(layer.media_type != STATEMENT for layer in layers[1:]):
        raise Malformed(f"{what} is no document: something else was put under its name")
    content = read_blob(repo, name, layers[0].digest, layers[0].size, DOCUMENT_BYTES_MAX)
    statement = [read_blob(repo, name, layer.digest, layer.size, STATEMENT_BYTES_MAX) for layer in layers[1:]]
    return Document(content, layers[0].media_type, b"".join(statement), manifest.digest)


def put_roots(repo: Repository, roots: Sequence[bytes]) -> None:
    """Put all roots there, the first being version 1; they are signed in themselves."""
    for version, root in enumerate(roots, 1):
        put_document(repo, TRUST, f"root-{version}", root, ROOT)


def get_root(repo: Repository, version: int) -> bytes | None:
    """A root by its version; None if there is none so new."""
    try:
        found = get_document(repo, TRUST, f"root-{version}")
    except NotFound:
        return None
    return found.content if found else None


def _push(repo: Repository, name: str, content: bytes, media_type: str) -> Descriptor:
    found = Descriptor(media_type, sha256(content), len(content))
    repo.push_blob(name, found.digest, found.size, content)
    return found


def _put(repo: Repository, name: str, tag: str, body: Body) -> str:
    content = encode(body)
    return repo.put_manifest(name, tag or sha256(content), content, OCI_MANIFEST)
