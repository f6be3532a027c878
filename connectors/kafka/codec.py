"""Messages of a foreign topic -> frames. Pure, and a function of the log: neither clock nor grouping decide anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors import columns
from connectors.columns import Faults, Layout, Raw
from connectors.kafka import KafkaSource
from connectors.kafka.wanted import Readings
from connectors.payloads import PAYLOAD_BYTES_MAX, Payloads
from pipelines.batch import TIME_MIN, TIME_NS_MAX, Batch, Times
from pipelines.dead import DeadLetter
from pipelines.ports import Received, Surroundings
from pipelines.wire import Frame, FrameInfo

ROWS_MAX = 2**15  # of one frame: columns of so many rows stay in a core's cache


class Json:
    """See `wanted.Readings`."""

    def __init__(self, source: KafkaSource[Any]) -> None:
        self._key = source.key
        self._payloads = Payloads(
            Layout.of(source.schema), key=source.key, time=source.time, time_unit=source.time_unit, paths=source.paths
        )

    def raw(self, payloads: Sequence[bytes], taken: Times, faults: Faults) -> Raw:
        """See `Readings.raw`."""
        parsed = self._payloads.parse(payloads, faults)
        return Raw(parsed[self._key], self._payloads.times(parsed, taken, faults), parsed)


def decoder(source: KafkaSource[Any], around: Surroundings) -> Codec:
    """Of a source of JSON."""
    return Codec(source, Json(source))


class Codec:
    """Decodes the messages of one source."""

    def __init__(self, source: KafkaSource[Any], readings: Readings) -> None:
        self._source, self._readings, self._layout = source, readings, Layout.of(source.schema)

    def frames(self, records: Sequence[Received]) -> tuple[list[Frame], list[DeadLetter]]:
        """Frames of records of one partition, in order, and dead letters for those that are no readings."""
        frames: list[Frame] = []
        dead: list[DeadLetter] = []
        for at in range(0, len(records), ROWS_MAX):
            some = records[at : at + ROWS_MAX]
            batch, letters = self._decode(some)
            dead += letters
            newest = np.maximum.accumulate(batch.time) - self._source.disorder
            before = np.concatenate([[TIME_MIN], newest[:-1]]) if len(batch) else newest
            watermark = int(newest[-1]) if len(batch) else TIME_MIN
            frames.append(Frame(FrameInfo("kafka", watermark, len(batch)), batch, before))
        return frames, dead

    def _decode(self, records: Sequence[Received]) -> tuple[Batch, list[DeadLetter]]:
        payloads = [r.value or b"" for r in records]
        taken = np.fromiter((r.timestamp for r in records), np.int64, len(records)) * 10**6
        faults = Faults(len(payloads))
        raw = self._readings.raw(payloads, taken, faults)
        latest_ns = np.where(taken < 0, TIME_NS_MAX, taken + self._source.future_max)  # old producers give no time
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns)
        batch = columns.fill(batch, self._source.schema, taken[~faults.bad])
        return batch, [self._letter(records[i], *faults.found[i]) for i in sorted(faults.found)]

    @staticmethod
    def _letter(record: Received, reason: str, text: str) -> DeadLetter:
        origin = f"{record.topic}[{record.partition}]@{record.offset}"
        return DeadLetter((record.value or b"")[:PAYLOAD_BYTES_MAX], reason, f"{origin}: {text}", origin)
