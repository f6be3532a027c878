"""`pipeline backfill`: the pipeline over history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from containers.cli_shared import Context, Duration, shared
from containers.console import Console
from pipelines.batch import TIME_NS_MAX
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.plan import Plan

if TYPE_CHECKING:
    from connectors.backfill.run import Summary

LINES = 10  # of progress where no terminal listens


class Moment(click.ParamType):
    """'2026-01-31' (midnight UTC) or '2026-01-31T12:00+01:00'."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """ns since 1970."""
        try:
            when = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time: write 2026-01-31 or 2026-01-31T12:00Z", param, ctx)
        if when.tzinfo is None:
            if len(str(value)) > len("2026-01-31"):
                self.fail(f"{value!r} does not say in which zone: write {value}Z for UTC, or {value}+01:00", param, ctx)
            when = when.replace(tzinfo=UTC)
        since = when - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


@click.command()
@click.argument("file")
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    metavar="[STREAM=]DATASET",
    help="Readings: a folder, file or 'pattern' of Parquet or CSV; of a stream, if the pipeline reads several.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option(
    "--from", "begin", type=Moment(), default=None, help="Results from this event time on [the first reading]."
)
@click.option("--to", "end", type=Moment(), default=None, help="… up to, not including, this one [the last reading].")
@click.option("--warm-up", type=Duration(), help="Also read so much before --from [as long as the windows reach].")
@click.option("--jobs", type=click.IntRange(1), help="Processes [one for each core].")
@click.option("--cluster", metavar="ADDRESS", default="", help="Work on a Dask cluster: tcp://scheduler:8786.")
@shared
@click.pass_obj
def backfill(
    context: Context, file: str, sources: tuple[str, ...], out: Path, begin: int | None, end: int | None,
    warm_up: float | None, jobs: int | None, cluster: str,
) -> None:  # fmt: skip
    """Compute the tables of a pipeline from recorded readings.

    Every step that leads to a Parquet table runs over the readings in the order of event time, as if none had come late; no
    command goes to any device. Broken off, the same command goes on from where it was. Results are those with
    --from ≤ time < --to whose windows were read in full. The layout of --out is that of the site's store.

    \b
    Examples:
      pipeline backfill press.py --source /srv/store/press/raw --out /srv/history
      pipeline backfill press.py --source /srv/store/press/raw --from 2026-01-01 --to 2026-02-01 --out january
      pipeline backfill line.py  --source welds='welds/*.csv' --source tools=tools.parquet --out history
      pipeline backfill press.py --source /share/raw --out /share/history --cluster tcp://scheduler:8786
    """
    from connectors.backfill.job import Job  # what they need is not needed by other commands
    from connectors.backfill.run import run

    plan = load(file).plan()
    job = Job(
        _absolute(file),
        datasets(plan, sources),
        str(out.absolute()),
        -TIME_NS_MAX if begin is None else begin,
        TIME_NS_MAX if end is None else end,
        None if warm_up is None else round(warm_up * 1e9),
    )
    with shown(context.console) as bar:
        done = run(job, jobs=jobs or 0, cluster=cluster, planned=bar.planned, told=bar.told)
    context.console.data(_text(done, out), {"out": str(out), **_values(done)})


def datasets(plan: Plan, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(stream, dataset) of each option; `ConfigError` if it does not say which stream it is of."""
    streams = plan.streams
    found = []
    for text in given:
        stream, equals, dataset = text.partition("=")
        if equals and "/" not in stream:
            found.append((stream, _absolute(dataset)))
        elif len(streams) == 1:
            found.append((streams[0], _absolute(text)))
        else:
            raise ConfigError(
                f"--source {text}: {plan.pipeline} reads {', '.join(streams)}: say whose readings "
                f"these are, --source {streams[0]}={text}"
            )
    return tuple(found)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


@dataclass
class Bar:
    """How far a backfill is: a bar on a terminal, else a line now and then."""

    console: Console
    rich: Progress | None
    total: int = 0
    done: int = 0
    shown: int = field(default=0)

    def planned(self, rows: int) -> None:
        """So many readings are to be computed, at most."""
        self.total = rows
        if self.rich is not None:
            self.rich.add_task("readings", total=rows)

    def told(self, rows: int) -> None:
        """So many more are computed."""
        self.done += rows
        if self.rich is not None:
            self.rich.update(self.rich.task_ids[0], advance=rows)
        elif (part := self.done * LINES // max(self.total, 1)) > self.shown:
            self.shown = part
            self.console(f"{self.done:,} of {self.total:,} readings")


@contextmanager
def shown(console: Console) -> Iterator[Bar]:
    """A bar that is there while the work is done."""
    rich = console.rich()
    if not rich.is_terminal:
        yield Bar(console, None)
        return
    columns = TextColumn("backfill"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=rich) as progress:
        yield Bar(console, progress)


def _text(done: Summary, out: Path) -> str:
    results = ", ".join(f"{step} {rows:,}" for step, rows in done.results.items())
    lines = [f"{done.rows:,} readings gave {results} rows in {done.files:,} files in {out}"]
    if done.dropped:
        lines.append(f"{done.dropped:,} readings were left out: a value that has no absent= was missing")
    return "\n".join(lines)


def _values(done: Summary) -> dict[str, object]:
    return {"readings": done.rows, "left_out": done.dropped, "files": done.files, "results": done.results}
