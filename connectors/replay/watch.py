"""Reads a folder into which files come. What is done is moved away, so the folder itself says what is still to be read."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from connectors.base import Context, Read
from connectors.replay import ENDINGS, FolderSource
from connectors.replay.files import Block, blocks_of
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError, NotConnected
from pipelines.units import duration_s

DONE, FAILED = "done", "failed"
WAITING_MAX = 1_000  # files that are found at once
Stamp = tuple[int, int]  # size and time of change (ns)
log = logging.getLogger("collect")


@dataclass
class _File:
    """A file that is being read, or whose readings Kafka has not all."""

    path: Path
    stamp: Stamp
    blocks: Iterator[Block]
    here: Batch | None = None  # rows of the present block that were not handed out
    rejects: deque[DeadLetter] = field(default_factory=deque)
    read: int = 0  # rows handed out, dead letters counted as rows
    ended: bool = False
    failure: str = ""


class Completeness:
    """Which files have not changed for a while. Pure."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[str, tuple[Stamp, float]] = {}

    def complete(self, files: dict[str, Stamp], now_s: float) -> list[str]:
        """Names of those that are, in order; `files` are all that are there now."""
        before, self._since = self._since, {}
        for name, stamp in files.items():
            known = before.get(name)
            self._since[name] = known if known is not None and known[0] == stamp else (stamp, now_s)
        return sorted(n for n, (_, since_s) in self._since.items() if now_s - since_s >= self._settle_s)


