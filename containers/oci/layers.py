"""Layers: made from files, kept by digest."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar, cast

from containers.commands import File
from containers.oci.image import Layer

PIECE_BYTES = 1 << 20
COMPRESSION_LEVEL = 6  # one fixed level: the digest depends on it
Content = TypeVar("Content")
_MAKING = threading.Lock()  # many sites need the same layer at the same time: one makes it


class _Hashing(io.RawIOBase):
    """Counts and hashes what is written through it."""

    def __init__(self, into: IO[bytes]) -> None:
        self.hash, self.size, self._into = hashlib.sha256(), 0, into

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.size += len(data)
        self._into.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


class LayerStore:
    """Layers in a folder: `sha256:…` of the compressed bytes -> a file of that name; and what was made from which inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, layer: Layer) -> Path:
        """The file with a layer's compressed bytes."""
        return self.folder / layer.digest.removeprefix("sha256:")

    def find(self, key: str) -> Layer | None:
        """The layer that was made from inputs of that key, if it was."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            layer = Layer(**json.loads((self.folder / "made" / key).read_text()))
            return layer if self.path(layer).exists() else None
        return None

    def keep(self, key: str, layer: Layer) -> None:
        """Note that a layer, which is here, is what inputs of that key make."""
        (self.folder / "made").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="making-") as scratch:
            note = Path(scratch, "note")
            note.write_text(json.dumps(asdict(layer)))
            note.rename(self.folder / "made" / key)

    @contextlib.contextmanager
    def opened(self, layer: Layer) -> Iterator[tarfile.TarFile]:
        """The tar of a layer that is here."""
        with tarfile.open(self.path(layer), "r:gz") as tar:
            yield tar

    def made(self, key: str, write: Callable[[IO[bytes]], None]) -> Layer:
        """The layer that `write` writes as a tar; from the cache if one with this key was made before.

        It is whole or absent, whoever else makes it meanwhile.
        """
        with _MAKING:
            return self.find(key) or self._make(key, write)

    def _make(self, key: str, write: Callable[[IO[bytes]], None]) -> Layer:
        (self.folder / "made").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="making-") as scratch:
            blob = Path(scratch, "blob")
            with blob.open("wb") as file:
                below = _Hashing(file)
                with gzip.GzipFile("", "wb", COMPRESSION_LEVEL, cast(IO[bytes], below), mtime=0) as packed:
                    above = _Hashing(cast(IO[bytes], packed))
                    write(cast(IO[bytes], above))
            layer = Layer(above.digest, below.digest, below.size)
            blob.rename(self.path(layer))
        self.keep(key, layer)
        return layer


def write_tar(files: Iterable[File], into: IO[bytes]) -> None:
    """A tar of files, and of the folders above them: the same bytes for the same files, whatever their order."""
    with _plain_tar(into) as tar:
        for info, content in _with_folders((_info(f), f.content) for f in files):
            tar.addfile(info, io.BytesIO(content) if content and info.isreg() else None)


def write_folder(folder: Path, at: str, into: IO[bytes]) -> None:
    """A tar of all files below `folder`, to stand below `at` in the image. Owned by root, writable by nobody."""

    def found() -> Iterator[tuple[tarfile.TarInfo, Path]]:
        for path in folder.rglob("*"):
            if path.is_file():
                info = tarfile.TarInfo(f"{at.strip('/')}/{path.relative_to(folder)}")
                info.size, info.mode = path.stat().st_size, 0o555 if os.access(path, os.X_OK) else 0o444
                yield info, path

    with _plain_tar(into) as tar:
        for info, path in _with_folders(found()):
            with path.open("rb") if path else contextlib.nullcontext() as content:
                tar.addfile(info, content)


def copy_tar(source: IO[bytes]) -> Callable[[IO[bytes]], None]:
    """Writes what it reads: for a layer that is a tar already."""
    return lambda into: shutil.copyfileobj(source, into, PIECE_BYTES)


def _plain_tar(into: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=into, mode="w|", format=tarfile.PAX_FORMAT)


def _info(file: File) -> tarfile.TarInfo:
    info = tarfile.TarInfo(file.path.strip("/"))
    info.mode, info.uid, info.gid = file.mode, file.uid, file.uid
    if file.path.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size = len(file.content)
    return info


def _with_folders(members: Iterable[tuple[tarfile.TarInfo, Content]]) -> list[tuple[tarfile.TarInfo, Content | None]]:
    """Sorted by name, each folder before what is in it."""
    named: dict[str, tuple[tarfile.TarInfo, Content | None]] = {info.name: (info, content) for info, content in members}
    for folder in {str(p) for name in named for p in PurePosixPath(name).parents if str(p) != "."} - named.keys():
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        named[folder] = (info, None)
    return [member for _, member in sorted(named.items())]
