"""Backfill of windows over Parquet, beside DuckDB's GROUP BY for the same windows on the same files, with one thread and all.

The files are written by the writer of `upload`: readings of 1,000 devices at 10 Hz, by key and time within each file. Windows
of 10 s: count, mean, minimum and maximum. Results of both are compared with numpy's. `arrow` only reads the three columns: the
most that any program over these files can do.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import backfill_pipeline
from benchmarks.backfill_pipeline import Reading
from benchmarks.measure import Figures, arguments, medians, progress, report, run_alone, show
from benchmarks.windows import Load
from connectors.backfill.job import Job
from connectors.backfill.run import run
from connectors.parquet.writer import Rows
from pipelines.batch import Batch

LOAD = Load(rows=96_000_000)
FILE_ROWS = 4_000_000
WINDOW_NS = 10 * 10**9
THREADS = len(os.sched_getaffinity(0))


def make(folder: Path, load: Load) -> None:
    """Write the files, and the truth beside them: count, mean, minimum and maximum, shape (4, windows, keys)."""
    names = pa.array([f"press-{k:04}" for k in range(load.keys)])
    x, when, code = (
        load.values().round(2),
        load.times() // 1000 * 1000,
        (np.arange(load.rows) % load.keys).astype(np.int32),
    )
    for at in range(0, load.rows, FILE_ROWS):
        part = slice(at, at + FILE_ROWS)
        rows = Rows(Reading.measured(), [Batch(names, code[part], when[part], {"Reading.x": x[part]})])
        for i, of_date in enumerate(rows.parts()):
            with (folder / f"{at:012}-{i}.parquet").open("wb") as file:
                rows.write(of_date, file, "compact", {})
    windows = int(when[-1]) // WINDOW_NS + 1
    cell = when // WINDOW_NS * load.keys + code
    n = np.bincount(cell, minlength=windows * load.keys)
    low, high = np.full(len(n), np.inf), np.full(len(n), -np.inf)
    np.minimum.at(low, cell, x)
    np.maximum.at(high, cell, x)
    np.save(folder / "truth.npy", np.stack([n, np.bincount(cell, x) / n, low, high]).reshape(4, windows, load.keys))


def check(found: pa.Table, folder: Path) -> None:
    """Compare with the truth a table of device, time (any in the window), n, mean, low, high."""
    truth = np.load(folder / "truth.npy")
    device = np.char.partition(found.column("device").to_numpy(zero_copy_only=False).astype(str), "-")[:, 2].astype(int)
    window = found.column("time").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() * 1000 // WINDOW_NS
    assert found.num_rows == (truth[0] > 0).sum(), found.num_rows
    for name, want in zip(("n", "mean", "low", "high"), truth[:, window, device], strict=True):
        np.testing.assert_allclose(found.column(name).to_numpy(), want, rtol=1e-12)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_backfill(folder: Path, threads: int) -> None:
    """Windows by `pipeline backfill`, its results on disk."""
    with tempfile.TemporaryDirectory() as out:
        job = Job(backfill_pipeline.__file__, (("readings", str(folder)),), out)
        seconds = timed(lambda: run(job, jobs=threads))
        report(seconds=seconds)
        check(
            pa.concat_tables(pq.read_table(p, partitioning=None) for p in Path(out).glob("bench/tens/**/*.parquet")),
            folder,
        )


def run_duckdb(folder: Path, threads: int) -> None:
    """Windows by DuckDB, its results in memory."""
    import duckdb

    with duckdb.connect(config={"threads": threads}) as database:
        query = (
            "SELECT device, time_bucket(INTERVAL '10 s', time) AS time, count(*) AS n, avg(x) AS mean, "
            "min(x) AS low, max(x) AS high "
            f"FROM '{folder}/*.parquet' GROUP BY ALL"
        )
        found: list[pa.Table] = []
        seconds = timed(lambda: found.append(database.sql(query).to_arrow_table()))
        report(seconds=seconds)
        check(found[0], folder)


def run_arrow(folder: Path, threads: int) -> None:
    """Read the columns and do nothing."""

    def read() -> None:
        for path in sorted(folder.glob("*.parquet")):
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group, columns=["device", "time", "x"], use_threads=threads > 1)

    report(seconds=timed(read))


CASES = {"backfill": run_backfill, "duckdb": run_duckdb, "arrow": run_arrow}


def main() -> None:
    """Run all cases interleaved, each in a process of its own."""
    options = arguments(
        "Rows a second of a backfill over Parquet, beside DuckDB's GROUP BY of the same windows."
    ).parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backfill-"))
    try:
        progress(f"writing {LOAD.rows:,} readings to {folder}")
        make(folder, LOAD)
        size = sum(p.stat().st_size for p in folder.glob("*.parquet"))
        runs: dict[str, list[Figures]] = {f"{name}_{n}": [] for n in (1, THREADS) for name in CASES}
        for i in range(options.runs):
            for case, found in runs.items():
                name, _, threads = case.rpartition("_")
                found.append(run_alone("benchmarks.backfill", [name, str(folder), threads], pin=threads == "1"))
            progress(f"run {i + 1} of {options.runs}: results right")
    finally:
        shutil.rmtree(folder)
    medians_of = {case: medians(found) for case, found in runs.items()}
    figures = {case: LOAD.rows / found["seconds"] for case, found in medians_of.items()}
    figures |= {f"rss_mb_{case}": found["rss_mb"] for case, found in medians_of.items()}
    figures["bytes_a_row"] = size / LOAD.rows
    for n in (1, THREADS):
        figures[f"of_duckdb_{n}"] = figures[f"backfill_{n}"] / figures[f"duckdb_{n}"]
        figures[f"of_arrow_{n}"] = figures[f"backfill_{n}"] / figures[f"arrow_{n}"]
    rates = dict.fromkeys(runs, "{:,.0f} rows/s")
    ratios = {f"of_{other}_{n}": "{:.2f}" for n in (1, THREADS) for other in ("duckdb", "arrow")}
    shapes = {**rates, **ratios, "rss_mb_backfill_1": "{:,.0f} MB", "bytes_a_row": "{:.1f}"}
    show(
        f"backfill: 1,000 keys, {LOAD.rows:,} rows in Parquet (medians of {options.runs})",
        figures,
        shapes,
        options.json,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name, folder, threads] if name in CASES:
            CASES[name](Path(folder), int(threads))
        case _:
            main()