class FolderReader:
    """See `connectors.base.Reader`. What was not acknowledged is read again after `connect`."""

    def __init__(self, source: FolderSource[Any], context: Context) -> None:
        self._source, self._clock = source, context.clock
        self._folder = Path(source.folder)
        self._every_s = duration_s(source.every)
        self._completeness = Completeness(duration_s(source.settle))
        self._open = False
        self._looked_s = float("-inf")
        self._waiting: deque[tuple[str, Stamp]] = deque()  # complete and not begun, in order
        self._files: deque[_File] = deque()  # begun, in order; only the last can have more to read
        self._acknowledged: dict[tuple[str, Stamp], int] = {}  # rows, of files that were begun
        self._kept: set[tuple[str, Stamp]] = set()  # finished, but could not be moved

    async def connect(self) -> None:
        """See `Reader.connect`; `ConfigError` if the folder is not there or cannot be written."""
        await asyncio.to_thread(self._prepare)
        self._files.clear()
        self._waiting.clear()
        self._looked_s, self._open = float("-inf"), True

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if not self._open:
            raise NotConnected("the folder is not open")
        file = await self._next()
        if file is None:
            await self._clock.sleep(linger_s)
            file = await self._next()
        if file is None:
            return Read(_no_rows(self._source), (), _nothing)
        batch, rejects = _take(file, rows_max)
        return Read(batch, rejects, partial(self._ack, file, file.read))

    async def close(self) -> None:
        """See `Reader.close`."""
        self._open = False

    async def _ack(self, file: _File, read: int) -> None:
        """Kafka has the first `read` rows of a file, and all of those before it."""
        key = (file.path.name, file.stamp)
        self._acknowledged[key] = max(self._acknowledged.get(key, 0), read)
        while self._files and self._finished(self._files[0]):
            await asyncio.to_thread(self._put_away, self._files.popleft())

    def _finished(self, file: _File) -> bool:
        return file.ended and self._acknowledged.get((file.path.name, file.stamp), 0) >= file.read

    async def _next(self) -> _File | None:
        """A file that has rows or dead letters here; None if there is nothing to read now."""
        while True:
            if not self._files or self._files[-1].ended:
                await self._look()
                if not self._waiting:
                    return None
                name, stamp = self._waiting.popleft()
                path = self._folder / name
                self._files.append(_File(path, stamp, blocks_of(str(path), self._source.form)))
            file = self._files[-1]
            await self._load(file)
            if file.here is not None and (len(file.here) or file.rejects):
                return file
            if file.ended and self._finished(file) and len(self._files) == 1:  # nothing in it, or nothing left
                await asyncio.to_thread(self._put_away, self._files.popleft())

    async def _load(self, file: _File) -> None:
        """Have rows or dead letters of a file here, if there are any more that were not acknowledged."""
        key = (file.path.name, file.stamp)
        while not file.ended and (file.here is None or not (len(file.here) or file.rejects)):
            try:
                block = await asyncio.to_thread(next, file.blocks, None)
            except Exception as e:  # whatever is wrong with a file, the next one is read
                file.failure, file.blocks = f"{e}", iter(())
                block = Block(_no_rows(self._source), (_letter(file.path, e),), 1)
            if block is None:
                file.ended = True
                return
            file.here = block.batch
            file.rejects.extend(block.rejects)
            if (known := self._acknowledged.get(key, 0)) > file.read:  # before a broken link, in this process
                _take(file, known - file.read)

    async def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._waiting or now_s - self._looked_s < self._every_s:
            return
        self._looked_s = now_s
        found = await asyncio.to_thread(self._there)
        begun = {f.path.name for f in self._files}
        complete = [(n, found[n]) for n in self._completeness.complete(found, now_s) if n not in begun]
        self._waiting.extend([c for c in complete if c not in self._kept][:WAITING_MAX])

    def _there(self) -> dict[str, Stamp]:
        """Files that are to be read, by name."""
        found: dict[str, Stamp] = {}
        try:
            with os.scandir(self._folder) as entries:
                names = [e.name for e in entries if self._wanted(e.name) and e.is_file()]
        except OSError as e:
            raise NotConnected(f"folder {self._folder} cannot be read ({e.strerror}): is its disk still there?") from e
        for name in names:
            if (stamp := _stamp(self._folder / name)) is not None:
                found[name] = stamp
        return found

    def _wanted(self, name: str) -> bool:
        return (
            not name.startswith(".")
            and name.lower().endswith(ENDINGS)
            and fnmatch.fnmatchcase(name, self._source.pattern)
        )

    def _prepare(self) -> None:
        if not self._folder.is_dir():
            raise ConfigError(
                f"folder {self._folder} is not there: make it, and mount it into the container of collect"
            )
        try:
            for name in (DONE, FAILED):
                (self._folder / name).mkdir(exist_ok=True)
        except OSError as e:
            raise ConfigError(f"folder {self._folder} cannot be written: {_WRITABLE}") from e
        if not all(os.access(self._folder / name, os.W_OK) for name in (".", DONE, FAILED)):
            raise ConfigError(f"folder {self._folder} cannot be written: {_WRITABLE}")

    def _put_away(self, file: _File) -> None:
        """Move or delete a file that is finished."""
        key = (file.path.name, file.stamp)
        self._acknowledged.pop(key, None)
        if _stamp(file.path) != file.stamp:  # somebody went on writing: all of it is read once that has ended
            log.warning(
                "%s: %s has changed after it was complete: is `settle` too short?", self._source.stream, file.path
            )
            return
        try:
            if file.failure:
                target = _move(file.path, self._folder / FAILED)
                target.with_name(f"{target.name}.reason").write_text(f"{file.failure}\n")
            elif self._source.after == "delete":
                file.path.unlink()
            else:
                _move(file.path, self._folder / DONE)
        except OSError as e:
            log.warning(
                "%s: %s cannot be put away (%s): the next start reads it again", self._source.stream, file.path, e
            )
            self._kept.add(key)


_WRITABLE = "collect moves what it has read to done/ and failed/ in it; let its user write there"


async def _nothing() -> None:
    """Nothing was read, so nothing is to be acknowledged."""


def _no_rows(source: FolderSource[Any]) -> Batch:
    columns = {f.qualified: np.empty(0, f.dtype) for f in source.schema.sent().fields}
    return Batch.of_keys([], np.empty(0, np.int64), columns)


def _letter(path: Path, error: Exception) -> DeadLetter:
    return DeadLetter(path.name.encode(), "file", f"{path}: {error}", str(path))


def _take(file: _File, count: int) -> tuple[Batch, tuple[DeadLetter, ...]]:
    assert file.here is not None
    rejects = tuple(file.rejects.popleft() for _ in range(min(count, len(file.rejects))))
    rows = min(count - len(rejects), len(file.here))
    batch, file.here = file.here.take(np.arange(rows)), file.here.take(np.arange(rows, len(file.here)))
    file.read += rows + len(rejects)
    return batch, rejects


def _stamp(path: Path) -> Stamp | None:
    """Size and time of change; None if the file is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _move(path: Path, folder: Path) -> Path:
    """Move a file into a folder of the same disk, under another name if its own is taken; where it is now."""
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    path.rename(target)
    return target
