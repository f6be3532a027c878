"""What a demonstration has to show for itself, counted at the far end by a reader that is not ours, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Count:
    """How many readings each station of the way has seen."""

    published: int  # by the devices, acknowledged by the MQTT broker
    collected: int  # frames' rows in the site's topic
    windowed: int  # readings that the day windows in the store say they hold
    stored: int  # rows in the store's Parquet files

    @property
    def lost(self) -> int:
        """Readings that are missing somewhere; negative if some are there twice."""
        worst = min(self.collected, self.windowed, self.stored)
        most = max(self.collected, self.windowed, self.stored)
        return self.published - (worst if worst < self.published else most)

    def __str__(self) -> str:
        shown = f"{self.published:,} readings published, {self.collected:,} collected, {self.windowed:,} windowed, "
        doubled = f", {-self.lost:,} DOUBLED" if self.lost < 0 else ""
        return shown + f"{self.stored:,} in the store, {max(self.lost, 0):,} lost{doubled}"


def files(store: Path, table: str) -> str:
    """Glob of a table's files."""
    return str(store / table / "site=*" / "date=*" / "*.parquet")


def query(sql: str) -> list[tuple[Any, ...]]:
    """Rows of a DuckDB query; none if there are no files yet."""
    import duckdb

    try:
        return duckdb.connect().execute(sql).fetchall()
    except duckdb.IOException:
        return []


def number(sql: str) -> int:
    """The one number a query gives, 0 if nothing."""
    rows = query(sql)
    return int(rows[0][0] or 0) if rows else 0


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as a line of bars, averaged to `width` of them."""
    n = min(width, len(values))
    groups = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(BARS[int((m - low) / ((high - low) or 1) * (len(BARS) - 1))] for m in means)


def draw(days: Sequence[tuple[str, Any, float, float, float]], to: Path) -> None:
    """A chart of (station, day, coldest, mean, warmest): the year of each station."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    for station in sorted({d[0] for d in days}):
        when, low, mean, high = zip(*(d[1:] for d in days if d[0] == station), strict=True)
        (line,) = axes.plot(when, mean, linewidth=1.2, label=station)
        axes.fill_between(when, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set_title("Daily temperature: mean, coldest and warmest, from the windows in the store")
    axes.set_ylabel("°C")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(to, dpi=120)
    plt.close(figure)
