"""A world in memory for the protocol: one log, a store, a group offset and a real folder; each can crash at any step."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow.parquet as pq

from connectors.parquet import dataset
from connectors.parquet.manifest import seams
from connectors.parquet.segment import Manifest, Origin
from connectors.upload.disk import Disk
from connectors.upload.frames import read
from connectors.upload.hands import Hands
from connectors.upload.options import Table
from connectors.upload.resume import Known, adopted, start_of
from connectors.upload.segments import Segments
from connectors.upload.spool import Spool
from connectors.upload.steps import drive, sealing, sending
from pipelines import Col, Key, Schema
from pipelines.batch import Batch
from pipelines.clock import ManualClock
from pipelines.wire import FrameInfo, encode

T = TypeVar("T")
DAY = 86_400 * 10**9
NOON = 20_000 * DAY + DAY // 2


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm")
    n = Col[int]()


ROW = Reading.measured()
TOPIC = "site.readings"
ORIGIN = Origin(TOPIC, 0, "0" * 8)


def table(**options: Any) -> Table:
    """`Reading` to the table press/raw."""
    return Table(TOPIC, ROW, dataset("press/raw", **options))


def batch(numbers: range, *, start: int = NOON, step: int = 10**9) -> Batch:
    """One row for each number, which is its column n."""
    n = np.array(numbers, np.int64)
    return Reading.batch(time=start + n * step, device=[f"d{i % 3}" for i in numbers], x=n * 0.5, n=n)


@dataclass
class Rec:
    """A record of Kafka."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    topic: str = TOPIC
    partition: int = 0
    timestamp: int = 0


def rec(offset: int, rows: Batch) -> Rec:
    """A frame at an offset."""
    return Rec(offset, encode(rows, ROW), FrameInfo("test", rows=len(rows), schema=ROW.fingerprint).headers())


class Crash(BaseException):
    """The power is cut."""


@dataclass
class Fuse:
    """Burns after so many steps; each step counts twice, before and after it is done."""

    left: int = 10**9
    burnt: int = 0

    def step(self) -> None:
        self.burnt += 1
        self.left -= 1
        if self.left <= 0:
            raise Crash

    def around(self, work: Callable[[], T]) -> T:
        self.step()
        result = work()
        self.step()
        return result


class CrashingDisk(Disk):
    """A folder until the fuse burns; a write that is cut leaves half a file. Waits for no disk: only processes die here."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse

    def write(self, path: Path, fill: Callable[[BinaryIO], None]) -> None:
        self.fuse.step()
        whole = io.BytesIO()
        fill(whole)
        data = whole.getvalue()
        try:
            self.fuse.step()
        except Crash:
            self.tmp(path).write_bytes(data[: len(data) // 2])
            raise
        self.tmp(path).write_bytes(data)
        self.fuse.step()

    def publish(self, path: Path) -> None:
        self.fuse.around(lambda: super(CrashingDisk, self).publish(path))

    def sync(self, folder: Path) -> None:
        self.fuse.step()

    def remove(self, path: Path) -> None:
        self.fuse.around(lambda: super(CrashingDisk, self).remove(path))


@dataclass
class MemoryStore:
    """Objects that are there or not."""

    fuse: Fuse
    objects: dict[str, bytes] = field(default_factory=dict)

    async def create(self, path: str, data: bytes) -> bool:
        self.fuse.step()
        new = path not in self.objects
        self.objects.setdefault(path, data)
        self.fuse.step()
        return new

    async def get(self, path: str) -> bytes | None:
        return self.objects.get(path)

    @property
    def manifests(self) -> list[Manifest]:
        found = [Manifest.decode(raw, path) for path, raw in self.objects.items() if "/_manifest/" in path]
        return sorted(found, key=lambda m: m.span)

    def numbers(self) -> list[int]:
        """Column n of every row that counts."""
        return sorted(n for m in self.manifests for f in m.files for n in self._column(f.path))

    def _column(self, path: str) -> list[int]:
        return pq.read_table(io.BytesIO(self.objects[path]))["n"].to_pylist()  # type: ignore[no-any-return]


@dataclass
class World:
    """What survives a crash; `life` is a process until it crashes or is done."""

    folder: Path
    log: list[Rec]
    fuse: Fuse = field(default_factory=Fuse)
    committed: int | None = None
    rows_max: int = 7

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.fuse)

    async def life(self, polls: Iterator[int]) -> None:
        """Start, take in the log in polls of so many records, seal and send what is due, and at the end everything."""
        tables = {TOPIC: table(rows_max=self.rows_max)}
        disk = CrashingDisk(Fuse())
        spool = Spool(self.folder, disk)
        disk.fuse = self.fuse  # from here on
        hands = Hands("site", "p", tables, spool, self.store, self._commit, ManualClock())
        segments = Segments(tables, 2**30)
        try:
            await self._work(spool, hands, segments, polls)
        finally:
            spool.close()

    async def _work(self, spool: Spool, hands: Hands, segments: Segments, polls: Iterator[int]) -> None:
        journal = spool.recover()
        for manifest in journal.sealed:
            await drive(sending(manifest), hands.do)
        start = start_of(ORIGIN, journal, Known(self.committed, 0, self.log[-1].offset + 1))
        at = await adopted(self.store, "press/raw", "site", ORIGIN, start.offset) if start.ask_store else start.offset
        segments.begin(ORIGIN, at, start.until)
        waiting = [r for r in self.log if r.offset >= at]
        while waiting:
            n = next(polls)
            taken, _ = read(waiting[:n], ROW)
            del waiting[:n]
            segments.add(ORIGIN, taken, 0.0)
            await self._ship(segments, hands.do)
        segments.close_all()
        await self._ship(segments, hands.do)

    async def _ship(self, segments: Segments, do: Callable[[Any], Awaitable[Any]]) -> None:
        while segments.closed:
            segment = segments.closed[0]
            manifest = await drive(sealing(segment), do)
            segments.sealed(segment, 1)
            await drive(sending(manifest), do)

    async def _commit(self, origin: Origin, end: int) -> None:
        self.fuse.step()
        assert self.committed is None or end > self.committed, "committed backwards"
        self.committed = end
        self.fuse.step()

    def check(self, numbers: list[int]) -> None:
        """The rows that count are exactly these, in stretches without gap or overlap."""
        assert self.store.numbers() == numbers
        assert not list(seams(self.store.manifests))
        assert [p.name for p in self.folder.iterdir() if p.suffix != ".mark"] == ["lock"]
