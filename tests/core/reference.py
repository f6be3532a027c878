"""What windows mean, slowly and obviously: plain Python, one row at a time.

The watermark is the newest time of all frames so far. A row is judged by the watermark in force when its frame arrived.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.windows import Count, Even, Session, Sliding, Window


@dataclass(frozen=True)
class Reading:
    device: str
    time: int
    x: float
    k: int


@dataclass(frozen=True)
class Result:
    """A window of a device: its first and last nanosecond, and its readings in order of arrival."""

    device: str
    start: int
    time: int
    readings: list[Reading]


Frames = Sequence[Sequence[Reading]]
Found = tuple[list[Result], list[Reading]]  # and the late rows


def windows_of(time: int, w: Window) -> list[tuple[int, int]]:
    """(start, end) of each window that holds a time."""
    if isinstance(w.grid, Even):
        size, every = w.size * w.grid.width, w.hop * w.grid.width
        at = time - w.grid.offset
        starts = [i * every + w.grid.offset for i in range((at - size) // every + 1, at // every + 1)]
        return [(s, s + size) for s in starts]
    edges = w.grid.edge(np.arange(-2000, 40_000)).tolist()
    at = bisect_right(edges, time) - 1
    return [(edges[i], edges[i + w.size]) for i in range(at - w.size + 1, at + 1)]


def windows(frames: Frames, w: Window) -> Found:
    """Windows of the calendar or the clock: closed once the watermark is `late` past their end."""
    kept: dict[tuple[str, int, int], list[Reading]] = {}
    late: list[Reading] = []
    newest = -math.inf
    for frame in frames:
        for r in frame:
            open_ = [(s, e) for s, e in windows_of(r.time, w) if e > newest - w.late]
            for s, e in open_:
                kept.setdefault((r.device, s, e - 1), []).append(r)
            if not open_:
                late.append(r)
        newest = max([r.time for r in frame] + [newest])
    return [Result(*where, rows) for where, rows in kept.items()], late


def in_time(frames: Frames, late_ns: int) -> tuple[list[Reading], list[Reading]]:
    """Rows, and those that are older than the watermark less `late_ns`."""
    kept: list[Reading] = []
    late: list[Reading] = []
    newest = -math.inf
    for frame in frames:
        for r in frame:
            (late if r.time < newest - late_ns else kept).append(r)
        newest = max([r.time for r in frame] + [newest])
    return kept, late


def of_device(rows: Sequence[Reading]) -> dict[str, list[Reading]]:
    """Rows of each device."""
    return {d: [r for r in rows if r.device == d] for d in sorted({r.device for r in rows})}


def sessions(frames: Frames, s: Session) -> Found:
    """A silence longer than the gap separates two sessions."""
    kept, late = in_time(frames, s.late)
    found = []
    for device, rows in of_device(kept).items():
        last = -math.inf
        for r in sorted(rows, key=lambda r: r.time):
            if r.time - last > s.gap:
                found.append(Result(device, r.time, r.time, []))
            last = r.time
            found[-1] = Result(device, found[-1].start, r.time, [*found[-1].readings, r])
    return found, late


def counts(frames: Frames, c: Count) -> Found:
    """Every `every` rows of a device the newest `size`; at the end the rest."""
    found = []
    for device, rows in of_device([r for f in frames for r in f]).items():
        ends = list(range(c.every, len(rows) + 1, c.every))
        for end in ends + [ends[-1] + c.every if ends else c.every] * (len(rows) % c.every > 0):
            some = rows[max(0, end - c.size) : end]
            found.append(Result(device, min(r.time for r in some), max(r.time for r in some), some))
    return found, []


def sliding(frames: Frames, s: Sliding) -> Found:
    """For each row those of its device up to `size` before it."""
    kept, late = in_time(frames, s.late)
    found = []
    for device, rows in of_device(kept).items():
        ordered = sorted(rows, key=lambda r: r.time)
        for i, r in enumerate(ordered):
            some = [o for o in ordered[: i + 1] if o.time > r.time - s.size]
            found.append(Result(device, r.time - s.size + 1, r.time, some))
    return found, late


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


def key_clock(frames: Frames, w: Window) -> Found:
    """Windows of a device closed by its own newest row, or when the watermark has left it behind by `idle`."""
    kept: dict[tuple[str, int, int], list[Reading]] = {}
    late: list[Reading] = []
    clock: dict[str, int] = {}
    heard: dict[str, int] = {}
    closed: dict[str, int] = {}
    newest: int | None = None
    for frame in frames:
        for r in frame:
            d = r.device
            limit = max(clock[d] - w.late if d in clock else r.time - 10**12, closed.get(d, r.time - 10**12))
            open_ = [(s, e) for s, e in windows_of(r.time, w) if e > limit]
            for s, e in open_:
                kept.setdefault((d, s, e - 1), []).append(r)
            if not open_:
                late.append(r)
            clock[d] = max(clock.get(d, r.time), r.time)
        newest = max([r.time for r in frame] + ([] if newest is None else [newest]))
        heard |= {r.device: newest for r in frame}
        for d in clock:
            if newest - heard[d] >= w.idle:
                closed[d] = max(closed.get(d, -(10**18)), windows_of(clock[d], w)[-1][1])
    return [Result(*where, rows) for where, rows in kept.items()], late
