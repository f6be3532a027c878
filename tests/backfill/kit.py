"""Pipeline files, datasets in several layouts, and what the same readings give as a stream."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.backfill.job import Job, Limits
from connectors.backfill.run import Summary, run
from connectors.backfill.work import Told
from connectors.parquet import manifest
from connectors.parquet.segment import File, Manifest, Origin, Span, file_path
from connectors.parquet.writer import Rows, columns_of
from pipelines import testing
from pipelines.batch import WINDOW_START, Batch
from pipelines.dsl import Pipeline
from pipelines.load import load
from pipelines.runtime.kafka import partition_of

SECOND = 10**9
BEGIN = 1_780_000_000 * SECOND // (86_400 * SECOND) * 86_400 * SECOND  # a midnight
SMALL = Limits(held_bytes_max=2**16, slab_rows=2_000, checkpoint_rows=4_000, file_rows_max=1_000)

HEAD = """
from dataclasses import dataclass
import numpy as np
from connectors import control, parquet, topic
from pipelines import (
    Col, Key, Pipeline, Schema, agg, calendar, count, hopping, session, sliding, tumbling
)


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")
    k = Col[int]()
    state = Col[str]()
"""

ONE = (
    HEAD
    + """

class Machine(Schema):
    device = Key[str]()
    limit = Col[float]("mm/s", absent=1.0)


class Tens(Schema):
    n = agg.count()
    mean = agg.mean(Reading.x)
    std = agg.std(Reading.x)
    high = agg.max(Reading.x)
    p90 = agg.quantile(Reading.x, 0.9)
    energy = agg.integral(Reading.x)
    state = agg.last(Reading.state)
    whole = agg.sum(Reading.k)


class Minute(Schema):
    mean = agg.mean(Tens.mean)
    spread = agg.std(Tens.mean)


class Hop(Schema):
    mean = agg.mean(Reading.x)
    kurtosis = agg.kurtosis(Reading.x)


class Run(Schema):
    peak = agg.max(Reading.x)
    ewma = agg.ewma(Reading.x, "5s")


class Hundred(Schema):
    mean = agg.mean(Reading.x)


class Trail(Schema):
    z = agg.zscore(Reading.x)


class Day(Schema):
    n = agg.count()


class Over(Schema):
    by = Reading.x - Machine.limit
    state = Reading.state


class Smooth(Schema):
    level = Col[float]()


class Own(Schema):
    n = agg.count()


@dataclass(frozen=True)
class Half:
    @property
    def state(self):
        return {"level": ("float64", 0.0)}

    def step(self, state, x):
        state["level"] = (state["level"] + x) / 2
        return (state["level"],)


test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
readings.to(parquet.dataset("t/raw"))
machines = test.dimension(Machine, "machines.csv")
results = {}
tens = readings.window(tumbling("10s", late="2s"), Tens)
for name, stream in {
    "tens": tens,
    "minute": tens.window(tumbling("1m", late="0s"), Minute),
    "hop": readings.window(hopping("30s", every="10s", late="0s"), Hop),
    "run": readings.where(Reading.state == "run").window(session("3s", late="1s"), Run),
    "hundred": readings.window(count(100), Hundred),
    "trail": readings.where(Reading.k > 90).window(sliding("20s", late="0s"), Trail),
    "day": readings.window(calendar("day", tz="Europe/Berlin", late="0s"), Day),
    "own": readings.window(tumbling("10s", late="0s").key_clock(idle="1h"), Own),
}.items():
    results[name] = stream.to(parquet.dataset("t/" + name))
over = readings.join(machines, how="inner").select(Over).where(Over.by > 0)
results["over"] = over.to(parquet.dataset("t/over"), name="over")
smooth = readings.scan(Half(), Reading.x, into=Smooth)
results["smooth"] = smooth.to(parquet.dataset("t/smooth"), name="smooth")
moved = readings.changes(Reading.x, deadband=2.0)
results["moved"] = moved.to(parquet.dataset("t/moved"), name="moved")
tens.late.to(parquet.dataset("t/late"))
alarms = tens.where(Tens.mean > 12)
alarms.to(control.command(topic="press/{device}/cmd", verb="slow", expires="30s"), name="alarms")
"""
)

TWO = (
    HEAD
    + """

class Tool(Schema):
    device = Key[str]()
    wear = Col[float]("%")


class Work(Schema):
    device = Key[str]()
    order = Col[int](absent=0)


