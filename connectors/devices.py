"""What is known of each device of a source: when it was last heard, what it said last, how far its clock is off. Pure.

Arrays over key slots; codes of the batches are slots.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.batch import Batch, Codes
from pipelines.expr import Array
from pipelines.quality import BAD
from pipelines.schema import Row

_SLOTS_MIN = 64
SKEW_WINDOW_S = 300.0


class Silence:
    """Devices that have been silent for longer than `stale_s` while the link was up."""

    def __init__(self, row: Row, quality: str | None, stale_s: float, speed: float) -> None:
        self._quality, self._stale_s, self._stale_ns = quality, stale_s, int(stale_s * speed * 1e9)
        self._heard_s = np.zeros(0)  # not a number: unknown, or stale already
        self._time = np.zeros(0, np.int64)
        self._stale = np.zeros(0, bool)
        fields = row.fields if quality is not None else ()
        self._last = {f.qualified: np.zeros(0, f.dtype) for f in fields}

    @property
    def stale(self) -> int:
        """How many are stale now."""
        return int(self._stale.sum())

    def heard(self, batch: Batch, now_s: float) -> None:
        """Readings came."""
        self._reserve(len(batch.names))
        slots = batch.codes
        self._heard_s[slots], self._stale[slots] = now_s, False
        self._time[slots] = batch.time
        for name, last in self._last.items():
            last[slots] = batch.columns[name]  # of several readings of a device the last counts

    def link_up(self, now_s: float) -> None:
        """The link was made: silence counts from here."""
        self._heard_s[~np.isnan(self._heard_s)] = now_s

    def fallen(self, now_s: float) -> Codes:
        """Slots of those that became stale just now."""
        slots = np.flatnonzero(now_s - self._heard_s > self._stale_s).astype(np.int32)
        self._heard_s[slots], self._stale[slots] = np.nan, True
        return slots

    def marks(self, slots: Codes, names: pa.StringArray, watermark: int) -> Batch | None:
        """A row for each: its last values, quality bad, and the time at which it became stale, or the watermark if that is later.

        None if the schema has no Quality column to say it with.
        """
        if self._quality is None:
            return None
        columns = {name: last[slots] for name, last in self._last.items()}
        columns[self._quality] = np.full(len(slots), BAD, np.int8)
        return Batch(names, slots, np.maximum(self._time[slots] + self._stale_ns, watermark), columns)

    def _reserve(self, slots: int) -> None:
        if (more := _room(slots, len(self._time))) == 0:
            return
        self._heard_s = np.concatenate([self._heard_s, np.full(more, np.nan)])
        self._time = np.concatenate([self._time, np.zeros(more, np.int64)])
        self._stale = np.concatenate([self._stale, np.zeros(more, bool)])
        self._last = {n: np.concatenate([a, np.zeros(more, a.dtype)]) for n, a in self._last.items()}


class Skew:
    """How far each device's clock is off: arrival − event time at its least within the last minutes.

    A reading is never early, but for the clock; the quickest one has hardly waited. Readings that a device had buffered are
    older, and count only if nothing else comes for a whole window. The window is kept in two halves.
    """

    def __init__(self) -> None:
        self._halves: list[Array] = [np.full(0, np.inf), np.full(0, np.inf)]
        self._since_s = float("-inf")

    def heard(self, batch: Batch, arrived: Array, now_s: float) -> None:
        """Readings came, each at its time of arrival in ns."""
        if now_s - self._since_s > SKEW_WINDOW_S / 2:
            self._since_s = now_s
            self._halves = [np.full(len(self._halves[0]), np.inf), self._halves[0]]
        if more := _room(len(batch.names), len(self._halves[0])):
            self._halves = [np.concatenate([h, np.full(more, np.inf)]) for h in self._halves]
        np.minimum.at(self._halves[0], batch.codes, (arrived - batch.time) / 1e9)

    def worst(self) -> tuple[int, float]:
        """(slot, seconds) of the device whose clock is furthest off: behind if above 0, else ahead; (−1, 0) if none is known."""
        off = np.minimum(*self._halves)
        off = np.where(np.isinf(off), 0.0, off)
        slot = int(np.abs(off).argmax()) if len(off) else -1
        return slot, float(off[slot]) if slot >= 0 else 0.0


def _room(wanted: int, have: int) -> int:
    """How many slots to add."""
    return 0 if wanted <= have else max(_SLOTS_MIN, 1 << (wanted - 1).bit_length()) - have
