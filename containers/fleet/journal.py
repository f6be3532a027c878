"""A rollout on record: `.sitestream/rollouts/<id>/journal.jsonl` in the fleet folder, a header and then an event a line.

Each event is on disk before anything is done because of it, so a rollout can be taken up wherever it was broken off. One process
at a time writes a journal and holds its lock; others leave their wishes as files beside it, which that process takes up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec

from containers.fleet.events import Aborted, Event, Over, Paused, Restarted, Resumed, Superseded, Tick
from containers.fleet.policy import Policy
from containers.fleet.schedule import Schedule
from pipelines.clock import Clock
from pipelines.errors import ConfigError, StateError, Unavailable

FOLDER, FILE, WISHES = Path(".sitestream") / "rollouts", "journal.jsonl", "wishes"
VERSION = 1  # of the journal's form
TAIL_BYTES = 4096  # more than the last line of a rollout that is over
KNOWN_SHOWN_MAX = 5
LOOK_EVERY_S, LOOKS_MAX = 0.1, 30  # whether a wish was taken up
_TIME = "%Y%m%dT%H%M%SZ"
_EVENT = msgspec.json.Decoder(Event)

Wish = Paused | Resumed | Aborted | Superseded


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a journal: who, when, what, where and how."""

    id: str
    at: str  # ISO 8601, UTC
    who: str
    release: str
    note: str = ""
    policy: Policy
    sites: tuple[str, ...]
    options: dict[str, str] = {}  # of the deploy, so that it can be taken up as it was begun
    version: int = VERSION


@dataclass(frozen=True)
class Record:
    """A rollout as its journal tells it."""

    header: Header
    schedule: Schedule
    driven: bool  # whether a process is carrying it out now
    over: Over | None


@dataclass
class Journal:
    """A journal held for writing. `schedule` is what it adds up to."""

    path: Path
    header: Header
    schedule: Schedule
    _file: BinaryIO

    def record(self, event: Event) -> None:
        """Apply an event and bring it to disk; `Unavailable` if that cannot be done. Ticks need no record."""
        self.schedule.apply(event)
        if not isinstance(event, Tick):
            try:
                line = msgspec.json.encode(event) + b"\n"
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError as e:
                raise Unavailable(
                    f"{self.path}: cannot be written: {e.strerror}; mend that, then: pipeline rollout resume {self.header.id}"
                ) from e

    def finish(self, at_s: float) -> None:
        """Record that the rollout is over."""
        counts = {str(state): n for state, n in self.schedule.counts.items() if n}
        self.record(Over(at_s, self.schedule.result, counts))

    def take_wishes(self) -> Iterator[Wish]:
        """Wishes of other processes, each recorded before it is given."""
        for path in sorted(self.path.with_name(WISHES).glob("[0-9]*.json")):
            wish = msgspec.json.decode(path.read_bytes(), type=Wish)
            if not self.schedule.complete:
                self.record(wish)
                yield wish
            path.unlink()

    def close(self) -> None:
        """Let others write it."""
        self._file.close()


