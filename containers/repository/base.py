"""What a repository is: the few operations that a registry, a folder and a tar file have in common."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from containers.repository.errors import TooLarge, WrongDigest, WrongLength
from pipelines.errors import ConfigError

MANIFEST_BYTES_MAX = 4 << 20  # what registries accept, too
PIECE_BYTES = 1 << 20
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A manifest as it lies in the repository; `digest` is that of `content`."""

    content: bytes
    media_type: str
    digest: str


class Repository(Protocol):
    """Blobs and manifests by name. A `reference` is a tag or a digest; a digest is 'sha256:' and 64 hex digits.

    Raises `NotFound`, and of a registry `Unreachable` and `Unauthorised`; `WrongDigest` if what is pushed, or a manifest that was
    asked for by digest, is other content.
    """

    @property
    def where(self) -> str:
        """What people call this repository."""
        ...

    def has_blob(self, name: str, digest: str) -> bool:
        """Whether it has a blob."""
        ...

    def push_blob(self, name: str, digest: str, size: int, content: Path | bytes) -> bool:
        """Bring a blob there unless it has it; whether it was sent."""
        ...

    def blob(self, name: str, digest: str, offset: int = 0) -> Iterator[bytes]:
        """A blob's bytes from `offset` on, in pieces, unchecked. Use `transfer.pull_blob` or `transfer.read_blob`."""
        ...

    def put_manifest(self, name: str, reference: str, content: bytes, media_type: str) -> str:
        """Put a manifest whose blobs are there, under a tag (which then means this one) or its own digest; its digest."""
        ...

    def manifest(self, name: str, reference: str) -> Manifest:
        """A manifest by tag or digest."""
        ...

    def tags(self, name: str) -> list[str]:
        """All tags of a name, sorted; none if there is no such name."""
        ...


def sha256(content: bytes) -> str:
    """Digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def sha256_of(file: Path) -> str:
    """Digest of a file."""
    with file.open("rb") as content:
        return sha256_read(content)


def sha256_read(file: BinaryIO) -> str:
    """Digest of an open file, from its beginning."""
    found = hashlib.sha256()
    for piece in pieces(file):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def check_name(name: str) -> str:
    """`name` itself if it can name a thing in a registry, else `ConfigError`."""
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a name in a repository: write lower-case letters and digits, with single '.', '_' or '-' "
            "between them and '/' between parts"
        )
    return name


def check_tag(tag: str) -> str:
    """`tag` itself if it can be one, else `ConfigError`."""
    if not _TAG.fullmatch(tag):
        raise ConfigError(f"{tag!r} cannot be a tag: write at most 128 letters, digits, '.', '_' and '-'")
    return tag


def check_digest(digest: str) -> str:
    """`digest` itself if it is one, else `WrongDigest`: it becomes part of paths and addresses."""
    if not _DIGEST.fullmatch(digest):
        raise WrongDigest(f"{digest[:80]!r} is no digest: 'sha256:' and 64 hex digits are expected")
    return digest


def check_reference(reference: str) -> str:
    """`reference` itself if it is a digest or can be a tag."""
    return check_digest(reference) if is_digest(reference) else check_tag(reference)


def is_digest(reference: str) -> bool:
    """Whether it is meant as a digest."""
    return ":" in reference


def to_store(content: bytes, media_type: str, reference: str, where: str) -> Manifest:
    """A manifest that is to be stored under `reference`; `TooLarge` if nobody would read it."""
    if len(content) > MANIFEST_BYTES_MAX:
        raise TooLarge(
            f"a manifest has {len(content)} bytes; at most {MANIFEST_BYTES_MAX} are stored: have fewer layers"
        )
    return checked(Manifest(content, media_type, sha256(content)), check_reference(reference), where)


def checked(manifest: Manifest, reference: str, where: str) -> Manifest:
    """`manifest` itself, unless it was asked for by another digest than its own."""
    if is_digest(reference) and manifest.digest != reference:
        raise WrongDigest(
            f"{where} gave other content for manifest {reference} ({manifest.digest}): it is not to be trusted"
        )
    return manifest


@contextlib.contextmanager
def opened(content: Path | bytes, digest: str, size: int) -> Iterator[BinaryIO]:
    """The content of a blob to be pushed; `WrongLength` if it has another size."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        found = file.seek(0, io.SEEK_END)
        if found != size:
            raise WrongLength(f"blob {digest} has {found} bytes instead of {size}: build it anew")
        file.seek(0)
        yield file


def pieces(file: BinaryIO, offset: int = 0) -> Iterator[bytes]:
    """What is in a file from `offset` on."""
    file.seek(offset)
    while piece := file.read(PIECE_BYTES):
        yield piece
