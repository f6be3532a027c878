"""Window operators alone, without Kafka: rows a second on one core, beside a kernel written by hand in numpy for the same job.

Frames are decoded beforehand and go into the task in calls of about a quarter of a million rows, as the runtime gives
them. Every result is compared with numpy's. The growth tables show what more keys, more open windows and other frame
sizes cost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Figures, arguments, medians, progress, report, run_alone, show
from benchmarks.spine import Feed, Reading, Result, Tens
from pipelines import Pipeline, Schema, agg, hopping, session, tumbling
from pipelines.batch import Batch
from pipelines.expr import Array
from pipelines.task import Emitted, Task
from pipelines.windows import Over
from pipelines.wire import Frame, FrameInfo

SECOND = 10**9
CALL_ROWS = 2**18
FAR = 2**60


class Median(Schema):
    p50 = agg.quantile(Reading.x, 0.5)
    p99 = agg.quantile(Reading.x, 0.99)


@dataclass(frozen=True)
class Load:
    """What goes through an operator."""

    keys: int = 1_000
    frame_rows: int = 2_000
    rows: int = 8_000_000
    hz: float = 10.0  # readings a second of each key

    def values(self) -> Array:
        """Every reading, key by key in turn: reading i is of key i % keys."""
        return np.random.default_rng(1).normal(10, 3, self.rows)

    def times(self) -> Array:
        """Event times, ns: the keys report in turn, evenly."""
        return (np.arange(self.rows) * (SECOND / self.hz / self.keys)).astype(np.int64)

    def frames(self) -> list[Frame]:
        """The frames, all with one dictionary of keys, as a collector sends them."""
        x, when, code = self.values(), self.times(), (np.arange(self.rows) % self.keys).astype(np.int32)
        names = Batch.of_keys([f"press-{k}" for k in range(self.keys)], when[: self.keys], {}).names
        made = []
        for at in range(0, self.rows, self.frame_rows):
            part = slice(at, at + self.frame_rows)
            batch = Batch(names, code[part], when[part], {"Reading.x": x[part]})
            made.append(Frame(FrameInfo("bench", int(when[part][-1]), len(batch)), batch))
        return made


def task(over: Over, into: type[Schema]) -> Task:
    """A task with one window."""
    pipeline = Pipeline("bench")
    pipeline.read(Feed()).window(over, into).to(Result())
    return Task(pipeline.plan(), state_bytes_max=2**34)


def calls(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames as the runtime hands them out, and the heartbeat that closes the last window."""
    size = max(1, CALL_ROWS // len(frames[0].batch))
    nothing = Frame(FrameInfo("bench", FAR), frames[0].batch.take(slice(0, 0)))
    return [*(list(frames[i : i + size]) for i in range(0, len(frames), size)), [nothing]]


def through(worker: Task, given: Sequence[list[Frame]]) -> tuple[float, list[Emitted]]:
    """Seconds, and what came out."""
    out: list[Emitted] = []
    start = time.perf_counter()
    for frames in given:
        out += worker.process({"readings": frames})
    return time.perf_counter() - start, out


def kernel(load: Load, window_ns: int) -> tuple[float, Array]:
    """The same five aggregates by hand, for a tumbling window: what a specialist would write for exactly this job."""
    given = [
        [(f.batch.codes, f.batch.time, f.batch.columns["Reading.x"]) for f in c] for c in calls(load.frames())[:-1]
    ]
    windows = int(load.times()[-1]) // window_ns + 1
    size = windows * load.keys
    n, s1, s2 = np.zeros(size), np.zeros(size), np.zeros(size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    origin = load.values()[: load.keys]  # a value of each key, so that the variance does not cancel
    start = time.perf_counter()
    for frames in given:
        codes, when, x = (np.concatenate(columns) for columns in zip(*frames, strict=True))
        window = when // window_ns
        first = int(window[0])
        at = (window - first) * load.keys + codes
        upto = (int(window[-1]) - first + 1) * load.keys
        cells = slice(first * load.keys, first * load.keys + upto)
        n[cells] += np.bincount(at, minlength=upto)
        off = x - origin[codes]
        s1[cells] += np.bincount(at, off, upto)
        s2[cells] += np.bincount(at, off * off, upto)
        np.minimum.at(low[cells], at, x)
        np.maximum.at(high[cells], at, x)
    mean = s1 / n
    result = np.stack([n, np.tile(origin, windows) + mean, low, high, np.sqrt(np.maximum(s2 / n - mean * mean, 0))])
    return time.perf_counter() - start, result


def check(load: Load, out: Sequence[Emitted], truth: Array) -> None:
    """Compare tumbling results with the kernel's."""
    order = [np.lexsort((e.batch.codes, e.batch.time)) for e in out]
    for row, name in zip(truth, ("n", "mean", "low", "high", "std"), strict=True):
        got = np.concatenate([e.batch.columns[f"Tens.{name}"][o] for e, o in zip(out, order, strict=True)])
        np.testing.assert_allclose(got, row, rtol=1e-6, err_msg=name)


def run_tumbling(load: Load) -> None:
    """Tumbling 10 s: count, mean, min, max, std; and the kernel for the same."""
    seconds, out = through(task(tumbling("10s", late="0s"), Tens), calls(load.frames()))
    bound, truth = kernel(load, 10 * SECOND)
    check(load, out, truth)
    report(tumbling=load.rows / seconds, kernel=load.rows / bound)


def run_quantile(load: Load) -> None:
    """Tumbling 10 s: median and p99 of a sketch."""
    seconds, out = through(task(tumbling("10s", late="0s"), Median), calls(load.frames()))
    window = load.values()[: int(100 * load.keys)].reshape(100, load.keys)
    got = out[0].batch.columns["Median.p50"][np.argsort(out[0].batch.codes[: load.keys])]
    np.testing.assert_allclose(got, np.quantile(window, 0.5, axis=0, method="lower"), rtol=0.0101)
    report(quantile=load.rows / seconds)


def run_session(load: Load) -> None:
    """Sessions of 2 s gap: every key pauses for 5 s in each minute."""
    frames = []
    for f in load.frames():
        when = f.batch.time + f.batch.time // (60 * SECOND) * (5 * SECOND)
        frames.append(Frame(replace(f.info, watermark=int(when[-1])), replace(f.batch, time=when)))
    seconds, out = through(task(session("2s", late="0s"), Tens), calls(frames))
    counts = np.concatenate([e.batch.columns["Tens.n"] for e in out])
    minutes = -(-load.rows // int(60 * load.hz * load.keys))
    assert len(counts) == minutes * load.keys, (len(counts), minutes)
    assert counts.sum() == load.rows
    report(session=load.rows / seconds)


def run_hopping(load: Load) -> None:
    """An hour every minute against a minute tumbling."""
    load = replace(load, hz=1.0)
    given = calls(load.frames())
    plain, _ = through(task(tumbling("1m", late="0s"), Tens), given)
    seconds, out = through(task(hopping("1h", every="1m", late="0s"), Tens), given)
    counts = np.concatenate([e.batch.columns["Tens.n"] for e in out])
    assert counts.sum() == 60 * load.rows
    report(hopping=load.rows / seconds, minute=load.rows / plain)


CASES: dict[str, Callable[[Load], None]] = {
    "tumbling": run_tumbling,
    "quantile": run_quantile,
    "session": run_session,
    "hopping": run_hopping,
}  # fmt: skip


def run_growth(what: str, value: int) -> None:
    """One point of a growth table: rows a second of tumbling windows, and the bytes of state for each key and aggregate."""
    load = Load(rows=4_000_000)
    late = "0s"
    match what:
        case "keys":
            load = replace(load, keys=value, rows=max(4_000_000, 4 * value), hz=10 if value <= 10_000 else 0.2)
        case "frame_rows":
            load = replace(load, frame_rows=value, rows=min(4_000_000, 200_000 * value))
        case "open":
            late = f"{10 * (value - 1)}s"
    worker = task(tumbling("10s", late=late), Tens)
    given = calls(load.frames())
    seconds, _ = through(worker, given[:-1])
    report(rows_per_s=load.rows / seconds, state_bytes=worker.state_bytes, open=worker.windows_open)


GROWTH: dict[str, tuple[int, ...]] = {
    "keys": (10, 100, 1_000, 10_000, 100_000, 1_000_000),
    "open": (1, 10, 100),
    "frame_rows": (10, 100, 1_000, 10_000, 100_000),
}  # fmt: skip


def growth() -> dict[str, dict[int, float]]:
    """Every growth table: rows a second by size."""
    found: dict[str, dict[int, float]] = {}
    for what, sizes in GROWTH.items():
        found[what] = {n: run_alone("benchmarks.windows", ["growth", what, str(n)])["rows_per_s"] for n in sizes}
        progress(f"{what}: " + ", ".join(f"{n:,}: {rate / 1e6:.1f}M/s" for n, rate in found[what].items()))
    return found


def draw(tables: dict[str, dict[int, float]], to: Path) -> None:
    """The growth tables as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"keys": "keys", "open": "windows open at once", "frame_rows": "rows in a frame"}
    figure, axes = plt.subplots(1, len(tables), figsize=(10, 3), sharey=True, layout="constrained")
    for axis, (what, table) in zip(axes, tables.items(), strict=True):
        axis.plot(list(table), [rate / 1e6 for rate in table.values()], "o-", color="#2a6f97")
        axis.set(xscale="log", xlabel=titles[what], ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("million rows/s, one core")
    figure.savefig(to, dpi=150)


def main() -> None:
    """Run all cases interleaved, each in a process of its own; then the growth tables."""
    parser = arguments("Rows a second of the window operators alone on one core, beside a numpy kernel for the same.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth tables there (PNG or SVG)")
    options = parser.parse_args()
    runs: dict[str, list[Figures]] = {name: [] for name in CASES}
    for i in range(options.runs):
        for name, found in runs.items():
            found.append(run_alone("benchmarks.windows", ["case", name]))
        progress(f"run {i + 1} of {options.runs}: results right")
    figures: dict[str, float] = {}
    for found in runs.values():
        figures |= medians(found)
    figures["of_kernel"] = figures["tumbling"] / figures["kernel"]
    figures["hopping_slower"] = figures["minute"] / figures["hopping"]
    tables = growth()
    figures |= {f"{what}={n}": rate for what, table in tables.items() for n, rate in table.items()}
    rates = ("tumbling", "kernel", "quantile", "session", "minute", "hopping")
    shapes = {**dict.fromkeys(rates, "{:,.0f} rows/s"), "of_kernel": "{:.2f}", "hopping_slower": "{:.2f}x"}
    show(
        f"windows: 1,000 keys, frames of 2,000 rows, one core (medians of {options.runs})",
        figures,
        shapes,
        options.json,
    )
    if options.plot is not None:
        draw(tables, options.plot)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["case", name]:
            CASES[name](Load())
        case ["growth", what, value]:
            run_growth(what, int(value))
        case _:
            main()
