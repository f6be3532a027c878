"""Manifests, indexes and descriptors of OCI (image specification 1.1) as values; whatever comes from outside is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from containers.repository.errors import Malformed

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0)]


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a blob or manifest is: type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: Size
    annotations: dict[str, str] = {}

    @property
    def ref_name(self) -> str:
        """In an image layout: the name under which it is found; empty if it has none."""
        return self.annotations.get(REF_NAME, "")


class Body(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A manifest (config and layers) or an index (manifests)."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: Sequence[Descriptor] = ()
    manifests: Sequence[Descriptor] = ()


def encode(body: Body) -> bytes:
    """The same bytes for the same content."""
    return msgspec.json.encode(body)


def decode(content: bytes, what: str) -> Body:
    """Read a manifest or index; `Malformed` names it as `what`."""
    try:
        return msgspec.json.decode(content, type=Body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Malformed(f"{what} is no manifest ({e}): it is not used") from e
