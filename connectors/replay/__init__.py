"""Recorded readings from CSV or Parquet files, at their own pace, faster, or at once. A description only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from connectors.base import TimeUnit
from connectors.conditions import Condition, check
from pipelines.errors import PlanError
from pipelines.expr import Expr
from pipelines.schema import Schema
from pipelines.topics import named_after

S = TypeVar("S", bound=Schema)
FILE_STEM = "{stem}"


@dataclass(frozen=True)
class ReplaySource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.replay.reader:ReplayReader"
    recorded: ClassVar[bool] = True  # its times are of the past, whatever the speed

    schema: type[S]
    stream: str
    path: str
    speed: float
    headers: tuple[tuple[str, str], ...]  # (bare column name, header in the file)
    key: str
    time: str
    time_unit: TimeUnit
    silence: str = "2s"
    conditions: tuple[Condition, ...] = ()
    stale: str | None = None

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        return {"replay": self.path, "speed": f"{self.speed:g}" if self.speed else "as fast as possible"}


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
    row = schema.sent()
    given = {expr.qualified: header for expr, header in (columns or {}).items()}
    if unknown := given.keys() - {f.qualified for f in row.fields}:
        raise PlanError(
            f"replay columns={{{', '.join(sorted(unknown))}: …}}: "
            f"{schema.__name__} has {', '.join(f.qualified for f in row.fields)}"
        )
    if not path.endswith((".csv", ".CSV", ".parquet")):
        raise PlanError(f"replay {path!r}: only .csv and .parquet can be read")
    if (speed or 0) < 0 or time_unit not in ("iso", "s", "ms", "us", "ns"):
        raise PlanError(
            f"replay speed={speed}, time_unit={time_unit!r}: speed is at least 0; time_unit is iso, s, ms, us or ns"
        )
    headers = tuple((f.name, given.get(f.qualified, f.name)) for f in row.fields)
    name, asked = stream or named_after(schema.__name__), check("replay", schema, conditions)
    return ReplaySource(schema, name, path, speed or 0.0, headers, key or row.key, time, time_unit, conditions=asked)
