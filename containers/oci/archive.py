"""An image as the stream that `docker load` reads, without the layers that the engine has."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from containers.oci.image import Image
from containers.oci.layers import PIECE_BYTES, LayerStore


def pieces(image: Image, store: LayerStore, lacking: int) -> Iterator[bytes]:
    """The archive with the uppermost `lacking` layers, in pieces. An engine looks for a layer's file only if it has no layer
    of that content on those below."""
    config = image.config.encode()
    config_name = f"{image.id.removeprefix('sha256:')}.json"
    names = [f"{i}.tar.gz" for i in range(len(image.layers))]
    about = [{"Config": config_name, "RepoTags": [image.tag], "Layers": names}]
    yield from _member("manifest.json", json.dumps(about).encode())
    yield from _member(config_name, config)
    for name, layer in list(zip(names, image.layers, strict=True))[len(names) - lacking :]:
        yield from _file(name, store.path(layer))
    yield b"\0" * 1024  # the end of a tar


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield _head(name, len(content))
    yield content + _padding(len(content))


def _file(name: str, path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield _head(name, size)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
    yield _padding(size)


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % tarfile.BLOCKSIZE)
