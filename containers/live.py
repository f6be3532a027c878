"""The live view of a pipeline at work: rates, lag, watermark, windows and uploads, read from the services' metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from containers.proof import sparkline
from containers.scrape import Readings, scrape
from pipelines.clock import SystemClock

PLAIN_EVERY_S = 5.0
RATES_MAX = 40


@dataclass
class View:
    """Figures of the way from devices to the store. `published` and `total` are told; the rest is scraped."""

    ports: Mapping[str, int]  # metrics port by service
    total: int
    published: Callable[[], int]
    clock: SystemClock = field(default_factory=SystemClock)
    rates: list[float] = field(default_factory=list)
    _before: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._live = (
            Live(console=self._console, transient=True, auto_refresh=False) if self._console.is_terminal else None
        )
        self._told_s = 0.0

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> dict[str, Readings]:
        """Scrape all services and show what they say; also returned, by service."""
        found = {name: scrape(port) for name, port in self.ports.items()}
        self._measure(found["collect"].total("source_records_total"))
        if self._live:
            self._live.update(self.panel(found), refresh=True)
        elif self.clock.monotonic_s() - self._told_s >= PLAIN_EVERY_S:
            self._told_s = self.clock.monotonic_s()
            facts = ", ".join(f"{k} {v}" for k, v in self._facts(found).items())
            print(f"demo: {self.published():,} of {self.total:,} published; {facts}", file=sys.stderr, flush=True)
        return found

    def _measure(self, collected: float) -> None:
        now = self.clock.monotonic_s()
        before_s, before = self._before
        if before_s:
            self.rates = [*self.rates, max(0.0, collected - before) / (now - before_s)][-RATES_MAX:]
        self._before = (now, collected)

    def _facts(self, found: Mapping[str, Readings]) -> dict[str, str]:
        process, upload = found["process"], found["upload"]
        watermark = min((w for w in process.values("watermark_timestamp_seconds") if w > 0), default=0.0)
        return {
            "collected": f"{found['collect'].total('source_records_total'):,.0f} readings",
            "rate": f"{self.rates[-1] if self.rates else 0:,.0f} readings/s",
            "lag": f"{process.total('consumer_lag_records'):,.0f} frames",
            "watermark": datetime.fromtimestamp(watermark, UTC).strftime("%Y-%m-%d %H:%M") if watermark else "none yet",
            "windows": f"{process.total('records_out_total', step='day'):,.0f} closed, {process.total('windows_open'):,.0f} open",
            "uploaded": f"{upload.total('upload_bytes_total') / 1e3:,.0f} kB, {upload.total('upload_rows_total'):,.0f} rows",
        }

    def panel(self, found: Mapping[str, Readings]) -> Panel:
        """The figures as a picture for a terminal."""
        table = Table.grid(padding=(0, 2))
        table.add_row("published", f"{self.published():,} of {self.total:,} readings")
        for name, text in self._facts(found).items():
            table.add_row(name, text)
        if len(self.rates) > 1:
            table.add_row("", f"[cyan]{sparkline(self.rates, RATES_MAX)}[/]")
        bar = ProgressBar(total=self.total, completed=self.published(), width=60)
        return Panel(Group(table, bar), title="devices → Kafka → windows → Parquet → store", width=70)
