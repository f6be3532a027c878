"""What is known of each device, from the records of a site's topics as they come. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from connectors.control.ledger import Entry as Command
from connectors.control.twin import Desired, Reported, Twin
from connectors.firmware.life import Entry as Firmware
from connectors.firmware.status import SITE_KEY
from pipelines import topics
from pipelines.batch import Batch
from pipelines.errors import BadData
from pipelines.expr import Array
from pipelines.plan import Plan, foreign
from pipelines.runtime.kafka import Record
from pipelines.schema import Row, quality_of
from pipelines.units import duration_ns
from pipelines.wire import FrameInfo, decode

FRAMES_BACK_MAX = 200  # read of each partition of a stream, the newest
COMMANDS_BACK_MAX = 20_000  # records of each partition of `control.ack`
ALL = 2**62  # of the topics that keep one record for each device
ROWS_TOGETHER = 100_000  # of frames, before devices are given theirs
DEVICES_MAX = 20_000  # others are counted, and not shown


@dataclass(frozen=True)
class Stream:
    """A raw stream of the pipeline, as collect writes it."""

    name: str
    row: Row
    quality: str | None  # the column that has it
    stale_ns: int | None  # when a device that says nothing counts as stale, if the source says so

    @classmethod
    def of(cls, name: str, source: Any) -> Stream:
        """From the source of a plan."""
        stale = getattr(source, "stale", None)
        return cls(name, source.schema.measured(), quality_of(source.schema), duration_ns(stale) if stale else None)


@dataclass(frozen=True, slots=True)
class Reading:
    """The newest row of a device: row `at` of a batch."""

    stream: Stream
    time_ns: int
    batch: Batch
    at: int

    @property
    def values(self) -> dict[str, object]:
        """By column, without the quality."""
        shown = [f for f in self.stream.row.fields if f.qualified != self.stream.quality]
        return {f.name: self._of(f.qualified) for f in shown}

    @property
    def quality(self) -> int | None:
        """See `pipelines.quality`; None if the stream has none."""
        found = self._of(self.stream.quality) if self.stream.quality else None
        return None if found is None else int(found)

    def _of(self, column: str) -> Any:
        value = self.batch.columns[column][self.at]
        return value.item() if isinstance(value, np.generic) else value


@dataclass(slots=True)
class Device:
    """All that is known of one."""

    name: str
    readings: dict[str, Reading] = field(default_factory=dict)  # by stream
    twin: Twin | None = None
    firmware: Firmware | None = None
    command: Command | None = None  # the one that changed last


class Seen:
    """Takes records, and knows the devices."""

    def __init__(self, plan: Plan, site: str) -> None:
        sources = {name: s for name, s in plan.sources.items() if not foreign(s) and hasattr(s, "schema")}
        self.streams = {name: Stream.of(name, source) for name, source in sources.items()}
        self.devices: dict[str, Device] = {}
        self.too_many: set[str] = set()
        self.unreadable = 0
        self._waiting: dict[str, list[Batch]] = {name: [] for name in self.streams}
        self._takes: dict[str, Callable[[Record], None]] = {
            topics.twin_desired(site): lambda r: self._side(r, Desired),
            topics.twin_reported(site): lambda r: self._side(r, Reported),
            topics.firmware_status(site): self._firmware,
            topics.acks(site): self._command,
            **{topics.stream(site, name): self._frames_of(s) for name, s in self.streams.items()},
        }
        self.back: Mapping[str, int] = {
            **dict.fromkeys(self._takes, ALL), topics.acks(site): COMMANDS_BACK_MAX,
            **{topics.stream(site, name): FRAMES_BACK_MAX for name in self.streams},
        }  # fmt: skip

    def take(self, record: Record) -> None:
        """Take note of a record; what cannot be read is counted."""
        try:
            self._takes[record.topic](record)
        except (BadData, msgspec.DecodeError):
            self.unreadable += 1

    def _device(self, name: str) -> Device | None:
        if name not in self.devices:
            if len(self.devices) >= DEVICES_MAX:
                self.too_many.add(name)
                return None
            self.devices[name] = Device(name)
        return self.devices[name]

    def _frames_of(self, stream: Stream) -> Callable[[Record], None]:
        def take(record: Record) -> None:
            if FrameInfo.of(record.headers).rows == 0:
                return
            batch = decode(record.value, stream.row)
            waiting = self._waiting[stream.name]
            waiting.append(batch.take(newest_rows(batch)))
            if sum(map(len, waiting)) >= ROWS_TOGETHER:
                self._note(stream)

        return take

    def _note(self, stream: Stream) -> None:
        """Give devices their newest rows of many frames at once: most frames have a row of the same devices."""
        waiting, self._waiting[stream.name] = self._waiting[stream.name], []
        if not waiting:
            return
        all_rows = together(waiting)
        newest = all_rows.take(newest_rows(all_rows))
        for at, (name, time_ns) in enumerate(zip(newest.keys, newest.time.tolist(), strict=True)):
            device = self._device(name)
            if device and (stream.name not in device.readings or device.readings[stream.name].time_ns <= time_ns):
                device.readings[stream.name] = Reading(stream, time_ns, newest, at)

    def _side(self, record: Record, kind: type[Desired] | type[Reported]) -> None:
        device = self._device(record.key.decode())
        if device and record.value:
            side: Any = msgspec.json.decode(record.value, type=kind)
            device.twin = (device.twin or Twin()).having(side)

    def _firmware(self, record: Record) -> None:
        if record.value and record.key != SITE_KEY:
            entry = msgspec.json.decode(record.value, type=Firmware)
            if device := self._device(entry.device):
                device.firmware = entry

    def _command(self, record: Record) -> None:
        if not record.value:
            return
        entry = msgspec.json.decode(record.value, type=Command)
        device = self._device(entry.command.device)
        if device and (device.command is None or device.command.updated_at_ns <= entry.updated_at_ns):
            device.command = entry

    def chosen(self, patterns: Callable[[str], bool], stream: str) -> Iterator[Device]:
        """The devices whose names fit; of a stream, those that it has had a reading of."""
        for known in self.streams.values():
            self._note(known)
        for device in self.devices.values():
            if patterns(device.name) and (not stream or stream in device.readings):
                yield device


def together(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of one stream, one after another."""
    keys = pa.concat_arrays([b.names.take(pa.array(b.codes)) for b in batches]).dictionary_encode()
    columns = {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns}
    return Batch(keys.dictionary, keys.indices.to_numpy(), np.concatenate([b.time for b in batches]), columns)


def newest_rows(batch: Batch) -> Array:
    """Indices of the newest row of each key; of equal times the last."""
    order = np.argsort(batch.time, kind="stable")
    _, last = np.unique(batch.codes[order][::-1], return_index=True)
    found: Array = order[len(order) - 1 - last]
    return found
