"""What is on record of a backfill, so that it can be taken up again: what it is, and how far each unit has come.

Below the folder of results, where readers of tables do not look:
  _backfill/job.json         what is computed from what, and the units
  _backfill/00003.state      of unit 3: the state after a slab, and what was written until then
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from connectors.backfill.pieces import Unit
from connectors.upload.disk import Disk
from pipelines.errors import StateError, Unavailable

FOLDER = "_backfill"


class Saved(msgspec.Struct):
    """How far a unit has come."""

    slabs: int = 0  # that are done
    written: dict[str, int] = {}  # results of each step that are in files
    rows: int = 0  # readings computed
    dropped: int = 0  # readings that could not be used
    files: int = 0
    task: bytes = b""  # snapshot
    done: bool = False


class Record:
    """The record of a backfill in its folder of results."""

    def __init__(self, out: str) -> None:
        self.folder = Path(out).resolve() / FOLDER

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works on it meanwhile; `Unavailable` if somebody does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
        except BlockingIOError as e:
            raise Unavailable(
                f"a backfill into {self.folder.parent} is running already: wait for it, or give another --out"
            ) from e

    def check(self, facts: dict[str, object]) -> list[Unit]:
        """The units of the backfill that is there, none if there is none; `StateError` if it is another one."""
        path = self.folder / "job.json"
        if not path.exists():
            return []
        there = self._read(path)
        if differs := [n for n in facts if there.get(n) != msgspec.json.decode(msgspec.json.encode(facts[n]))]:
            raise StateError(
                f"{self.folder.parent} holds the results of another backfill, which differs in {', '.join(differs)}: give "
                "another folder with --out, or remove this one"
            )
        return [msgspec.convert(u, Unit) for u in there["units"]]

    def begin(self, facts: dict[str, object], units: list[Unit]) -> None:
        """Put a new backfill on record."""
        data = msgspec.json.encode({**facts, "units": [asdict(u) for u in units]})
        put(self.folder, "job.json", msgspec.json.format(data))

    def load(self, unit: Unit) -> Saved:
        """How far a unit has come."""
        path = self._state(unit)
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=Saved) if path.exists() else Saved()
        except msgspec.DecodeError as e:
            raise StateError(f"{path} is damaged ({e}): remove it to compute this part anew") from e

    def save(self, unit: Unit, saved: Saved) -> None:
        """Put on record, durably."""
        put(self.folder, self._state(unit).name, msgspec.msgpack.encode(saved))

    def _state(self, unit: Unit) -> Path:
        return self.folder / f"{unit.number:05d}.state"

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        except msgspec.DecodeError as e:
            raise StateError(f"{path} is damaged ({e}): remove {self.folder.parent} and begin again") from e
        return found


def put(folder: Path, path: str, data: bytes) -> None:
    """Put a file into a folder, durably and whole or not at all; what a crash left of it before is written over."""
    disk, file = Disk(), folder / path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.write(file, lambda out: _fill(out, data))
        disk.publish(file)
        for above in file.parents:
            disk.sync(above)
            if above == folder:
                break
    except OSError as e:
        raise Unavailable(
            f"{file} cannot be written ({e.strerror or e}): free space, or give another folder with --out"
        ) from e


def _fill(file: BinaryIO, data: bytes) -> None:
    file.write(data)
