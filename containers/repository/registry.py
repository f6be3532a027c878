"""A client of OCI registries (distribution specification 1.1): blobs by digest, manifests by tag or digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import urljoin

import requests

from containers.repository.auth import Credentials, find_credentials
from containers.repository.base import (
    MANIFEST_BYTES_MAX,
    Manifest,
    check_digest,
    check_name,
    check_reference,
    checked,
    opened,
    sha256,
    to_store,
)
from containers.repository.errors import NotFound, Unreachable, WrongDigest
from containers.repository.link import ANSWER_BYTES_MAX, Link, limited, parse_address, streamed
from containers.repository.manifests import OCI_INDEX, OCI_MANIFEST
from pipelines.errors import ConfigError

CHUNK_BYTES = 16 << 20
SEND_TRIES_MAX = 6  # without getting any further; a break may cost two, if the registry then gives up the upload
PAGES_MAX = 1000
_ACCEPT = ", ".join(
    (
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class Registry:
    """One registry, see `base.Repository`. Close it after use.

    Credentials are those of $SITESTREAM_REGISTRY_USER and _PASSWORD, else of `docker login`, unless given. `ca` is a file with
    the authority of its certificate if it is one of one's own. `plain` permits http to other machines.
    """

    def __init__(
        self, address: str, *, credentials: Credentials | None = None, ca: Path | None = None, plain: bool = False
    ) -> None:
        parsed = parse_address(address, plain=plain)
        self._prefix = parsed.prefix and check_name(parsed.prefix) + "/"
        self._link = Link(parsed, credentials or find_credentials(parsed.host), ca, plain=plain)

    def close(self) -> None:
        """Close all connections."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        """See `Repository.where`."""
        return f"{self._link.address.host}/{self._prefix}".rstrip("/")

    def image(self, name: str, reference: str) -> str:
        """What a Docker engine calls a manifest of this registry."""
        return f"{self._link.address.host}/{self._full(name)}{'@' if ':' in reference else ':'}{check_reference(reference)}"

    def has_blob(self, name: str, digest: str) -> bool:
        """See `Repository.has_blob`."""
        full = self._full(name)
        try:
            with self._link.send("HEAD", f"{full}/blobs/{check_digest(digest)}", full):
                return True
        except NotFound:
            return False

    def push_blob(self, name: str, digest: str, size: int, content: Path | bytes) -> bool:
        """See `Repository.push_blob`. One request up to 16 MiB, else in chunks; a link that breaks goes on where the registry
        lets it, at worst at the beginning."""
        if self.has_blob(name, digest):
            return False
        with opened(content, digest, size) as file:
            self._send_blob(self._full(name), digest, size, file)
        return True

    def _send_blob(self, full: str, digest: str, size: int, file: BinaryIO) -> None:
        location, offset, furthest, failed = self._begin(full), 0, 0, 0
        while True:
            last = size - offset <= CHUNK_BYTES
            file.seek(offset)
            chunk = file.read(CHUNK_BYTES)
            try:
                if last:
                    return self._send_last(full, location, digest, chunk)
                location, offset = self._send_chunk(full, location, offset, chunk), offset + len(chunk)
                furthest, failed = max(furthest, offset), failed if offset <= furthest else 0
            except (Unreachable, NotFound):  # not found: the upload, which some registries give up when a link breaks
                failed += 1
                if failed >= SEND_TRIES_MAX:
                    raise
                location, offset = self._progress(full, location)

    def _begin(self, full: str) -> str:
        with self._link.send("POST", f"{full}/blobs/uploads/", full, headers={"Content-Length": "0"}) as answer:
            return _location(answer)

    def _send_chunk(self, full: str, location: str, offset: int, chunk: bytes) -> str:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(chunk) - 1}",
        }
        with self._link.send("PATCH", location, full, body=chunk, headers=headers) as answer:
            return _location(answer)

    def _send_last(self, full: str, location: str, digest: str, chunk: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(chunk))}
        with self._link.send("PUT", location, full, body=chunk, headers=headers, params={"digest": digest}):
            pass

    def _progress(self, full: str, location: str) -> tuple[str, int]:
        """Where an upload that broke goes on: there, if the registry says so, else at the beginning of a new one."""
        try:
            with self._link.send("GET", location, full) as answer:
                end = int(answer.headers.get("Range", "0-0").rpartition("-")[2])
                return _location(answer), end + 1 if end else 0
        except ConfigError:  # it has given this upload up
            return self._begin(full), 0

    def blob(self, name: str, digest: str, offset: int = 0) -> Iterator[bytes]:
        """See `Repository.blob`."""
        full = self._full(name)
        headers = {"Range": f"bytes={offset}-"} if offset else None
        with self._link.send("GET", f"{full}/blobs/{check_digest(digest)}", full, headers=headers) as answer:
            skip = 0 if answer.status_code == requests.codes.partial_content else offset  # it does not know of ranges
            for piece in streamed(answer):
                if rest := piece[skip:]:
                    yield rest
                skip = max(0, skip - len(piece))

    def put_manifest(self, name: str, reference: str, content: bytes, media_type: str) -> str:
        """See `Repository.put_manifest`."""
        full, digest = self._full(name), to_store(content, media_type, reference, self.where).digest
        with self._link.send(
            "PUT", f"{full}/manifests/{reference}", full, body=content, headers={"Content-Type": media_type}
        ) as answer:
            stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise WrongDigest(f"{self.where} stored other content ({stored}) for manifest {digest} of {name}")
        return digest

    def manifest(self, name: str, reference: str) -> Manifest:
        """See `Repository.manifest`."""
        full = self._full(name)
        path = f"{full}/manifests/{check_reference(reference)}"
        try:
            with self._link.send("GET", path, full, headers={"Accept": _ACCEPT}) as answer:
                content = limited(answer, MANIFEST_BYTES_MAX)
                media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        except NotFound as e:
            raise NotFound(f"{self.where} has no {name} {reference}: push it there first") from e
        return checked(Manifest(content, media_type, sha256(content)), reference, self.where)

    def tags(self, name: str) -> list[str]:
        """See `Repository.tags`."""
        full, found = self._full(name), set[str]()
        path = f"{full}/tags/list"
        for _ in range(PAGES_MAX):
            try:
                with self._link.send("GET", path, full) as answer:
                    found.update(json.loads(limited(answer, ANSWER_BYTES_MAX))["tags"] or [])
                    following = answer.links.get("next", {}).get("url")
            except NotFound:
                break
            if not following:
                break
            path = urljoin(f"/v2/{path}", following)
        return sorted(found)

    def _full(self, name: str) -> str:
        return self._prefix + check_name(name)


def _location(answer: requests.Response) -> str:
    """Where an upload goes on; some registries say so relative to the request."""
    location = answer.headers.get("Location")
    if not location:
        raise Unreachable(f"what answers at {answer.url} is no registry: it does not say where an upload goes to")
    return urljoin(answer.url, location)
