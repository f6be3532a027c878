"""What an agent keeps on the site's disk: its keys, its memory, the documents that it may need again.

Every file is written whole and bears its own hash, so one that a power cut or a bad disk has halved is noticed, and taken as
absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from containers.agent.decide import Kept, Memory
from containers.agent.identity import Identity, generate
from containers.files import write_whole
from containers.repository.transfer import disk_full_explained
from pipelines.errors import StateError

IDENTITY = ("identity.a.json", "identity.b.json")  # written one after the other: one may be lost
MEMORY, RELEASES, PUBLIC = "memory.json", "releases", "public"
T = TypeVar("T")


class Disk:
    """The files of an agent in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def enrolled(self) -> bool:
        """Whether the site has, or once had, keys here."""
        return any((self.folder / name).exists() for name in IDENTITY)

    def enrol(self) -> None:
        """Make the site's keys."""
        self._write(generate(), *IDENTITY)

    def identity(self) -> Identity:
        """The site's keys; `StateError` if they are lost."""
        found = next((k for name in IDENTITY if (k := self._read(name, Identity))), None)
        if found is None:
            raise StateError(
                f"the site's keys in {self.folder} are damaged: what runs goes on, nothing new is accepted. Set the agent up "
                "anew with  pipeline agent enrol --reset"
            )
        with disk_full_explained(self.folder):
            write_whole(self.folder / PUBLIC, found.public.encode() + b"\n", mode=0o644)
        return found

    def memory(self) -> Memory | None:
        """What was remembered; None if nothing was, or it is damaged."""
        return self._read(MEMORY, Memory)

    def remember(self, memory: Memory) -> None:
        """On the disk when this returns. `DiskFull`."""
        self._write(memory, MEMORY)

    def keep(self, document: Kept) -> None:
        """Keep a document. `DiskFull`."""
        (self.folder / RELEASES).mkdir(parents=True, exist_ok=True)
        self._write(document, f"{RELEASES}/{document.version}.json")

    def kept(self) -> dict[int, Kept]:
        """The documents that are there and whole, by version."""
        names = [f"{RELEASES}/{p.name}" for p in (self.folder / RELEASES).glob("*.json") if p.stem.isdigit()]
        return {k.version: k for name in sorted(names) if (k := self._read(name, Kept))}

    def forget(self, but: Collection[int]) -> None:
        """Remove all other documents."""
        for path in (self.folder / RELEASES).glob("*.json"):
            if path.stem not in map(str, but):
                path.unlink()

    def _write(self, value: object, *names: str) -> None:
        body = msgspec.json.encode(value)
        for name in names:
            with disk_full_explained(self.folder / name):
                write_whole(self.folder / name, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            digest, _, body = (self.folder / name).read_bytes().partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != digest:
                return None
            return msgspec.json.decode(body, type=kind)
        except (OSError, msgspec.MsgspecError):
            return None