class Worn(Schema):
    x = Reading.x
    wear = Tool.wear


class Ordered(Schema):
    x = Reading.x
    order = Work.order


class Pair(Schema):
    x = Reading.x
    wear = Tool.wear


class Mean(Schema):
    x = agg.mean(Reading.x)


class Wear(Schema):
    wear = agg.mean(Tool.wear)


class Both(Schema):
    x = Mean.x
    wear = Wear.wear


test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
tools = test.read(topic.append(Tool, "tools"))
work = test.table(topic.compacted(Work, "work"))
results = {
    "worn": readings.join(tools.latest(), how="left", tolerance="1m").select(Worn),
    "ordered": readings.join(work, how="left").select(Ordered),
    "pair": readings.join_within(tools, before="500ms", after="200ms", how="inner", late="0s").select(Pair),
}
mean = readings.window(tumbling("10s", late="0s"), Mean)
wear = tools.window(tumbling("10s", late="0s"), Wear)
results["both"] = mean.join_window(wear, how="inner").select(Both)
for name in results:
    results[name] = results[name].to(parquet.dataset("t/" + name), name=name)
"""
)

REKEYED = (
    HEAD
    + """

class Tens(Schema):
    mean = agg.mean(Reading.x)
    state = agg.last(Reading.state)


class ByState(Schema):
    n = agg.count()
    devices = agg.distinct(Reading.device)
    mean = agg.mean(Reading.k)


class Groups(Schema):
    n = agg.count()
    high = agg.max(Tens.mean)


test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
tens = readings.window(tumbling("10s", late="0s"), Tens)
results = {
    "devices": tens,
    "states": readings.key_by(Reading.state).window(tumbling("10s", late="0s"), ByState),
    "groups": tens.key_by(Tens.state).window(tumbling("30s", late="0s"), Groups),
}
for name in results:
    results[name] = results[name].to(parquet.dataset("t/" + name))
"""
)


def program(folder: Path, text: str) -> str:
    """A pipeline file with its dimension beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "machines.csv").write_text("device,limit\n" + "".join(f"m{i},{i}\n" for i in range(0, 40, 2)))
    file = folder / "pipe.py"
    file.write_text(text)
    return str(file)


