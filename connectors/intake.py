"""What a collector does with readings between `read` and the frames: fill, judge, scale, select. Pure but for metrics and log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from connectors import columns
from connectors.base import QUALITY, Readable
from connectors.conditions import Condition
from connectors.devices import Silence, Skew
from connectors.reporting import Reporter
from pipelines import metrics
from pipelines.batch import TIME_MAX, Batch
from pipelines.expr import Array
from pipelines.quality import BAD
from pipelines.schema import TEXT, arrival_of, quality_of
from pipelines.state import KeyIndex
from pipelines.units import duration_s

DEVICES_MAX = 100_000  # remembered; beyond, all is forgotten and begins anew
SKEW_TOLD_S = 60.0  # a clock that is off by more is told in the log
SKEW_TOLD_EVERY_S = 600.0
log = logging.getLogger("collect")


class Intake:
    """The readings of one source. What it knows of devices survives a broken link, and ends with the process."""

    def __init__(self, source: Readable[Any], site: str) -> None:
        self._source, self._schema, self._row = source, source.schema, source.schema.measured()
        self._quality, self._arrival = quality_of(source.schema), arrival_of(source.schema)
        self._scales = [c for c in source.conditions if c.kind == "scale"]
        self._labels = {"site": site, "stream": source.stream}
        nothing = {f.qualified: np.empty(0, f.dtype) for f in self._row.fields}
        self.empty = Batch.of_keys([], np.empty(0, np.int64), nothing)
        self._live = source.speed == 1 and not getattr(source, "recorded", False)
        self._skew_told_s = float("-inf")
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next reading of each device passes, and what was held back is not known any more."""
        source = self._source
        self._keys, self._skew = KeyIndex(), Skew()
        self._reporter: Reporter | None = None
        self._silence: Silence | None = None
        if len(self._scales) < len(source.conditions):
            self._reporter = Reporter(self._row, source.conditions, self._quality)
        if source.stale is not None:
            self._silence = Silence(self._row, self._quality, duration_s(source.stale), source.speed)

    @property
    def oldest_held(self) -> int:
        """Least event time of the readings that are held back; `TIME_MAX` if there are none."""
        return TIME_MAX if self._reporter is None else self._reporter.oldest_held

    @property
    def oldest_read(self) -> int:
        """Least number of a read of which a reading is held back; `TIME_MAX` if there is none."""
        return TIME_MAX if self._reporter is None else self._reporter.oldest_read

    def link_up(self, now_s: float) -> None:
        """The link was made: silence counts from here."""
        if self._silence is not None:
            self._silence.link_up(now_s)

    def take(self, batch: Batch, read: int, *, watermark: int, now_s: float, now_ns: int) -> Batch:
        """What is to be passed on after the read of that number, in order for each device.

        `watermark` is how far the source has come with these readings.
        """
        if not len(batch):
            batch = replace(self.empty, names=self._keys.names)
        else:
            batch = scaled(self._blanked(columns.fill(batch, self._schema, now_ns)), self._scales)
            known = self._with_slots(batch)
            self._heard(known, now_s, now_ns)
            batch = self._usable(batch if self._reporter is None and self._silence is None else known)
        out = [batch if self._reporter is None else self._reported(self._reporter, batch, read, watermark)]
        if self._silence is not None:
            out += self._fallen(self._silence, watermark, now_s)
        if len(self._keys) > DEVICES_MAX:
            log.warning(
                "%s: more than %d devices were seen: all is forgotten of them", self._source.stream, DEVICES_MAX
            )
            out += self.release()
            self.forget()
        return _joined(out)

    def release(self) -> list[Batch]:
        """Readings that are held back, if any: they are no longer."""
        released = self._reporter.release() if self._reporter is not None else None
        return [] if released is None else [released]

    def _with_slots(self, batch: Batch) -> Batch:
        slots = self._keys.slots(batch.codes, batch.names, "")
        return replace(batch, names=self._keys.names, codes=slots)

    def _blanked(self, batch: Batch) -> Batch:
        """Bad readings have no values."""
        quality = batch.columns.get(self._quality or QUALITY)
        if quality is None or not (bad := quality == BAD).any():
            return batch
        blank = {"float64": np.nan, "float32": np.nan, TEXT: ""}
        sent = {f.qualified: f.dtype for f in self._schema.sent().fields}
        values = {
            n: np.where(bad, np.array(blank.get(sent[n], 0), sent[n]), c) if n in sent else c
            for n, c in batch.columns.items()
        }
        return replace(batch, columns=values)

    def _heard(self, batch: Batch, now_s: float, now_ns: int) -> None:
        if self._silence is not None:
            self._silence.heard(batch, now_s)
        if not self._live:
            return
        arrived = batch.columns[self._arrival] if self._arrival is not None else np.full(len(batch), now_ns)
        self._skew.heard(batch, arrived, now_s)
        slot, off_s = self._skew.worst()
        metrics.collect_skew.labels(**self._labels).set(abs(off_s))
        if abs(off_s) > SKEW_TOLD_S and now_s - self._skew_told_s > SKEW_TOLD_EVERY_S:
            self._skew_told_s = now_s
            name, how = self._keys.names[slot].as_py(), "behind" if off_s > 0 else "ahead"
            log.warning(
                "%s: the clock of %s is %.0f s %s, or its readings come that late",
                self._source.stream,
                name,
                abs(off_s),
                how,
            )

    def _usable(self, batch: Batch) -> Batch:
        """Without bad readings, if the schema has no column to say so."""
        quality = batch.columns.get(QUALITY)
        if quality is None:
            return batch
        batch = replace(batch, columns={n: c for n, c in batch.columns.items() if n != QUALITY})
        bad = quality == BAD
        if bad.any():
            metrics.collect_bad.labels(**self._labels).inc(int(bad.sum()))
            batch = batch.take(~bad)
        return batch

    def _reported(self, reporter: Reporter, batch: Batch, read: int, watermark: int) -> Batch:
        here = len(batch) + reporter.held
        out = reporter.take(batch, read, watermark)
        metrics.collect_suppressed.labels(**self._labels).inc(here - len(out) - reporter.held)
        return out

    def _fallen(self, silence: Silence, watermark: int, now_s: float) -> list[Batch]:
        """What is held of the devices that fell silent, and a mark for each."""
        slots = silence.fallen(now_s)
        metrics.collect_stale.labels(**self._labels).set(silence.stale)
        if not len(slots):
            return []
        released = self._reporter.release(slots) if self._reporter is not None else None
        return [b for b in (released, silence.marks(slots, self._keys.names, watermark)) if b is not None]


def scaled(batch: Batch, scales: Sequence[Condition]) -> Batch:
    """The batch with columns in other units."""
    values: dict[str, Array] = {}
    for c in scales:
        column = batch.columns[c.column]
        with np.errstate(over="ignore"):
            values[c.column] = (column.astype(np.float64) * c.factor + c.offset).astype(column.dtype)
    return replace(batch, columns={**batch.columns, **values}) if values else batch


def _joined(batches: Sequence[Batch]) -> Batch:
    """One after the other; the names of the last are those of all."""
    some = [b for b in batches if len(b)] or batches[:1]
    if len(some) == 1:
        return some[0]
    names = {n: np.concatenate([b.columns[n] for b in some]) for n in some[0].columns}
    codes, time = np.concatenate([b.codes for b in some]), np.concatenate([b.time for b in some])
    return Batch(some[-1].names, codes, time, names)
