"""Spool: the folder that holds the journal and the files that are not in the store yet. Every change is durable when it returns.

{segment}.open             the journal: these offsets are being written
{segment}.sealed           the journal: its manifest; the files are complete
{date}.{segment}.parquet   a file of a sealed segment, or what a crash left of an open one
{origin}.mark              the offset up to which the store has a log
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from connectors.parquet.segment import File, Manifest, Origin, Span
from connectors.upload.disk import Disk
from pipelines.errors import BadData, ConfigError, StateError


@dataclass(frozen=True, slots=True)
class Journal:
    """What a spool held when it was opened."""

    sealed: list[Manifest]  # by origin and offset
    open: dict[Origin, Span]
    marks: dict[Origin, int]


class Spool:
    """One process has it at a time. Methods block: call them in a thread."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        """`ConfigError` if the folder cannot be written or another process has it."""
        self.folder, self._disk = folder, disk or Disk()
        self._sizes: dict[Span, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("wb")
        except OSError as e:
            raise ConfigError(self.complaint(e)) from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(folder / "probe", b"x" * 4096)
            self._disk.remove(folder / "probe")
        except BlockingIOError as e:
            self.close()
            raise ConfigError(
                f"spool folder {folder} is in use by another upload service: stop it or set another data_dir"
            ) from e
        except OSError as e:
            self.close()
            raise ConfigError(self.complaint(e)) from e

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def complaint(self, e: OSError) -> str:
        """What is wrong with the folder, and the cure."""
        return (
            f"spool folder {self.folder} cannot be written ({e.strerror or e}): free space on its disk, mount it writable, or "
            "set another data_dir; Kafka keeps the data until then"
        )

    @property
    def size(self) -> int:
        """Bytes of the files of sealed segments."""
        return sum(self._sizes.values())

    @property
    def oldest_s(self) -> float:
        """When the oldest sealed segment was sealed, as Unix time; 0 if there is none."""
        times = []
        for span in list(self._sizes):
            with contextlib.suppress(FileNotFoundError):
                times.append(self._sealed(span).stat().st_mtime)
        return min(times, default=0.0)

    def recover(self) -> Journal:
        """What is to be finished. Removes what a crash left behind; `StateError` if an entry of the journal is damaged."""
        sealed = sorted((self._read(p) for p in self.folder.glob("*.sealed")), key=lambda m: m.span)
        marks = {origin_of(p.stem): int(p.read_text()) for p in self.folder.glob("*.mark")}
        for m in [m for m in sealed if m.end <= marks.get(m.span.origin, -1)]:  # the store has them
            self.forget(m)
            sealed.remove(m)
        kept = {self.path(f) for m in sealed for f in m.files}
        for path in [*self.folder.glob("*.tmp"), *(p for p in self.folder.glob("*.parquet") if p not in kept)]:
            self._disk.remove(path)
        done = {m.span for m in sealed}
        spans = [Span.parse(p.name.removesuffix(".open")) for p in self.folder.glob("*.open")]
        for span in [s for s in spans if s in done or s.end <= marks.get(s.origin, -1)]:
            self._disk.remove(self._open(span))
            spans.remove(span)
        self._sizes = {m.span: sum(f.bytes for f in m.files) for m in sealed}
        return Journal(sealed, {s.origin: s for s in spans}, marks)

    def begin(self, span: Span) -> None:
        """Journal the offsets of a segment before anything of it is written."""
        self._write(self._open(span), b"")

    def write(self, path: str, date: str, fill: Callable[[BinaryIO], None]) -> tuple[int, str]:
        """Write the file that will stand at `path` in the store; its size and SHA-256."""
        local = self.folder / _local(path, date)
        self._disk.write(local, fill)
        self._disk.publish(local)
        with local.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return local.stat().st_size, digest

    def seal(self, manifest: Manifest) -> None:
        """Journal that the files are complete."""
        self._disk.sync(self.folder)
        self._write(self._sealed(manifest.span), manifest.encode())
        self._disk.remove(self._open(manifest.span))
        self._sizes[manifest.span] = sum(f.bytes for f in manifest.files)

    def mark(self, origin: Origin, end: int) -> None:
        """Note that the store has everything of a log before `end`."""
        self._write(self.folder / f"{origin.name}.mark", str(end).encode())

    def forget(self, manifest: Manifest) -> None:
        """Remove a sealed segment. A crash on the way does no harm: the mark says that the store has it."""
        self._disk.remove(self._sealed(manifest.span))
        for file in manifest.files:
            self._disk.remove(self.path(file))
        self._sizes.pop(manifest.span, None)

    def abandon(self, span: Span) -> None:
        """Remove an open segment that cannot be written any more."""
        self._disk.remove(self._open(span))

    def path(self, file: File) -> Path:
        """Where a file of a sealed segment is."""
        return self.folder / _local(file.path, file.date)

    def read(self, file: File) -> bytes:
        """A file of a sealed segment; `StateError` if it is not as it was written."""
        path = self.path(file)
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise StateError(
                f"{path} is damaged or missing: the disk lost what was written. Stop the service and remove every file of "
                "this topic-partition from the spool: what the store does not have is read from Kafka again"
            )
        return data

    def _write(self, path: Path, data: bytes) -> None:
        self._disk.write(path, lambda file: _fill(file, data))
        self._disk.publish(path)
        self._disk.sync(self.folder)

    def _read(self, path: Path) -> Manifest:
        try:
            return Manifest.decode(path.read_bytes(), str(path))
        except BadData as e:
            raise StateError(
                f"{e}. Remove every file of this topic-partition from the spool: what the "
                "store lacks is read from Kafka again"
            ) from e

    def _open(self, span: Span) -> Path:
        return self.folder / f"{span.name}.open"

    def _sealed(self, span: Span) -> Path:
        return self.folder / f"{span.name}.sealed"


def origin_of(name: str) -> Origin:
    """The inverse of `Origin.name`."""
    topic, partition, log = name.rsplit("-", 2)
    return Origin(topic, int(partition), log)


def _fill(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _local(path: str, date: str) -> str:
    return f"{date}.{PurePosixPath(path).name}"