def results(file: str) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline of a file, and its results by name."""
    pipeline = load(file)
    module = sys.modules["sitestream_pipeline_pipe"]
    return pipeline, module.results


def readings(rows: int, keys: int, seed: int = 0, *, schema: str = "Reading", every: float = 0.01) -> Batch:
    """Readings of `keys` devices in the order of time, on whole microseconds; some times are equal."""
    random = np.random.default_rng(seed)
    time = BEGIN + np.sort(random.integers(0, int(rows * every * 1e6), rows)) // 1000 * 1_000_000
    columns: dict[str, Any] = {}
    match schema:
        case "Reading":
            columns = {"x": random.normal(10, 3, rows), "k": random.integers(0, 100, rows)}
            columns["state"] = np.array(["run", "stop"], "T")[random.integers(0, 2, rows)]
        case "Tool":
            columns = {"wear": random.uniform(0, 100, rows)}
        case "Work":
            columns = {"order": random.integers(0, 1000, rows)}
    names = pa.array([f"m{i}" for i in range(keys)])
    codes = random.integers(0, keys, rows).astype(np.int32)
    return Batch(names, codes, time, {f"{schema}.{n}": c for n, c in columns.items()})


@dataclass(frozen=True)
class Store:
    """Writes datasets as `upload` and others do."""

    file: str  # of the pipeline
    root: Path

    def segments(self, stream: str, frames: Sequence[Batch], *, site: str = "hall", partitions: int = 2) -> Path:
        """A table with manifests: a segment of each partition for each of the batches."""
        row = self._row(stream)
        table = f"raw/{stream}"
        for partition in range(partitions):
            origin, at = Origin(f"{site}.{stream}", partition, "0123abcd"), 0
            for batch in frames:
                own = np.array([partition_of(k, partitions) == partition for k in batch.names.to_pylist()])
                part = batch.take(own[batch.codes])
                if len(part):
                    self._segment(Rows(row, [part]), table, site, Span(origin, at, at + 3))
                    at += 3
        return self.root / table

    def _segment(self, rows: Rows, table: str, site: str, span: Span) -> None:
        files = []
        for part in rows.parts():
            path = self.root / file_path(table, site, part.date, span)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                rows.write(part, out, "compact", {})
            times = part.time_min_us, part.time_max_us
            name = str(path.relative_to(self.root))
            files.append(File(name, part.date, len(part.rows), path.stat().st_size, "", *times, "l"))
        o = span.origin
        where = site, o.topic, o.partition, o.log, span.start, span.end
        made = Manifest(table, "test", *where, tuple(files), {"l": columns_of(rows.row)})
        path = self.root / made.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.encode())

    def plain(self, stream: str, batch: Batch, *, by: str, group: int = 3_000, name: str = "plain.parquet") -> Path:
        """One file as other programs write it, its rows by 'time' or by 'key'."""
        row = self._row(stream)
        if by == "key":
            batch = batch.take(np.lexsort((batch.time, batch.codes)))
        table = pa.table(
            {row.key: batch.keys, "time": pa.array(batch.time, pa.timestamp("ns"))}
            | {f.name: _plain(batch.columns[f.qualified]) for f in row.fields}
        )
        path = self.root / stream / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=group)
        return path

    def _row(self, stream: str) -> Any:
        return load(self.file).plan().sources[stream].schema.measured()


def _plain(values: Any) -> Any:
    return pa.array(values.tolist(), pa.string()) if values.dtype.kind == "T" else pa.array(values)


def job(file: str, datasets: Mapping[str, Path], out: Path, *, limits: Limits = SMALL, **more: Any) -> Job:
    """One with small limits."""
    return Job(file, tuple((s, str(d)) for s, d in datasets.items()), str(out), limits=limits, **more)


def silent(rows: int) -> None:
    """Tell nobody."""


def backfill(
    file: str, datasets: Mapping[str, Path], out: Path, *, jobs: int = 1, told: Told = silent, **more: Any
) -> Summary:
    """Run one."""
    return run(job(file, datasets, out, **more), jobs=jobs, told=told)


def stored(out: Path, table: str) -> dict[str, list[Any]]:
    """Columns of a table, read by its manifests, in a fixed order of rows."""
    found = manifest.files(f"file://{out}", table)
    if not found:
        return {}
    assert not manifest.verify(f"file://{out}", table)
    whole = pa.concat_tables([pq.read_table(out / f.path, partitioning=None) for f in found], promote_options="default")
    columns = {name: _values(whole.column(name)) for name in whole.column_names}
    return _ordered(columns)


def streamed(batch: Batch, row: Any) -> dict[str, list[Any]]:
    """The same of what a step gave as a stream."""
    columns = {row.key: batch.keys, "time": (batch.time // 1000).tolist()}
    if row.windowed:
        columns["window_start"] = (batch.columns[WINDOW_START] // 1000).tolist()
    columns |= {f.name: batch.columns[f.qualified].tolist() for f in row.fields}
    return _ordered(columns)


def both(*parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows of several, in the same fixed order."""
    return _ordered({n: [v for part in parts for v in part[n]] for n in parts[0]})


def _values(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return values


def _ordered(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Floats by their bits, so that NaN equals NaN and nothing is near enough."""
    text = {n: [v.hex() if isinstance(v, float) else v for v in c] for n, c in columns.items()}
    rows = sorted(zip(*text.values(), strict=True), key=repr)
    return dict(zip(text, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}


def as_stream(file: str, batches: Mapping[str, Batch], facts: Batch | None = None) -> dict[str, dict[str, list[Any]]]:
    """What the pipeline gives for the same readings in 50 frames of each stream, side by side in time."""
    pipeline, streams = results(file)
    plan = pipeline.plan()
    handles = {s.spec.stream: s.name for s in plan.steps if s.kind in ("source", "table")}
    inputs: dict[Any, Any] = {}
    first, last = min(b.time[0] for b in batches.values()), max(b.time[-1] for b in batches.values())
    edges = first + (last - first) // 50 * np.arange(1, 50)
    for stream, batch in batches.items():
        handle = replace(next(iter(streams.values())), step=handles[stream])
        cuts = [0, *np.searchsorted(batch.time, edges).tolist(), len(batch)]
        inputs[handle] = [batch.take(slice(*cuts[i : i + 2])) for i in range(50)]
    if facts is not None:
        inputs[replace(next(iter(streams.values())), step="machine")] = facts
    out = testing.run(pipeline, inputs)
    return {name: streamed(out[s], plan.by_name[s.step].row) for name, s in streams.items()}
