"""Readings from CSV, Parquet or JSONL files: recorded ones at their own pace, or as they come into a folder. Descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from connectors.base import TimeUnit
from connectors.conditions import Condition, check
from connectors.options import duration, durations
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.topics import named_after

S = TypeVar("S", bound=Schema)
FILE_STEM = "{stem}"
ENDINGS = (".csv", ".parquet", ".jsonl", ".ndjson")
After = Literal["move", "delete"]


@dataclass(frozen=True)
class Form(Generic[S]):
    """How readings stand in files."""

    schema: type[S]
    headers: tuple[tuple[str, str], ...]  # (bare column name, header in the file)
    key: str
    time: str
    time_unit: TimeUnit


@dataclass(frozen=True)
class ReplaySource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.replay.reader:ReplayReader"
    recorded: ClassVar[bool] = True  # its times are of the past, whatever the speed

    schema: type[S]
    stream: str
    path: str
    speed: float
    form: Form[S]
    silence: str = "2s"
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"replay": self.path, "speed": f"{self.speed:g}" if self.speed else "as fast as possible"}


@dataclass(frozen=True)
class FolderSource(Generic[S]):
    """See `folder`."""

    reader: ClassVar[str] = "connectors.replay.watch:FolderReader"
    speed: ClassVar[float] = 0.0  # between two files no time passes
    silence: ClassVar[str] = "2s"
    stale: ClassVar[str | None] = None
    recorded: ClassVar[bool] = True

    schema: type[S]
    stream: str
    folder: str
    pattern: str
    form: Form[S]
    every: str
    settle: str
    after: After
    conditions: tuple[Condition, ...] = ()

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"folder": f"{self.folder}/{self.pattern}"}


def source(
    schema: type[S],
    path: str,
    *,
    speed: float | None = 1.0,
    stream: str | None = None,
    columns: Mapping[Expr[Any], str] | None = None,
    key: str | None = None,
    time: str = "time",
    time_unit: TimeUnit = "iso",
    conditions: Sequence[Condition] = (),
) -> ReplaySource[S]:
    """Readings of `schema` from the files that match `path` (`*` and `**` allowed), in the order of their names.

    `speed`: 60 replays an hour in a minute; 0 or None as fast as possible. `columns`: headers that differ from the schema's
    names, `{Vibration.rms: "RMS [mm/s]"}`. `key`: header of the key; '{stem}' takes the file's name without its ending.
    `time`, `time_unit`: as in `mqtt.source`; Parquet timestamps are taken as they are, in UTC if they have no zone.
    A new start of `collect` reads all of it again.
    """
    if not path.lower().endswith(ENDINGS):
        raise PlanError(f"replay {path!r}: only {', '.join(ENDINGS)} can be read")
    if (speed or 0) < 0:
        raise PlanError(f"replay speed={speed}: speed is at least 0")
    form = _form("replay", schema, columns, key, time, time_unit)
    name, asked = stream or named_after(schema.__name__), check("replay", schema, conditions)
    return ReplaySource(schema, name, path, speed or 0.0, form, conditions=asked)


def folder(
    schema: type[S],
    path: str,
    *,
    pattern: str = "*",
    stream: str | None = None,
    columns: Mapping[Expr[Any], str] | None = None,
    key: str | None = None,
    time: str = "time",
    time_unit: TimeUnit = "iso",
    every: str = "1s",
    settle: str = "2s",
    after: After = "move",
    conditions: Sequence[Condition] = (),
) -> FolderSource[S]:
    """Readings of `schema` from files that come into the folder `path`, an absolute path.

    Every `every` it is looked for files that match `pattern` and end as CSV, Parquet or JSONL do. A file is read once it is
    complete: its size and time have not changed for `settle`. Names that begin with a dot are left alone, so a writer may use
    such a name and rename the file when it is whole. Of the files that are complete the first by name is read first.
    A file of which Kafka has all readings is moved to `done/` in the folder, or deleted (`after="delete"`). After a crash a file
    that was not finished is read again from its beginning. What cannot be read goes to `failed/`, beside a text that says why.
    `columns`, `key`, `time`, `time_unit`, `stream`: as in `source`. `conditions`: what is reported of the readings.
    The watermark moves with readings only.
    """
    if not PurePath(path).is_absolute():
        raise PlanError(f"folder {path!r}: write the absolute path of a folder")
    if not pattern or "/" in pattern:
        raise PlanError(f"folder pattern={pattern!r}: write a pattern of names, such as 'press-*.csv'")
    if after not in get_args(After):
        raise PlanError(f"folder after={after!r}: write 'move' or 'delete'")
    durations("folder", every=every)
    duration("folder", "settle", settle, zero=True)
    form = _form("folder", schema, columns, key, time, time_unit)
    name, asked = stream or named_after(schema.__name__), check("folder", schema, conditions)
    return FolderSource(schema, name, path.rstrip("/"), pattern, form, every, settle, after, asked)


def _form(
    what: str,
    schema: type[S],
    columns: Mapping[Expr[Any], str] | None,
    key: str | None,
    time: str,
    time_unit: TimeUnit,
) -> Form[S]:
    row = schema.sent()
    given = {expr.qualified: header for expr, header in (columns or {}).items()}
    if unknown := given.keys() - {f.qualified for f in row.fields}:
        raise PlanError(
            f"{what} columns={{{', '.join(sorted(unknown))}: …}}: "
            f"{schema.__name__} has {', '.join(f.qualified for f in row.fields)}"
        )
    if time_unit not in get_args(TimeUnit):
        raise PlanError(f"{what} time_unit={time_unit!r}: it is iso, s, ms, us or ns")
    headers = tuple((f.name, given.get(f.qualified, f.name)) for f in row.fields)
    return Form(schema, headers, key or row.key, time, time_unit)
