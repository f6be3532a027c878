"""Files that come into a folder: when they are complete, in which order, and where they go."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors import replay
from connectors.base import Context, Read
from connectors.replay import watch
from connectors.replay.files import blocks_of
from connectors.replay.watch import Completeness, FolderReader
from pipelines import Col, Key, Quality, Schema
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, NotConnected, PlanError
from tests.connectors.schemas import Motor, Vibration

HEAD = "time,device,rms\n"


class Folder:
    """A folder, a reader, and a clock of our own."""

    def __init__(self, path: Path, schema: type[Any] = Vibration, **options: Any) -> None:
        self.path, self.clock = path, ManualClock(10**18)
        self.source = replay.folder(schema, str(path), **options)
        self.reader = self.restarted()

    def restarted(self) -> FolderReader:
        self.reader = FolderReader(self.source, Context("s", "1", Path(), self.clock))
        return self.reader

    def put(self, name: str, *values: float) -> None:
        (self.path / name).write_text(HEAD + "".join(f"2026-01-01T00:00:00Z,a,{v}\n" for v in values))

    async def reads(self, seconds: float = 5, rows_max: int = 1000, *, ack: bool = True) -> list[Read]:
        """What comes within some seconds."""
        got: list[Read] = []
        until = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < until:
            read = await self.reader.read(rows_max=rows_max, linger_s=0.25)
            if len(read.batch) or read.rejects:
                got.append(read)
            if ack:
                await read.ack()
        return got

    async def values(self, seconds: float = 5, **options: Any) -> list[float]:
        return [v for r in await self.reads(seconds, **options) for v in r.batch.columns["Vibration.rms"].tolist()]

    def names(self, folder: str = ".") -> list[str]:
        return sorted(p.name for p in (self.path / folder).iterdir() if p.is_file())


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    made = Folder(tmp_path)
    await made.reader.connect()
    yield made
    await made.reader.close()


async def test_complete_files_are_read_in_order_and_moved(folder: Folder) -> None:
    for name, value in (("b.csv", 2), ("a.csv", 1), ("c.csv", 3)):
        folder.put(name, value, value + 0.5)
    assert await folder.values() == [1, 1.5, 2, 2.5, 3, 3.5]
    assert (folder.names(), folder.names("done")) == ([], ["a.csv", "b.csv", "c.csv"])
    folder.put("a.csv", 9)  # the same name again
    assert await folder.values() == [9]
    assert folder.names("done") == ["a.2.csv", "a.csv", "b.csv", "c.csv"]


async def test_a_file_that_grows_waits_and_does_not_hold_up_others(folder: Folder) -> None:
    got: list[float] = []
    folder.put("b.csv", 20)
    for i in range(8):
        folder.put("a.csv", *range(i + 1))
        got += await folder.values(1)
    assert got == [20]
    assert await folder.values() == list(range(8))


async def test_a_file_that_is_renamed_into_place(tmp_path: Path) -> None:
    made = Folder(tmp_path, settle="0s")
    await made.reader.connect()
    made.put(".a.csv", 1)
    assert await made.values(2) == []
    (tmp_path / ".a.csv").rename(tmp_path / "a.csv")
    assert await made.values(2) == [1]


async def test_other_names_are_left_alone(tmp_path: Path) -> None:
    made = Folder(tmp_path, pattern="press-*")
    await made.reader.connect()
    for name in ("press-1.csv", "press-1.csv.part", "oven-1.csv", "press-notes.txt"):
        made.put(name, 1)
    (tmp_path / "press-2.csv").mkdir()
    assert await made.values() == [1]
    assert made.names() == ["oven-1.csv", "press-1.csv.part", "press-notes.txt"]


async def test_what_cannot_be_read_goes_aside_with_a_reason_and_the_next_is_read(folder: Folder) -> None:
    (folder.path / "a.parquet").write_bytes(b"PAR1 this is none")
    (folder.path / "b.csv").write_text("time,device,speed\n2026-01-01T00:00:00Z,a,1\n")
    (folder.path / "c.csv").write_bytes(b"")
    (folder.path / "d.jsonl").write_bytes(b"\0" * 10)
    folder.put("e.csv", 5)
    reads = await folder.reads()
    letters = [letter for r in reads for letter in r.rejects]
    assert [letter.reason for letter in letters] == ["file", "file", "file", "not_json"]
    assert [letter.payload for letter in letters[:3]] == [b"a.parquet", b"b.csv", b"c.csv"]
    assert [v for r in reads for v in r.batch.columns["Vibration.rms"].tolist()] == [5]
    assert folder.names("failed") == ["a.parquet", "a.parquet.reason", "b.csv", "b.csv.reason", "c.csv", "c.csv.reason"]
    assert "has no column 'rms'; it has 'time', 'device', 'speed'" in (folder.path / "failed/b.csv.reason").read_text()
    assert folder.names("done") == ["d.jsonl", "e.csv"]  # a bad line is no bad file


async def test_a_file_that_breaks_in_the_middle_gives_what_it_had(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("a.csv", 1, 2)
    folder.put("b.csv", 3)

    def breaks(path: str, form: Any) -> Any:
        yield from blocks_of(path, form)
        if path.endswith("a.csv"):
            raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(watch, "blocks_of", breaks)
    assert await folder.values() == [1, 2, 3]
    assert folder.names("failed") == ["a.csv", "a.csv.reason"]
    assert (folder.path / "failed/a.csv.reason").read_text() == "a bug of ours\n"


async def test_nothing_is_moved_before_kafka_has_it_and_a_new_start_reads_it_again(folder: Folder) -> None:
    folder.put("a.csv", 1, 2, 3)
    folder.put("b.csv", 4)
    first = await folder.reads(rows_max=2, ack=False)
    assert [len(r.batch) for r in first] == [2, 1, 1]
    assert folder.names("done") == []
    await first[0].ack()
    assert folder.names("done") == []
    await first[1].ack()
    assert folder.names("done") == ["a.csv"]
    await folder.restarted().connect()
    assert await folder.values() == [4]
    assert folder.names("done") == ["a.csv", "b.csv"]


async def test_after_a_broken_link_it_goes_on_where_kafka_is(folder: Folder) -> None:
    folder.put("a.csv", 1, 2, 3)
    reads = await folder.reads(rows_max=2, ack=False)
    await reads[0].ack()
    await folder.reader.close()
    with pytest.raises(NotConnected, match="is not open"):
        await folder.reader.read(rows_max=1, linger_s=0)
    await folder.reader.connect()
    assert await folder.values() == [3]
    assert folder.names("done") == ["a.csv"]


async def test_finished_files_may_be_deleted(tmp_path: Path) -> None:
    made = Folder(tmp_path, after="delete")
    await made.reader.connect()
    made.put("a.csv", 1)
    assert await made.values() == [1]
    assert (made.names(), made.names("done")) == ([], [])


async def test_a_file_that_goes_on_growing_is_read_again_and_nothing_of_it_is_lost(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.put("a.csv", 1)
    (read,) = await folder.reads(ack=False)
    folder.put("a.csv", 1, 2)
    with caplog.at_level(logging.WARNING):
        await read.ack()
        assert await folder.values() == [1, 2]
    assert "has changed after it was complete: is `settle` too short?" in caplog.text
    assert folder.names("done") == ["a.csv"]


async def test_a_file_that_cannot_be_moved_is_read_once(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.put("a.csv", 1)
    (folder.path / "done").rmdir()
    with caplog.at_level(logging.WARNING):
        assert await folder.values() == [1]
    assert "cannot be put away" in caplog.text


async def test_a_file_that_vanishes(folder: Folder) -> None:
    folder.put("a.csv", 1)
    await folder.values(1)
    (folder.path / "a.csv").unlink()
    folder.put("b.csv", 2)
    assert await folder.values() == [2]


async def test_a_folder_that_is_not_there_or_goes(tmp_path: Path) -> None:
    made = Folder(tmp_path / "in")
    with pytest.raises(ConfigError, match="is not there: make it, and mount it into the container"):
        await made.reader.connect()
    (tmp_path / "in").mkdir()
    await made.reader.connect()
    os.rename(tmp_path / "in", tmp_path / "out")
    with pytest.raises(NotConnected, match="cannot be read"):
        await made.reads(3)


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    (tmp_path / "done").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written: collect moves what it has read"):
        await made.reader.connect()


async def test_forms_of_files(tmp_path: Path) -> None:
    columns = {Motor.speed: "v [1/s]"}
    made = Folder(tmp_path, Motor, columns=columns, key="{stem}", time="at", time_unit="s", settle="0s")
    await made.reader.connect()
    rows = [{"at": 1767225600.5, "v [1/s]": 1.5, "torque": 2.0, "starts": 3, "running": True}]
    pq.write_table(pa.Table.from_pylist([rows[0] | {"load": 1.0}]), tmp_path / "a.parquet")
    (tmp_path / "b.ndjson").write_text(
        '{"at": 1767225600.5, "v [1/s]": 1.5, "torque": 2, "starts": 3, "running": true, "more": [1]}\n\n'
        '{"at": 1767225600.5, "v [1/s]": "fast", "torque": 2, "starts": 3, "running": true}\n'
        '{"v [1/s]": 1.5, "torque": 2, "starts": 3, "running": true}\nno\n'
    )
    reads = await made.reads()
    seen = [(k, t, *(c[i] for c in r.batch.columns.values())) for r in reads for i, (k, t) in
            enumerate(zip(r.batch.keys, r.batch.time.tolist(), strict=True))]  # fmt: skip
    at = 1767225600 * 10**9 + 5 * 10**8
    assert seen == [("a", at, 1.5, 2.0, 3, True, 1.0), ("b", at, 1.5, 2.0, 3, True, -1.0)]
    letters = {letter.message.partition("b.ndjson:")[2] for r in reads for letter in r.rejects}
    assert letters == {
        "3: v [1/s] is 'fast': a number is needed",
        "4: at is missing",
        "5: the payload is not JSON: b'no': Expecting value: line 1 column 1 (char 0)",
    }
    assert {letter.payload[:6] for r in reads for letter in r.rejects} == {b'{"at":', b'{"v [1', b"no"}


async def test_a_long_line_is_refused_and_not_kept(tmp_path: Path) -> None:
    made = Folder(tmp_path, settle="0s")
    await made.reader.connect()
    good = '{"time": "2026-01-01T00:00:00Z", "device": "a", "rms": 1}\n'
    with (tmp_path / "a.jsonl").open("w") as file:
        file.write(good + "x" * 3 * 2**20 + "\n" + good + "x" * 3 * 2**20)
    reads = await made.reads()
    assert sum(len(r.batch) for r in reads) == 2
    letters = [letter for r in reads for letter in r.rejects]
    assert [(letter.reason, letter.origin[-2:], len(letter.payload)) for letter in letters] == [
        ("too_large", ":2", 2**16), ("too_large", ":4", 2**16),
    ]  # fmt: skip


async def test_an_empty_json_file_is_done(tmp_path: Path) -> None:
    made = Folder(tmp_path, settle="0s")
    await made.reader.connect()
    (tmp_path / "a.jsonl").write_text("\n")
    made.put("b.csv")
    assert await made.values() == []
    assert made.names("done") == ["a.jsonl", "b.csv"]


def test_which_files_are_complete() -> None:
    made = Completeness(10)
    assert made.complete({"a": (1, 1), "b": (1, 1)}, 0) == []
    assert made.complete({"a": (1, 1), "b": (2, 2), "c": (0, 0)}, 9) == []
    assert made.complete({"a": (1, 1), "b": (2, 2), "c": (0, 0)}, 10) == ["a"]
    assert made.complete({"b": (2, 2), "c": (0, 0)}, 19) == ["b", "c"]
    assert made.complete({"a": (1, 1), "b": (2, 3)}, 25) == []


class Tank(Schema):
    device = Key[str]()
    rms = Col[float]()
    quality = Quality()


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("in", {}, "folder 'in': write the absolute path of a folder"),
        ("/in", {"pattern": "a/b"}, "folder pattern='a/b'"),
        ("/in", {"after": "keep"}, "folder after='keep': write 'move' or 'delete'"),
        ("/in", {"settle": "long"}, "folder settle: 'long' is not a duration"),
        ("/in", {"every": "0s"}, "folder every: '0s' is no time at all"),
        ("/in", {"time_unit": "h"}, "folder time_unit='h': it is iso, s, ms, us or ns"),
        ("/in", {"columns": {Motor.speed: "x"}}, "folder columns={Motor.speed: …}: Vibration has Vibration.rms"),
    ],
)
def test_mistakes_in_the_description(path: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as e:
        replay.folder(Vibration, path, **options)
    assert says in str(e.value)


def test_the_description() -> None:
    source = replay.folder(Tank, "/in/", pattern="*.csv")
    assert (source.folder, source.describe(), source.form.headers) == (
        "/in",
        {"folder": "/in/*.csv"},
        (("rms", "rms"),),
    )
    assert np.isclose(source.speed, 0)
