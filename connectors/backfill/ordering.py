"""Readings as they lie in files -> frames in the order of event time. Pure.

A key's readings are in the order of time (of equal times, as they lie in the dataset), and no frame holds a reading older than
the edge before it. Within a frame keys may stand in any order, as in the frames of a collector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.batch import Batch, Times
from pipelines.expr import Array
from pipelines.wire import Frame, FrameInfo

FRAME_ROWS = 2**12  # as collectors send them: operators bound their memory by frames
FRAMES_TOGETHER = 8  # given to the task in one call
SOURCE = "history"
RUN_ROWS_MIN = 8  # of a key in a frame, on average, from which on copying runs beats sorting
SAMPLE = 16


def calls(rows: Mapping[str, Batch]) -> Iterator[dict[str, list[Frame]]]:
    """The readings of each stream as frames, whose watermark is the next edge. Several streams go in side by side, so that none
    runs ahead of the others.
    """
    edges = _edges([b.time for b in rows.values()])
    ordered = {stream: Ordered(batch, edges[:-1]) for stream, batch in rows.items()}
    together = FRAMES_TOGETHER if len(rows) == 1 else 1
    for at in range(0, len(edges), together):
        numbers = range(at, min(at + together, len(edges)))
        yield {stream: [frame(int(edges[i]), of.part(i)) for i in numbers] for stream, of in ordered.items()}


def frame(watermark: int, batch: Batch) -> Frame:
    """A frame of the past."""
    return Frame(FrameInfo(SOURCE, watermark, len(batch)), batch)


def _edges(times: Sequence[Times]) -> Times:
    """Times between which lie about `FRAME_ROWS` readings of all streams; the last is that of the newest."""
    rows = sum(map(len, times))
    if not rows:
        return np.empty(0, np.int64)
    every = SAMPLE if rows > FRAME_ROWS else 1
    sample = np.sort(np.concatenate([t[::every] for t in times]))
    inner = np.unique(sample[FRAME_ROWS // every :: FRAME_ROWS // every])
    newest = max(int(t.max()) for t in times if len(t))
    return np.append(inner[inner < newest], newest)


class Ordered:
    """The readings of a stream in frames; copied when a frame is asked for, so that they are in the core's cache when computed."""

    def __init__(self, batch: Batch, inner: Times) -> None:
        """Frames end before the times `inner`, the last one at the end."""
        self._batch, time = batch, batch.time
        self._order: Array | None = None
        falls = time[1:] < time[:-1]
        if not falls.any():
            self._cuts = _cuts(time, inner)
            return
        begins = np.flatnonzero(falls | (batch.codes[1:] != batch.codes[:-1])) + 1
        begins = np.concatenate([[0], begins, [len(time)]])
        keys, pieces = len(np.unique(batch.codes[begins[:-1]])), len(begins) - 1
        if keys == pieces and pieces * (len(inner) + 1) * RUN_ROWS_MIN <= len(time):
            self._order, self._cuts = _by_runs(time, begins, inner)
        else:
            self._order = np.argsort(time, kind="stable")
            self._cuts = _cuts(time[self._order], inner)

    def part(self, number: int) -> Batch:
        """A frame's readings."""
        part = slice(*self._cuts[number : number + 2])
        return self._batch.take(part if self._order is None else self._order[part])


def _cuts(time: Times, inner: Times) -> list[int]:
    return [0, *np.searchsorted(time, inner).tolist(), len(time)]


def _by_runs(time: Times, begins: Array, inner: Times) -> tuple[Array, list[int]]:
    """Of readings that lie key by key, in the order of time: first those of every key before the first edge, and so on."""
    starts = np.empty((len(inner) + 2, len(begins) - 1), np.int64)  # of each key's readings in each frame
    starts[0], starts[-1] = begins[:-1], begins[1:]
    for run, (low, high) in enumerate(zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)):
        starts[1:-1, run] = low + np.searchsorted(time[low:high], inner)
    lengths = np.diff(starts, axis=0)
    flat = lengths.ravel()
    shift = starts[:-1].ravel() - (np.cumsum(flat) - flat)
    order: Array = np.repeat(shift, flat) + np.arange(len(time))
    return order, [0, *np.cumsum(lengths.sum(axis=1)).tolist()]
