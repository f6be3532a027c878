"""Parquet as a sink: `minute.to(parquet.dataset("press/minute"))`. Pure description; `connectors.upload` acts on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.errors import PlanError
from pipelines.schema import Row
from pipelines.units import duration_ns, size_bytes

Profile = Literal["compact", "portable"]
ROLL_BYTES_MAX = 2**30  # a file is sent in one conditional PUT, from memory
PARTITION_COLUMNS = ("site", "date")  # Hive columns that stand in the path
_TABLE = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


@dataclass(frozen=True)
class Dataset:
    """A table of Parquet files in the site's store, one row group after another sorted by key and time."""

    table: str  # path of the table within the store
    roll: str
    every: str
    rows_max: int
    profile: Profile

    @property
    def kind(self) -> str:
        """See `Sink.kind`."""
        return "parquet"

    @property
    def roll_bytes(self) -> int:
        """Size of a file at which a new one is begun."""
        return size_bytes(self.roll)

    @property
    def every_s(self) -> float:
        """Age of the oldest row not yet in a file at which the file is closed."""
        return duration_ns(self.every) / 1e9

    def check(self, row: Row) -> None:
        """See `Sink.check`: a column must not be named like a part of the path."""
        taken = [n for n in (row.key, *(f.name for f in row.fields)) if n in PARTITION_COLUMNS]
        if taken:
            raise PlanError(
                f"{row.name}.{taken[0]} cannot go to Parquet table {self.table!r}: the path already has a column {taken[0]!r} "
                f"({self.table}/site=…/date=…/): rename the column"
            )

    def describe(self) -> dict[str, str]:
        """See `Sink.describe`."""
        return {
            "table": self.table, "roll": self.roll, "every": self.every, "rows_max": str(self.rows_max), "profile": self.profile,
        }  # fmt: skip


def dataset(
    table: str, *, roll: str = "64MiB", every: str = "15m", rows_max: int = 10_000_000, profile: Profile = "compact"
) -> Dataset:
    """A Parquet table in the site's store, e.g. `dataset("press/minute", every="15m")`.

    A file is closed when it reaches about `roll` bytes or `rows_max` rows, or when its oldest row has waited for `every`.
    `profile` "compact" uses the encodings that suit sensor data best (DuckDB, pyarrow, Polars, Spark 3.3+, Athena v3);
    "portable" uses plain and dictionary encoding only, for older readers.
    """
    if not _TABLE.fullmatch(table):
        raise PlanError(
            f"Parquet table {table!r} cannot be used: write names of lower-case letters, digits, '-' and '_', joined by '/', "
            "such as 'press/minute'"
        )
    if profile not in get_args(Profile):
        raise PlanError(f"Parquet table {table!r}: profile {profile!r} is unknown: write 'compact' or 'portable'")
    found = Dataset(table, roll, every, rows_max, profile)
    if not 0 < found.roll_bytes <= ROLL_BYTES_MAX:
        raise PlanError(f"Parquet table {table!r}: roll={roll!r} is out of range: write a size up to '1GiB'")
    if found.every_s <= 0 or rows_max <= 0:
        raise PlanError(f"Parquet table {table!r}: every={every!r} and rows_max={rows_max} must be more than 0")
    return found


__all__ = ["Dataset", "Profile", "dataset"]
