"""What the benchmarks share: pinning, runs in processes of their own, medians, tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

Figures = Mapping[str, float]
WORKER_CORE, BROKER_CORE = 0, 1


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on one core, as do the processes started meanwhile; on machines with a single core there is no choice."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[min(core, len(before) - 1)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_alone(module: str, words: Sequence[str], *, pin: bool = True) -> Figures:
    """Run `python -m module words…` on the worker's core, or on all; the figures it printed (see `report`)."""
    with pinned(WORKER_CORE) if pin else nullcontext():
        done = subprocess.run([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def report(**figures: float) -> None:
    """Give figures to `run_alone`, with the peak memory of this process."""
    status = Path("/proc/self/status").read_text()  # getrusage would give the peak of the parent, if that was higher
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({**figures, "rss_mb": peak_kb / 1024}))


def medians(runs: Sequence[Figures]) -> dict[str, float]:
    """Of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def progress(text: str) -> None:
    """What is going on, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--runs", type=int, default=3, help="of each kind, interleaved; the medians count")
    return parser


def show(title: str, figures: Figures, shapes: Mapping[str, str], to: Path | None) -> None:
    """Print a table: `shapes` gives a format such as '{:,.0f} rows/s' for each figure; write all figures to a file."""
    print(f"\n{title}")
    for name, shape in shapes.items():
        print(f"  {name:<18} {shape.format(figures[name])}")
    if to is not None:
        to.write_text(json.dumps(figures, indent=2) + "\n")
