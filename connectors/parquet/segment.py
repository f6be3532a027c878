"""Segment: contiguous offsets [start, end) of one topic-partition; its names in the store and its manifest. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, timedelta

import msgspec

from pipelines.errors import BadData

DAY_NS = 86_400 * 10**9
DATES_MAX = (
    400  # files of one segment: a year's backfill goes through, a device with a mad clock does not make thousands
)
NO_DATE = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Athena and DuckDB read as date = NULL
_EPOCH = date(1970, 1, 1)
_NAME = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)-(?P<log>[0-9a-f]{8})-(?P<start>\d{20})-(?P<end>\d{20})")


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """One log: a topic-partition of one Kafka cluster, which `log` stands for (`log_id`)."""

    topic: str
    partition: int
    log: str

    @property
    def name(self) -> str:
        """As in names of files."""
        return f"{self.topic}-{self.partition}-{self.log}"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The offsets of a segment."""

    origin: Origin
    start: int
    end: int

    @property
    def name(self) -> str:
        """Unique and sortable within an origin."""
        return f"{self.origin.name}-{self.start:020d}-{self.end:020d}"

    @classmethod
    def parse(cls, name: str) -> Span:
        """The inverse of `name`; `BadData` if it is something else."""
        m = _NAME.fullmatch(name)
        if m is None:
            raise BadData(f"{name!r} is not the name of a segment", reason="name")
        return cls(Origin(m["topic"], int(m["partition"]), m["log"]), int(m["start"]), int(m["end"]))


def log_id(cluster_id: str) -> str:
    """8 hex digits of a Kafka cluster: one that was set up anew begins its offsets again, and must not repeat names."""
    return hashlib.sha256(cluster_id.encode()).hexdigest()[:8]


class Column(msgspec.Struct, frozen=True):
    """A column of a file as a reader sees it."""

    name: str
    type: str  # Arrow's name of the type
    unit: str = ""


class File(msgspec.Struct, frozen=True):
    """One Parquet file of a segment. `path` is within the store."""

    path: str
    date: str
    rows: int
    bytes: int
    sha256: str
    time_min_us: int
    time_max_us: int
    layout: str  # key of Manifest.layouts


class Manifest(msgspec.Struct, frozen=True):
    """What the store has of the offsets [start, end). A reader who goes by manifests sees every row exactly once."""

    table: str
    pipeline: str
    site: str
    topic: str
    partition: int
    log: str
    start: int
    end: int
    files: tuple[File, ...]
    layouts: dict[str, tuple[Column, ...]]
    version: int = 1

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(f.rows for f in self.files)

    @property
    def span(self) -> Span:
        """The offsets that it covers."""
        return Span(Origin(self.topic, self.partition, self.log), self.start, self.end)

    @property
    def path(self) -> str:
        """Where it stands in the store: by its first offset, so that there is one for each."""
        return manifest_path(self.table, self.site, self.span.origin, self.start)

    def encode(self) -> bytes:
        """JSON, indented for people."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def decode(cls, raw: bytes, where: str) -> Manifest:
        """From JSON; `BadData` names the place."""
        try:
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise BadData(f"{where} is not a manifest: {e}", reason="manifest") from e


def manifest_path(table: str, site: str, origin: Origin, start: int) -> str:
    """Path of the manifest whose first offset is `start`. Spark, Hive and Athena pass over names that begin with '_'."""
    return f"{table}/_manifest/site={site}/{origin.name}-{start:020d}.json"


def file_path(table: str, site: str, day: str, span: Span, layout: str = "") -> str:
    """Path of a data file; `layout` tells apart the files of a segment within which the columns changed."""
    return f"{table}/site={site}/date={day}/{span.name}{'.' + layout if layout else ''}.parquet"


def date_of(day: int) -> str:
    """ISO date of a number of days since the epoch."""
    return (_EPOCH + timedelta(days=day)).isoformat()
