"""`python -m benchmarks`: every benchmark, one after another; options are given to each."""

from __future__ import annotations

from benchmarks import spine, windows

for benchmark in (windows, spine):
    benchmark.main()
