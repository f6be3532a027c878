"""A repository without a server: an OCI image layout (specification 1.1) as a folder or as one tar file.

A tag of a name is an entry of index.json whose `org.opencontainers.image.ref.name` is 'name:tag'; blobs are common to all names.
A tar holds what its index leads to and nothing else, in a fixed order and without times: the same content gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

from containers.files import locked_folder, settle
from containers.repository.base import (
    MANIFEST_BYTES_MAX,
    PIECE_BYTES,
    Manifest,
    check_digest,
    check_name,
    check_reference,
    checked,
    is_digest,
    opened,
    pieces,
    sha256,
    sha256_read,
    to_store,
)
from containers.repository.errors import BrokenLayout, Malformed, NotFound, TooLarge, WrongDigest
from containers.repository.manifests import OCI_INDEX, OCI_MANIFEST, REF_NAME, Body, Descriptor, decode, encode
from containers.repository.transfer import disk_full_explained

MARKER, INDEX = "oci-layout", "index.json"
MARKER_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_BYTES_MAX = 64 << 20


class Files(Protocol):
    """The files of a layout, by their paths in it."""

    def open(self, path: str) -> BinaryIO:
        """A file to read; `FileNotFoundError` if it is not there."""
        ...

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def write(self, path: str, content: BinaryIO) -> None:
        """Write a file, whole or not at all."""
        ...

    def changing(self) -> contextlib.AbstractContextManager[object]:
        """While the index is read and written again nobody else does."""
        ...


class Layout:
    """A layout, see `base.Repository`, wherever its files are."""

    def __init__(self, files: Files, where: str) -> None:
        self._files, self._where = files, where

    @property
    def where(self) -> str:
        """See `Repository.where`."""
        return self._where

    def has_blob(self, name: str, digest: str) -> bool:
        """See `Repository.has_blob`. A layout's blobs are common to all names."""
        check_name(name)
        return self._files.has(_blob(digest))

    def push_blob(self, name: str, digest: str, size: int, content: Path | bytes) -> bool:
        """See `Repository.push_blob`."""
        if self.has_blob(name, digest):
            return False
        with opened(content, digest, size) as file:
            found = sha256_read(file)
            if found != digest:
                raise WrongDigest(f"what is to be stored as {digest} has other content ({found}): build it anew")
            file.seek(0)
            self._write(_blob(digest), file)
        return True

    def blob(self, name: str, digest: str, offset: int = 0) -> Iterator[bytes]:
        """See `Repository.blob`."""
        check_name(name)
        try:
            file = self._files.open(_blob(digest))
        except FileNotFoundError as e:
            raise NotFound(f"{self.where} has no blob {digest}: save it anew") from e
        with file:
            yield from pieces(file, offset)

    def put_manifest(self, name: str, reference: str, content: bytes, media_type: str) -> str:
        """See `Repository.put_manifest`."""
        check_name(name)
        digest = to_store(content, media_type, reference, self.where).digest
        annotations = {} if is_digest(reference) else {REF_NAME: f"{name}:{reference}"}
        entry = Descriptor(media_type, digest, len(content), annotations)
        with self._files.changing():
            self._write(_blob(digest), io.BytesIO(content))
            self._write_index([entry, *(e for e in self._index() if not _replaces(entry, e))])
        return digest

    def manifest(self, name: str, reference: str) -> Manifest:
        """See `Repository.manifest`."""
        check_name(name), check_reference(reference)
        wanted = reference
        if not is_digest(reference):
            entry = next((e for e in self._index() if e.ref_name == f"{name}:{reference}"), None)
            if entry is None:
                raise NotFound(f"{self.where} has no {name} {reference}: push it there first")
            wanted = entry.digest
        try:
            content = self._read(_blob(wanted), MANIFEST_BYTES_MAX)
        except FileNotFoundError as e:
            raise NotFound(f"{self.where} has no {name} {reference}: push it there first") from e
        found = checked(Manifest(content, "", sha256(content)), wanted, self.where)
        return replace(found, media_type=self._decoded(content, wanted).media_type or OCI_MANIFEST)

    def tags(self, name: str) -> list[str]:
        """See `Repository.tags`."""
        prefix = f"{check_name(name)}:"
        return sorted(e.ref_name.removeprefix(prefix) for e in self._index() if e.ref_name.startswith(prefix))

    def reachable(self) -> set[str]:
        """Digests of all that the index leads to."""
        waiting, found = [e.digest for e in self._index()], set[str]()
        while waiting:
            digest = waiting.pop()
            body = self._decoded(self._read(_blob(digest), MANIFEST_BYTES_MAX), digest)
            waiting += [e.digest for e in body.manifests if e.digest not in found]
            found |= {digest, *(e.digest for e in (*body.layers, *filter(None, [body.config])))}
        return found

    def _index(self) -> list[Descriptor]:
        try:
            content = self._read(INDEX, INDEX_BYTES_MAX)
        except FileNotFoundError:
            return []
        return list(self._decoded(content, INDEX).manifests)

    def _decoded(self, content: bytes, what: str) -> Body:
        try:
            return decode(content, what)
        except Malformed as e:
            raise BrokenLayout(f"{self.where} is damaged: {e}: save it anew") from e

    def _write_index(self, entries: Iterable[Descriptor]) -> None:
        ordered = sorted(entries, key=lambda e: (e.ref_name, e.digest))
        self._write(INDEX, io.BytesIO(encode(Body(2, OCI_INDEX, manifests=ordered))))

    def _write(self, path: str, content: BinaryIO) -> None:
        """Write a file, after the one that says what this is: a push that breaks off must not leave a folder of unknown kind."""
        if not self._files.has(MARKER):
            self._files.write(MARKER, io.BytesIO(MARKER_CONTENT))
        self._files.write(path, content)

    def _read(self, path: str, bytes_max: int) -> bytes:
        with self._files.open(path) as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise TooLarge(f"{path} of {self.where} is longer than {bytes_max} bytes: nothing of it is used")
        return content


