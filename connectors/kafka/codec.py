"""Messages of a foreign topic -> frames. Pure, and a function of the log: neither clock nor grouping decide anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors import columns
from connectors.columns import Faults, Layout, Raw
from connectors.kafka import KafkaSource
from connectors.payloads import PAYLOAD_BYTES_MAX, Payloads
from pipelines.batch import TIME_MIN, TIME_NS_MAX, Batch
from pipelines.dead import DeadLetter
from pipelines.ports import Received
from pipelines.wire import Frame, FrameInfo

ROWS_MAX = 2**15  # of one frame: columns of so many rows stay in a core's cache


class Codec:
    """Decodes the messages of one source."""

    def __init__(self, source: KafkaSource[Any]) -> None:
        self._source, self._layout = source, Layout.of(source.schema)
        self._payloads = Payloads(self._layout, key=source.key, time=source.time, time_unit=source.time_unit)

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
        parsed = self._payloads.parse(payloads, faults)
        raw = Raw(parsed[self._source.key], self._payloads.times(parsed, taken, faults), parsed)
        latest_ns = np.where(taken < 0, TIME_NS_MAX, taken + self._source.future_max)  # old producers give no time
        batch = columns.batch(self._layout, raw, faults, latest_ns=latest_ns)
        batch = columns.fill(batch, self._source.schema, taken[~faults.bad])
        return batch, [self._letter(records[i], *faults.found[i]) for i in sorted(faults.found)]

    @staticmethod
    def _letter(record: Received, reason: str, text: str) -> DeadLetter:
        origin = f"{record.topic}[{record.partition}]@{record.offset}"
        return DeadLetter((record.value or b"")[:PAYLOAD_BYTES_MAX], reason, f"{origin}: {text}", origin)
