"""Reading a table by its manifests: every row exactly once, whatever crashed while it was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeAlias

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import ObjectStore, from_url

from connectors.parquet.segment import File, Manifest
from pipelines.errors import Unavailable

LISTINGS_MAX = 5
Place: TypeAlias = str | ObjectStore  # a URL such as 'file:///data/store', or an obstore store (for S3 with its keys)


@dataclass(frozen=True, slots=True)
class Problem:
    """What `verify` found. `kind` is gap, overlap, missing (a file that a manifest names) or size (of such a file)."""

    kind: str
    where: str
    text: str


def manifests(store: Place, table: str) -> list[Manifest]:
    """Every manifest of a table, by site, origin and offset; `BadData` if one is damaged, `Unavailable` if none can be read."""
    place = _open(store)
    try:
        found = _paths(place, f"{table}/_manifest/")
        read = [Manifest.decode(bytes(obstore.get(place, path).bytes()), path) for path in sorted(found)]
    except (obstore.exceptions.BaseError, OSError) as e:
        raise Unavailable(f"the manifests of table {table!r} cannot be read: {e}") from e
    return sorted(read, key=lambda m: (m.site, m.span))


def _paths(place: ObjectStore, prefix: str) -> list[str]:
    """What is in a folder, but for the hidden files that upload is just writing; they may be gone while one looks."""
    for _ in range(LISTINGS_MAX - 1):
        with suppress(NotFoundError, FileNotFoundError):
            return _listed(place, prefix)
    return _listed(place, prefix)


def _listed(place: ObjectStore, prefix: str) -> list[str]:
    paths = [m["path"] for chunk in obstore.list(place, prefix=prefix) for m in chunk]
    return [path for path in paths if not path.rpartition("/")[2].startswith(".")]


def files(store: Place, table: str) -> list[File]:
    """Every data file of a table that counts; a file that no manifest names is the rest of a crash and is left out."""
    return [file for manifest in manifests(store, table) for file in manifest.files]


def verify(store: Place, table: str) -> list[Problem]:
    """Gaps and overlaps in the offsets of each origin, and files that are missing or of another size; empty if all is well."""
    place, found = _open(store), manifests(store, table)
    return [*seams(found), *(p for m in found for f in m.files for p in _check(place, f))]


def seams(found: list[Manifest]) -> Iterator[Problem]:
    """Gaps and overlaps between manifests that stand in order."""
    for (site, origin), chain in groupby(found, lambda m: (m.site, m.span.origin)):
        for before, after in pairwise(chain):
            if after.start != before.end:
                kind = "gap" if after.start > before.end else "overlap"
                low, high = sorted((before.end, after.start))
                yield Problem(kind, f"{site}/{origin.name}", f"offsets [{low}, {high}) before {after.path}")


def _check(store: ObjectStore, file: File) -> Iterator[Problem]:
    try:
        size = obstore.head(store, file.path)["size"]
    except (NotFoundError, FileNotFoundError):
        yield Problem("missing", file.path, "a manifest names it, but it is not in the store")
        return
    if size != file.bytes:
        yield Problem("size", file.path, f"has {size} bytes, its manifest says {file.bytes}")


def _open(store: Place) -> ObjectStore:
    return from_url(store) if isinstance(store, str) else store
