"""Readings as they lie in files -> frames in the order of event time. Pure.

A key's readings are in the order of time (of equal times, as they lie in the dataset), and no frame holds a reading older than
the edge before it. Within a frame keys may stand in any order, as in the frames of a collector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from pipelines.batch import Batch, Times
from pipelines.expr import Array
from pipelines.wire import Frame, FrameInfo

FRAME_ROWS = 2**12  # as collectors send them: operators bound their memory by frames
FRAMES_TOGETHER = 8  # given to the task in one call
SOURCE = "history"
RUN_ROWS_MIN = 8  # of a key in a frame, on average, from which on copying runs beats sorting
SAMPLE = 16
_NONE = np.empty(0, np.int64)


def calls(rows: Mapping[str, Batch]) -> Iterator[dict[str, list[Frame]]]:
    """The readings of each stream as frames, whose watermark is the next edge. Several streams go in side by side, so that none
    runs ahead of the others.
    """
    edges = _edges([b.time for b in rows.values()])
    ordered = {stream: Ordered(batch, edges[:-1]) for stream, batch in rows.items()}
    together = FRAMES_TOGETHER if len(rows) == 1 else 1
    for low in range(0, len(edges), together):
        high = min(low + together, len(edges))
        yield {
            s: [frame(*f) for f in zip(edges[low:high].tolist(), of.frames(low, high), strict=True)]
            for s, of in ordered.items()
        }


def frame(watermark: int, batch: Batch) -> Frame:
    """A frame of the past."""
    return Frame(FrameInfo(SOURCE, watermark, len(batch)), batch)


def _edges(times: Sequence[Times]) -> Times:
    """Times between which lie about `FRAME_ROWS` readings of all streams; the last is that of the newest."""
    rows = sum(map(len, times))
    if not rows:
        return _NONE
    every = SAMPLE if rows > FRAME_ROWS else 1
    sample = np.sort(np.concatenate([t[::every] for t in times]))
    inner = np.unique(sample[FRAME_ROWS // every :: FRAME_ROWS // every])
    newest = max(int(t.max()) for t in times if len(t))
    return np.append(inner[inner < newest], newest)


class Ordered:
    """The readings of a stream in frames; copied when frames are asked for, so that they are still in the core's cache."""

    def __init__(self, batch: Batch, inner: Times) -> None:
        """Frames end before the times `inner`, the last one at the end."""
        self._batch, time = batch, batch.time
        self._order: Array | None = None  # of all readings …
        self._starts: Array | None = None  # … or where those of each key begin in each frame, shape (frames + 1, keys)
        falls = time[1:] < time[:-1]
        if falls.any():
            begins = np.flatnonzero(falls | (batch.codes[1:] != batch.codes[:-1])) + 1
            begins = np.concatenate([[0], begins, [len(time)]])
            keys, runs = len(np.unique(batch.codes[begins[:-1]])), len(begins) - 1
            if keys == runs and runs * (len(inner) + 1) * RUN_ROWS_MIN <= len(time):
                self._starts = _by_key(time, begins, inner)
                self._cuts = (self._starts - self._starts[0]).sum(axis=1).tolist()
                return
            self._order = np.argsort(time, kind="stable")
            time = time[self._order]
        self._cuts = [0, *np.searchsorted(time, inner).tolist(), len(time)]

    def frames(self, low: int, high: int) -> list[Batch]:
        """The readings of frames `low` up to, not including, `high`."""
        begin, end = self._cuts[low], self._cuts[high]
        if self._starts is not None:
            batch = self._batch.take(_runs(self._starts[low : high + 1]))
        else:
            batch = self._batch.take(slice(begin, end) if self._order is None else self._order[begin:end])
        cuts = [cut - begin for cut in self._cuts[low : high + 1]]
        return [batch.take(slice(*cut)) for cut in pairwise(cuts)]


def _by_key(time: Times, begins: Array, inner: Times) -> Array:
    """Where each key's readings begin in each frame, and end in the last, if they lie key by key, each in the order of time."""
    starts = np.empty((len(inner) + 2, len(begins) - 1), np.int64)
    starts[0], starts[-1] = begins[:-1], begins[1:]
    for run, (low, high) in enumerate(pairwise(begins.tolist())):
        starts[1:-1, run] = low + np.searchsorted(time[low:high], inner)
    return starts


def _runs(starts: Array) -> Array:
    """Indices of the readings of some frames: those of every key in the first, and so on."""
    lengths = np.diff(starts, axis=0).ravel()
    ends = np.cumsum(lengths)
    found: Array = np.repeat(starts[:-1].ravel() - (ends - lengths), lengths) + np.arange(ends[-1])
    return found
