"""`python -m benchmarks`: every benchmark, one after another; options are given to each."""

from __future__ import annotations

from benchmarks import spine

for benchmark in (spine,):
    benchmark.main()
