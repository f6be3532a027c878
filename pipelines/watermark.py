"""The watermark of one stream partition that several collectors write to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.batch import TIME_MAX, TIME_MIN

IDLE_NS = 60 * 10**9  # a source this far (event time) behind the newest is left out until it returns
SOURCES_MAX = 1_000  # remembered by one partition; the one furthest behind is forgotten first


@dataclass
class WatermarkTracker:
    """Minimum over the live sources, in offset order, never from a clock; so a replay gives the same watermarks."""

    sources: dict[str, int] = field(default_factory=dict)
    current: int = TIME_MIN

    def advance(self, source: str, watermark: int) -> int:
        """Take a frame's watermark in and return the partition's.

        A source that says `TIME_MAX` has ended and counts no more; when the last one ends the partition's watermark is
        `TIME_MAX` once. `current` does not go that far: a source that starts again goes on from where the data stood.
        """
        if watermark == TIME_MAX:
            self.sources.pop(source, None)
            return self._settle() if self.sources else TIME_MAX
        self.sources[source] = max(watermark, self.sources.get(source, TIME_MIN))
        if len(self.sources) > SOURCES_MAX:
            del self.sources[min(self.sources, key=self.sources.__getitem__)]
        return self._settle()

    def _settle(self) -> int:
        if len(self.sources) == 1:
            self.current = max(self.current, *self.sources.values())
            return self.current
        newest = max(self.sources.values())
        live = [w for w in self.sources.values() if w >= max(newest, TIME_MIN + IDLE_NS) - IDLE_NS]
        self.current = max(self.current, min(live))
        return self.current

    def load(self, sources: Mapping[str, int], current: int) -> None:
        """Restore from a snapshot."""
        self.sources, self.current = dict(sources), current


class ExchangeTracker(WatermarkTracker):
    """The watermark of rows that the tasks of all partitions have keyed anew: the minimum over all of them, always.

    A task that lags behind is not left out, or its rows would be late for no fault of any device. Sources are called
    '{partition}/{partitions}'.
    """

    def advance(self, source: str, watermark: int) -> int:
        """See `WatermarkTracker.advance`; a task whose input has ended holds nobody up, until it goes on."""
        partitions = source.rpartition("/")[2]
        if watermark == TIME_MIN or not partitions.isdecimal():
            return self.current
        before = self.sources.get(source, TIME_MIN)
        self.sources[source] = watermark if before == TIME_MAX else max(before, watermark)
        if len(self.sources) < int(partitions):
            return self.current
        lowest = min(self.sources.values())
        if lowest == TIME_MAX:
            self.sources.clear()
            return TIME_MAX
        self.current = max(self.current, lowest)
        return self.current