class FolderFiles:
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, path: str) -> BinaryIO:
        """See `Files.open`."""
        return (self.folder / path).open("rb")

    def has(self, path: str) -> bool:
        """See `Files.has`."""
        return (self.folder / path).exists()

    def write(self, path: str, content: BinaryIO) -> None:
        """See `Files.write`."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_explained(target), tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as scratch:
            draft = Path(scratch, "file")
            with draft.open("wb") as out:
                shutil.copyfileobj(content, out, PIECE_BYTES)
            settle(draft, target)

    def changing(self) -> contextlib.AbstractContextManager[object]:
        """See `Files.changing`: other processes wait, too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked_folder(self.folder)


class Folder(Layout):
    """A layout in a folder, made at the first push. `BrokenLayout` if the folder holds other things."""

    def __init__(self, folder: Path) -> None:
        in_use = folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir()))
        if in_use and not (folder / MARKER).exists():  # in this order: another process may just begin it
            raise BrokenLayout(f"{folder} is no OCI image layout: name one, or a folder that is new or empty")
        super().__init__(FolderFiles(folder), str(folder))


class TarFiles:
    """Files of a tar, read where they are, and those that came since, beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.staged: FolderFiles | None = (
            None  # made when something comes, since a tar may lie where nothing can be written
        )
        self._tar: tarfile.TarFile | None = None
        self._members: Mapping[str, tarfile.TarInfo] = {}
        if path.exists():
            try:
                self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - open as long as this is
                self._members = {m.name.removeprefix("./"): m for m in self._tar.getmembers() if m.isreg()}
            except (tarfile.TarError, OSError) as e:
                self.close()
                raise BrokenLayout(f"{path} cannot be read as a tar file ({e}): save or copy it anew") from e

    def open(self, path: str) -> BinaryIO:
        """See `Files.open`."""
        if self.staged and self.staged.has(path):
            return self.staged.open(path)
        if self._tar is None or path not in self._members:
            raise FileNotFoundError(path)
        return cast(BinaryIO, self._tar.extractfile(self._members[path]))

    def has(self, path: str) -> bool:
        """See `Files.has`."""
        return path in self._members or (self.staged is not None and self.staged.has(path))

    def write(self, path: str, content: BinaryIO) -> None:
        """See `Files.write`."""
        if self.staged is None:
            self.staged = FolderFiles(Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}.")))
        self.staged.write(path, content)

    def changing(self) -> contextlib.AbstractContextManager[object]:
        """See `Files.changing`: a tar is written by one process."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Forget what is staged."""
        if self._tar is not None:
            self._tar.close()
        if self.staged is not None:
            shutil.rmtree(self.staged.folder, ignore_errors=True)


class Tar(Layout):
    """A layout in one tar file; use it in a `with`. What is pushed is in the file after it, or nothing if an error ended it."""

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise NotFound(f"there is no folder {path.parent} for {path.name}: make it first")
        self._tar_files, self._path = TarFiles(path), path
        super().__init__(self._tar_files, str(path))
        if path.exists() and not self._tar_files.has(MARKER):
            self._tar_files.close()
            raise BrokenLayout(
                f"{path} holds no OCI image layout: name a file that was saved by  pipeline build --save"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and (staged := self._tar_files.staged) and staged.has(INDEX):
                self._save(staged.folder / "whole")
        finally:
            self._tar_files.close()

    def _save(self, draft: Path) -> None:
        paths = [MARKER, INDEX, *sorted(_blob(digest) for digest in self.reachable())]
        with disk_full_explained(self._path):
            with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as tar:
                for path in paths:
                    with self._tar_files.open(path) as file:
                        info = tarfile.TarInfo(path)
                        info.size = file.seek(0, io.SEEK_END)
                        file.seek(0)
                        tar.addfile(info, file)
            settle(draft, self._path)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{check_digest(digest).removeprefix('sha256:')}"


def _replaces(new: Descriptor, old: Descriptor) -> bool:
    """Whether an entry of the index is in the way of a new one: the same tag, or untagged and the same."""
    return old.ref_name == new.ref_name and (bool(new.ref_name) or old.digest == new.digest)