def create(
    fleet: Path,
    clock: Clock,
    *,
    who: str,
    release: str,
    policy: Policy,
    sites: Sequence[str],
    note: str = "",
    options: dict[str, str] | None = None,
) -> Journal:
    """Begin a rollout: its journal, held for writing. Older rollouts leave `sites` to it."""
    root = fleet / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    at = datetime.fromtimestamp(clock.now_ns() // 10**9, UTC)
    if known := ids(fleet):  # ids stay in order, whatever the clock does
        at = max(at, datetime.strptime(known[-1][:16], _TIME).replace(tzinfo=UTC) + timedelta(seconds=1))
    name = f"{at:{_TIME}}-{re.sub(r'[^A-Za-z0-9.]+', '', release.removeprefix('sha256:'))[:12] or 'release'}"
    header = Header(
        id=name, at=at.isoformat(), who=who, release=release, note=note, policy=policy, sites=tuple(sites),
        options=options or {},
    )  # fmt: skip
    journal = _write_new(root, header)
    for older in open_ids(fleet):
        if older < name:
            with suppress(StateError):  # one that is damaged cannot be taken up either
                wish(fleet, older, Superseded(clock.now_ns() / 1e9, by=name, sites=header.sites))
    return journal


def _write_new(root: Path, header: Header) -> Journal:
    """The folder appears as a whole or not at all."""
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    new.chmod(0o755)
    (new / WISHES).mkdir()
    file = _locked(new / FILE, header.id)
    file.write(msgspec.json.encode(header) + b"\n")
    os.fsync(file.fileno())
    try:
        new.rename(root / header.id)
    except OSError as e:
        file.close()
        shutil.rmtree(new)
        raise Unavailable(f"rollout {header.id} was begun by another process at the same moment: try again") from e
    _sync_folder(root)
    return Journal(root / header.id / FILE, header, Schedule(header.policy, header.sites), file)


def reopen(fleet: Path, name: str) -> Journal:
    """Take up a rollout that was broken off; `Unavailable` if another process is carrying it out."""
    path = fleet / FOLDER / name / FILE
    file = _locked(path, name)
    try:
        header, events, whole = _decoded(path)
        os.ftruncate(file.fileno(), whole)  # a last line that was being written
        return Journal(path, header, Schedule(header.policy, header.sites, events), file)
    except BaseException:
        file.close()
        raise


def read(fleet: Path, name: str) -> Record:
    """A rollout as it stands."""
    path = fleet / FOLDER / name / FILE
    header, events, _ = _decoded(path)
    over = events[-1] if events and isinstance(events[-1], Over) else None
    return Record(header, Schedule(header.policy, header.sites, events), _is_locked(path), over)


def wish(fleet: Path, name: str, event: Wish, *, pause: Callable[[float], None] = time.sleep) -> bool:
    """Have a rollout paused, resumed, aborted or superseded; True if the process that carries it out has been told to.

    If there is no such process, the event is recorded by this one.
    """
    left = _leave(fleet / FOLDER / name / WISHES, event)
    for _ in range(LOOKS_MAX):
        try:
            journal = reopen(fleet, name)
        except Unavailable:
            pause(LOOK_EVERY_S)
            if not left.exists():
                break
            continue
        with closing(journal):
            if journal.schedule.counts["working"]:
                journal.record(Restarted(event.at_s))
            for _ in journal.take_wishes():
                pass
            if journal.schedule.complete:
                journal.finish(event.at_s)
        return False
    return True


def ids(fleet: Path) -> list[str]:
    """Ids of all rollouts, oldest first."""
    return sorted(p.parent.name for p in (fleet / FOLDER).glob(f"[0-9]*/{FILE}"))


def open_ids(fleet: Path) -> list[str]:
    """Ids of the rollouts that are not over."""
    return [name for name in ids(fleet) if _last(fleet / FOLDER / name / FILE) is None]


def find(fleet: Path, name: str | None) -> str:
    """The id of the rollout that is meant: what it begins with, or its release; None: the newest. `ConfigError` if none is."""
    known = ids(fleet)
    if not known:
        raise ConfigError(
            f"{fleet}: there is no rollout: name the fleet folder with --fleet DIR, or begin one with `pipeline deploy`"
        )
    if name is None:
        return known[-1]
    found = [k for k in known if k == name] or [k for k in known if k.startswith(name) or k.endswith(f"-{name}")]
    if len(found) == 1 and name:
        return found[0]
    newest = ", ".join(reversed((found or known)[-KNOWN_SHOWN_MAX:]))
    raise ConfigError(
        f"{fleet}: {f'{len(found)} rollouts are' if found else 'there is no rollout'} called {name!r}; the newest: {newest}"
    )


@dataclass(frozen=True)
class Entry:
    """A line of the history."""

    header: Header
    result: str
    counts: dict[str, int]
    ended_s: float | None  # since the epoch; None if it is not over


def history(fleet: Path, limit: int) -> list[Entry]:
    """The newest rollouts, newest first."""
    return [_entry(fleet, name) for name in reversed(ids(fleet)[-limit:])]


def _entry(fleet: Path, name: str) -> Entry:
    path = fleet / FOLDER / name / FILE
    if (last := _last(path)) is not None:
        with path.open("rb") as file:
            return Entry(_header(file.readline(), path), last.result, last.counts, last.at_s)
    record = read(fleet, name)
    counts = {str(state): n for state, n in record.schedule.counts.items() if n}
    return Entry(record.header, standing(record), counts, None)


def standing(record: Record) -> str:
    """A rollout in a word; 'interrupted' if it has work to do and nobody does it."""
    result = record.schedule.result
    return "interrupted" if result == "running" and not record.driven else result


def _decoded(path: Path) -> tuple[Header, list[Event], int]:
    """Header, events and how many bytes of the file are whole lines."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise StateError(f"{path}: cannot be read: {e.strerror}") from e
    lines = raw.splitlines(keepends=True)
    header, events, whole = _header(lines[0] if lines else b"", path), [], len(lines[0])
    for number, line in enumerate(lines[1:], 2):
        try:
            events.append(_EVENT.decode(line) if line.endswith(b"\n") else _torn())
        except msgspec.DecodeError as e:
            if number == len(lines):
                break
            raise StateError(f"{path}:{number}: is damaged ({e}): remove {path.parent}, and deploy again") from e
        whole += len(line)
    return header, events, whole


def _torn() -> Event:
    raise msgspec.DecodeError("torn")


def _header(line: bytes, path: Path) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as e:
        raise StateError(f"{path}:1: is not the beginning of a rollout ({e}): remove {path.parent}") from e
    if header.version > VERSION:
        raise StateError(f"{path}: was written by a newer version of this program (form {header.version}): use that")
    return header


def _last(path: Path) -> Over | None:
    """The event that ended a rollout."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    line = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    if not tail.endswith(b"\n") or b'"event":"over"' not in line:
        return None
    try:
        return msgspec.json.decode(line, type=Over)
    except msgspec.DecodeError:
        return None


def _leave(folder: Path, event: Wish) -> Path:
    """Appears as a whole: a reader never sees half of it."""
    handle, new = tempfile.mkstemp(prefix=".new-", dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(event))
        os.fsync(file.fileno())
    return Path(new).rename(folder / f"{int(event.at_s * 1e6)}-{new[-8:]}.json")


def _locked(path: Path, name: str) -> BinaryIO:
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        file.close()
        raise Unavailable(
            f"rollout {name} is being carried out by another process: look at it with `pipeline rollout status {name}`"
        ) from e
    return file


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
