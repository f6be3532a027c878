"""The history of a site, on its engine: every attempt to change it, who made it and how it ended. Decisions; no I/O.

An attempt is a volume with a label, like a record, but failed ones are told of, too. It is written twice, when it begins and, in
another volume, when it ends: one that only began was broken off, unless it is going on just now or its record was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from containers import lock, names
from containers.commands import Command, CreateVolume, RemoveVolume
from containers.rollout import Record

KEPT = 20
WHY_CHARS_MAX = 300
BEGUN = "-begun"
Labels = Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """An attempt to change a site."""

    number: int  # 0: only its record is known
    at: str  # when it began: ISO 8601, UTC
    by: str  # user@host
    action: str  # deploy | rollback
    what: str  # name and fingerprint of the pipeline
    revision: int  # that it was to make
    note: str = ""
    result: str = "running"  # done | refused | rolled back | broken | running | broken off
    seconds: float | None = None  # that it took
    services: tuple[str, ...] = ()  # that were to be replaced
    why: str = ""  # it failed


def number(site: str, volumes: Mapping[str, Labels]) -> int:
    """The number of the next attempt."""
    return max((n for n, _, _ in _found(site, volumes)), default=0) + 1


def begun(site: str, entry: Entry, volumes: Mapping[str, Labels]) -> list[Command]:
    """Put on record that an attempt begins, and forget the oldest."""
    old = [name for n, _, name in _found(site, volumes) if n <= entry.number - KEPT]
    return [_write(site, entry, BEGUN), *map(RemoveVolume, old)]


def ended(site: str, entry: Entry) -> list[Command]:
    """Put on record how it ended."""
    told = replace(entry, why=entry.why[:WHY_CHARS_MAX])
    return [_write(site, told, ""), RemoveVolume(names.history(site, entry.number, BEGUN))]


def entries(site: str, now_s: float, volumes: Mapping[str, Labels]) -> list[Entry]:
    """All that the engine's volumes (labels by name) tell of a site's attempts, newest first. `now_s`: the engine's time."""
    volumes = {name: labels for name, labels in volumes.items() if labels.get(names.SITE) == site}
    records = [r for labels in volumes.values() if (r := _decoded(labels.get(names.RECORD), Record))]
    known: dict[int, Entry] = {}
    for n, over, name in _found(site, volumes):  # the end comes after the beginning
        entry = _decoded(volumes[name].get(names.HISTORY), Entry)
        if entry:
            known[n] = entry if over else replace(entry, result="broken off")
    made = {(r.revision, r.at) for r in records}
    newest = max(known, default=0)
    working = bool(lock.seen(site, now_s, volumes).valid())
    told = [_judged(e, done=(e.revision, e.at) in made, working=working and n == newest) for n, e in known.items()]
    seen = {(e.revision, e.at) for e in told}
    told += [_of(r) for r in records if (r.revision, r.at) not in seen]
    return sorted(told, key=lambda e: (e.number, e.revision), reverse=True)


def _judged(entry: Entry, *, done: bool, working: bool) -> Entry:
    if entry.result != "broken off":
        return entry
    return replace(entry, result="done" if done else "running" if working else "broken off")


def _of(record: Record) -> Entry:
    """Of a record that tells more than its attempt, which is forgotten or was made by an older version."""
    return Entry(0, record.at, record.by, record.action, record.what, record.revision, record.note, result="done")


def _found(site: str, volumes: Mapping[str, Labels]) -> Iterator[tuple[int, bool, str]]:
    """(number, whether it tells of the end, name) of each volume that tells of an attempt, those of beginnings first."""
    pattern = re.compile(re.escape(names.history(site, "")) + rf"(\d+)({BEGUN})?")
    found = [(int(m[1]), m[2] is None, name) for name in volumes if (m := pattern.fullmatch(name))]
    yield from sorted(found)


def _write(site: str, entry: Entry, suffix: str) -> CreateVolume:
    labels = {names.SITE: site, names.HISTORY: msgspec.json.encode(entry).decode()}
    return CreateVolume(names.history(site, entry.number, suffix), labels)


def _decoded(label: str | None, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(label or "", type=kind)
    except msgspec.DecodeError:
        return None


def value(entry: Entry) -> dict[str, Any]:
    """For programs."""
    shown: dict[str, Any] = msgspec.to_builtins(entry)
    return shown
