"""`python -m benchmarks`: every benchmark, one after another; options are given to each."""

from __future__ import annotations

from benchmarks import backfill, spine, windows

for benchmark in (windows, backfill, spine):
    benchmark.main()
