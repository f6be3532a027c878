"""Blobs out of any repository: whole and checked, or not at all; a broken transfer goes on where it stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

from containers.files import settle
from containers.repository.base import Repository, check_digest, sha256, sha256_of
from containers.repository.errors import DiskFull, TooLarge, Unreachable, WrongDigest, WrongLength


def pull_blob(repo: Repository, name: str, digest: str, size: int, into: Path) -> None:
    """Bring a blob of `size` bytes into the file `into`, which is there afterwards only if it has the right content.

    What has come so far lies in `into`.part and is not fetched again, in this call or a later one. A link that breaks is tried
    again as long as each try brings something, else `Unreachable`. `WrongDigest`, `WrongLength`: what came is removed.
    `DiskFull`: before anything is fetched, if it can be known.
    """
    if into.exists() and sha256_of(into) == check_digest(digest):
        return
    part = into.with_name(f"{into.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if _size(part) > size:
        part.unlink()
    _require_space(part, size - _size(part))
    part.touch()
    while (have := _size(part)) < size:
        try:
            _append(repo, name, digest, size, part)
        except Unreachable:
            if _size(part) == have:
                raise
    found = sha256_of(part)
    if found != digest:
        part.unlink()
        raise WrongDigest(
            f"{repo.where} gave other content for {digest} of {name} ({found}): what came is removed and fetched anew next time"
        )
    settle(part, into)


def read_blob(repo: Repository, name: str, digest: str, size: int, size_max: int) -> bytes:
    """A small blob; `TooLarge` if it is said to be larger than `size_max`."""
    if size > size_max:
        raise TooLarge(f"{digest} of {name} in {repo.where} has {size} bytes; at most {size_max} are read")
    content = bytearray()
    for piece in _bounded(repo, name, digest, 0, size):
        content += piece
    if len(content) < size:
        raise _short(repo, name, digest, len(content), size)
    if sha256(bytes(content)) != digest:
        raise WrongDigest(f"{repo.where} gave other content for {digest} of {name}: it is not to be trusted")
    return bytes(content)


def _append(repo: Repository, name: str, digest: str, size: int, part: Path) -> None:
    try:
        with disk_full_explained(part), part.open("ab") as file:
            for piece in _bounded(repo, name, digest, file.tell(), size):
                file.write(piece)
    except (WrongLength, DiskFull):
        part.unlink()  # a full disk harms the services beside us more than a second transfer
        raise
    if _size(part) < size:
        have = _size(part)
        part.unlink()
        raise _short(repo, name, digest, have, size)


def _bounded(repo: Repository, name: str, digest: str, offset: int, size: int) -> Iterator[bytes]:
    """A blob's pieces from `offset` on; `WrongLength` as soon as there are more than `size` bytes, so that nothing is endless."""
    source = cast(Generator[bytes, None, None], repo.blob(name, digest, offset))
    with contextlib.closing(source):
        for piece in source:
            offset += len(piece)
            if offset > size:
                raise WrongLength(
                    f"{repo.where} gave more than the {size} bytes that {digest} of {name} has: what came is removed"
                )
            yield piece


def _short(repo: Repository, name: str, digest: str, have: int, size: int) -> WrongLength:
    return WrongLength(
        f"{repo.where} gave only {have} of the {size} bytes that {digest} of {name} has: what came is removed"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DiskFull(
            f"{path.parent} has {free} bytes left and {needed} are needed: free some, and it goes on where it stopped"
        )


@contextlib.contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turns the system's 'no space left' into `DiskFull`."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"no space is left for {path} ({os.strerror(e.errno)}): free some and try again") from e
