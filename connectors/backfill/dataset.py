"""The files of a dataset: by its manifests if it has any, else every Parquet or CSV file of a folder or pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyarrow import fs

from connectors.parquet.manifest import seams
from connectors.parquet.segment import DAY_NS, NO_DATE, Manifest, Span
from pipelines.errors import BadData, ConfigError, Unavailable

_PART = re.compile(r"(?:^|/)(site|date)=([^/]+)")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Found:
    """A file. `site` is '' if its path names none; `low`, `high` (ns) bound its times as far as the path or a manifest tells."""

    path: str
    bytes: int
    site: str = ""
    low: int = -(2**63)
    high: int = 2**63 - 1
    partition: int | None = None

    @property
    def is_csv(self) -> bool:
        """Whether it is text."""
        return self.path.lower().endswith(".csv")


@dataclass(frozen=True, slots=True)
class Place:
    """A file system, and how a path within it is written down: '/srv/raw', 's3://bucket/raw'."""

    system: fs.FileSystem
    prefix: str
    path: str

    @classmethod
    def of(cls, text: str) -> Place:
        """From a path or a URL that Arrow knows; `ConfigError` if it is neither."""
        if "://" not in text:
            return cls(fs.LocalFileSystem(), "", str(Path(text).resolve()))
        try:
            system, path = fs.FileSystem.from_uri(text)
        except (ValueError, OSError) as e:
            raise ConfigError(f"dataset {text!r} cannot be opened: {e}: write a folder, or s3://bucket/folder") from e
        return cls(system, text.partition("://")[0] + "://", path)


def files(dataset: str) -> list[Found]:
    """Every file, in the order in which readings of equal times count; `ConfigError` if there is none."""
    try:
        found = _files(dataset)
    except OSError as e:
        raise Unavailable(f"dataset {dataset} cannot be listed: {e}") from e
    if not found:
        raise ConfigError(
            f"dataset {dataset}: there is no such file or folder, or no .parquet or .csv file in it: give the folder of a table, "
            "such as /srv/store/press/raw, a file, or a pattern in quotes, such as 'raw/*.parquet'"
        )
    return found


def _files(dataset: str) -> list[Found]:
    if any(c in dataset for c in "*?["):
        return [_of_path(p, Path(p).stat().st_size) for p in sorted(glob.glob(dataset, recursive=True)) if _is_data(p)]
    place = Place.of(dataset)
    root = place.system.get_file_info(place.path)
    if root.type == fs.FileType.NotFound:
        return []
    if root.is_file:
        return [_of_path(place.prefix + place.path, root.size)] if _is_data(place.path) else []
    selected = place.system.get_file_info(fs.FileSelector(place.path, recursive=True))
    inside = {i.path.removeprefix(place.path).lstrip("/"): i.size for i in selected if i.is_file}
    manifests = sorted(p for p in inside if p.startswith("_manifest/"))
    if manifests:
        return _by_manifests(place, manifests)
    there = sorted(p for p in inside if _is_data(p) and not re.search(r"(^|/)[._]", p))
    return [_of_path(f"{place.prefix}{place.path}/{p}", inside[p]) for p in there]


def _is_data(path: str) -> bool:
    return path.lower().endswith((".parquet", ".csv"))


def _of_path(path: str, size: int) -> Found:
    parts = dict(_PART.findall(path))
    low, high = _day(parts.get("date", NO_DATE))
    try:
        partition = Span.parse(path.rpartition("/")[2].split(".")[0]).origin.partition
    except BadData:
        partition = None
    return Found(path, size, parts.get("site", ""), low, high, partition)


def _day(text: str) -> tuple[int, int]:
    try:
        first = (date.fromisoformat(text) - _EPOCH).days * DAY_NS
    except ValueError:
        return -(2**63), 2**63 - 1
    return first, first + DAY_NS - 1


def _by_manifests(place: Place, paths: Sequence[str]) -> list[Found]:
    """The files that count: what a crash left behind is named by no manifest."""
    read = [Manifest.decode(place.system.open_input_file(f"{place.path}/{p}").read(), p) for p in paths]
    read.sort(key=lambda m: (m.site, m.span))
    if overlap := next((p for p in seams(read) if p.kind == "overlap"), None):
        raise BadData(
            f"dataset {place.path}: two manifests of {overlap.where} both have {overlap.text}: its readings would count twice; "
            "remove the segment that should not be there", reason="overlap",
        )  # fmt: skip
    return [
        Found(f"{place.prefix}{place.path}{f.path.removeprefix(m.table)}", f.bytes, m.site, f.time_min_us * 1000,
              f.time_max_us * 1000 + 999, m.partition)
        for m in read for f in m.files
    ]  # fmt: skip
