"""What windows mean, slowly and obviously: plain Python, one row at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.windows import Window


@dataclass(frozen=True)
class Reading:
    device: str
    time: int
    x: float
    k: int


def windows(
    frames: Sequence[Sequence[Reading]], w: Window
) -> tuple[dict[tuple[str, int], list[Reading]], list[Reading]]:
    """Readings of each (device, window start) in order of arrival, and the late ones.

    The watermark is the newest time of all frames so far; a window is closed once it is `late` past its end.
    """
    kept: dict[tuple[str, int], list[Reading]] = {}
    late: list[Reading] = []
    newest: int | None = None
    for frame in frames:
        for r in frame:
            first = (r.time - w.size) // w.every + 1
            starts = [i * w.every for i in range(first, r.time // w.every + 1)]
            open_ = [s for s in starts if newest is None or s + w.size > newest - w.late]
            for s in open_:
                kept.setdefault((r.device, s), []).append(r)
            if not open_:
                late.append(r)
        newest = max([r.time for r in frame] + ([newest] if newest is not None else []))
    return kept, late


def stats(readings: Sequence[Reading]) -> dict[str, float]:
    """Every aggregate of `programs.Stats`, NaN left out."""
    xs = [r.x for r in readings if not math.isnan(r.x)]
    timed = [r for r in readings if not math.isnan(r.x)]
    nan = math.nan
    return {
        "n": len(readings),
        "total": math.fsum(xs),
        "mean": statistics.fmean(xs) if xs else nan,
        "low": min(xs, default=nan),
        "high": max(xs, default=nan),
        "std": statistics.pstdev(xs) if xs else nan,
        "first": min(timed, key=lambda r: r.time).x if xs else nan,
        "last": max(enumerate(timed), key=lambda p: (p[1].time, p[0]))[1].x if xs else nan,
        "median": sorted(xs)[math.floor(0.5 * (len(xs) - 1))] if xs else nan,
        "whole": sum(r.k for r in readings),
        "biggest": max(r.k for r in readings),
        "newest": max(enumerate(readings), key=lambda p: (p[1].time, p[0]))[1].k,
        "span": max(xs) - min(xs) if xs else nan,
    }
