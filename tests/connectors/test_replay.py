"""Recorded files: pace, columns, keys, times, and what is wrong with which line."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors import replay
from connectors.base import Context, EndOfInput
from connectors.replay import files
from connectors.replay.reader import Pace, ReplayReader
from pipelines.batch import Batch
from pipelines.clock import ManualClock
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError, PlanError
from tests.connectors.schemas import Motor, Vibration

T0 = int(np.datetime64("2026-01-01", "ns").astype(np.int64))
S = 10**9


async def read_all(
    path: Path | str, schema: type[Any] = Vibration, **options: Any
) -> tuple[list[Batch], list[DeadLetter]]:
    source = replay.source(schema, str(path), **({"speed": 0} | options))
    reader = ReplayReader(source, Context("s", "1", Path(), ManualClock(10**18)))
    await reader.connect()
    batches: list[Batch] = []
    rejects: list[DeadLetter] = []
    try:
        while True:
            got = await reader.read(rows_max=10_000, linger_s=0.05)
            batches.append(got.batch)
            rejects += got.rejects
    except EndOfInput:
        return batches, rejects


def flat(batches: list[Batch], column: str) -> list[Any]:
    return [v for b in batches for v in b.columns[column].tolist()]


def csv(folder: Path, *lines: str, name: str = "a.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


async def test_headers_keys_and_units(tmp_path: Path) -> None:
    csv(tmp_path, "ts,RMS [mm/s],other", "1767225600,1.5,x", "1767225601.5,2,y", name="press-7.csv")
    options: dict[str, Any] = {
        "columns": {Vibration.rms: "RMS [mm/s]"},
        "key": "{stem}",
        "time": "ts",
        "time_unit": "s",
    }
    batches, rejects = await read_all(tmp_path / "*.csv", **options)
    assert rejects == []
    assert [k for b in batches for k in b.keys] == ["press-7"] * 2
    assert [t for b in batches for t in b.time.tolist()] == [T0, T0 + 3 * S // 2]
    assert flat(batches, "Vibration.rms") == [1.5, 2.0]


async def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, value in (("b.csv", 2), ("c.csv", 3), ("a.csv", 1)):
        csv(tmp_path, "time,device,rms", f"2026-01-01T00:00:00Z,d,{value}", name=name)
    batches, _ = await read_all(tmp_path / "*.csv")
    assert flat(batches, "Vibration.rms") == [1, 2, 3]


async def test_what_is_wrong_with_which_line(tmp_path: Path) -> None:
    good = "2026-01-01T00:00:00Z,d,1"
    path = csv(
        tmp_path, "time,device,rms", good, "2026-01-01T00:00:01Z,d", "2026-01-01T00:00:02Z,d,high",
        "2026-01-01T00:00:03Z,d,nan", "2026-01-01T00:00:04Z,d,", "2026-01-01T00:00:05Z,,1",
        "yesterday,d,1", ",d,1", "1970-01-01T00:00:00Z,d,1", "a,b,c,d", good,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + b"2026-01-01T00:00:00Z,\xff,1\n")
    batches, rejects = await read_all(path)
    assert flat(batches, "Vibration.rms") == [1, 1]
    assert {r.message.removeprefix(f"{tmp_path}/") for r in rejects} == {
        "a.csv:3: the line has 2 cells, the header 3",
        "a.csv:4: rms is 'high': a number is needed",
        "a.csv:5: rms is nan: a finite number of float64 is needed",
        "a.csv:6: rms is missing or null: a number is needed",
        "a.csv:7: there is no device",
        "a.csv:8: time is 'yesterday': ISO 8601 with a zone is needed, such as '2026-01-31T12:00:00.5Z'",
        "a.csv:9: time is missing",
        "a.csv:10: time is 1970-01-01T00:00:00.000Z, before 1980: is the device's clock set?",
        "a.csv:11: the line has 4 cells, the header 3",
        "a.csv:13: device is b'\\xff', which is not UTF-8",
    }
    assert {r.payload for r in rejects} >= {b"2026-01-01T00:00:01Z,d", b"d,2026-01-01T00:00:02Z,high"}


@pytest.mark.parametrize(
    ("column", "cell", "taken"),
    [
        ("starts", "3", True),
        ("starts", "3.0", False),
        ("starts", "0x1", False),
        ("starts", "+3", False),
        ("running", "TRUE", True),
        ("running", "0", True),
        ("running", "yes", False),
        ("speed", "+1.5e3", True),
        ("speed", "1_0", False),
        ("torque", "1e39", False),
        ("load", "", True),
    ],
)
async def test_cells_of_each_type(tmp_path: Path, column: str, cell: str, taken: bool) -> None:
    cells = {
        "time": "2026-01-01T00:00:00Z",
        "device": "d",
        "speed": "1",
        "torque": "1",
        "starts": "1",
        "running": "true",
        "load": "1",
    }
    path = csv(tmp_path, ",".join(cells), ",".join((cells | {column: cell}).values()))
    batches, rejects = await read_all(path, Motor)
    assert (sum(map(len, batches)), len(rejects)) == ((1, 0) if taken else (0, 1))


async def test_parquet_with_its_own_types(tmp_path: Path) -> None:
    when = [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=i) for i in range(3)]
    table = pa.table({
        "time": pa.array(when, pa.timestamp("ms", "UTC")), "device": pa.array(["a", "b", None]).dictionary_encode(),
        "rms": pa.array([1.0, None, 3.0], pa.float32()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    batches, rejects = await read_all(tmp_path / "a.parquet")
    assert flat(batches, "Vibration.rms") == [1.0]
    assert [r.message.removeprefix(f"{tmp_path}/") for r in rejects] == [
        "a.parquet:2: rms is missing or null: a number is needed",
        "a.parquet:3: there is no device",
    ]


async def test_large_files_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(files, "BLOCK_ROWS", 100)
    values = list(range(1000))
    csv(tmp_path, "time,device,rms", *(f"2026-01-01T00:00:00Z,d,{v}" for v in values), "2026-01-01T00:00:00Z,d,x")
    times = pa.array([T0] * 1000, pa.timestamp("ns"))
    pq.write_table(pa.table({"time": times, "device": ["d"] * 1000, "rms": values}), tmp_path / "a.parquet")
    for file, wrong in (("a.csv", [f"{tmp_path}/a.csv:1002"]), ("a.parquet", [])):
        batches, rejects = await read_all(tmp_path / file)
        assert flat(batches, "Vibration.rms") == values
        assert max(map(len, batches)) <= 100
        assert [r.origin for r in rejects] == wrong


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "replay: no file matches"),
        (
            {"a.csv": "time,device,amps\n"},
            "a.csv has no column 'rms'; it has 'time', 'device', 'amps': give columns=, key= or time=",
        ),
        ({"a.parquet": "not one"}, "a.parquet cannot be read"),
        ({"a.csv": ""}, "a.csv has no column"),
    ],
)
async def test_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ending = "parquet" if "a.parquet" in files else "csv"
    with pytest.raises(ConfigError) as e:
        await read_all(tmp_path / f"*.{ending}")
    assert says in str(e.value)


async def test_an_int_column_of_floats(tmp_path: Path) -> None:
    cells = {
        "time": [T0],
        "device": ["d"],
        "speed": [1.0],
        "torque": [1.0],
        "starts": [1.5],
        "running": [True],
        "load": [1.0],
    }
    pq.write_table(pa.table(cells), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="column 'starts' is double, the schema wants int: make it Col"):
        await read_all(tmp_path / "a.parquet", Motor, time_unit="ns")


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("a.xlsx", {}, "only .csv, .parquet, .jsonl, .ndjson can be read"),
        ("a.csv", {"speed": -1}, "speed is at least 0"),
        ("a.csv", {"time_unit": "h"}, "it is iso, s, ms, us or ns"),
        ("a.csv", {"columns": {Motor.speed: "v"}}, "replay columns={Motor.speed: …}: Vibration has Vibration.rms"),
    ],
)
def test_mistakes_in_the_description(path: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as e:
        replay.source(Vibration, path, **options)
    assert says in str(e.value)


def test_the_description() -> None:
    source = replay.source(Vibration, "x/*.csv", speed=None)
    assert source.describe() == {"replay": "x/*.csv", "speed": "as fast as possible"}
    assert (source.stream, source.speed, source.form.key) == ("vibration", 0.0, "device")


def test_rows_are_due_when_their_time_has_come() -> None:
    time = np.array([100, 110, 105, 200]) * S
    pace = Pace(10)
    assert pace.due(time, 50.0) == 1
    assert pace.wait_s(time[1:], 50.5) == 0.5
    assert pace.due(time[1:], 51.0) == 2  # the row that is out of order goes with the one before it
    assert pace.due(time[3:], 59.9) == 0
    assert pace.due(time[3:], 60.0) == 1
    assert Pace(0).due(time, 0) == 4


async def test_a_replay_keeps_its_pace(tmp_path: Path) -> None:
    path = csv(tmp_path, "time,device,rms", *(f"2026-01-01T00:{m:02}:00Z,d,{m}" for m in range(4)))
    clock = ManualClock(10**18)
    reader = ReplayReader(replay.source(Vibration, str(path), speed=60), Context("s", "1", Path(), clock))
    await reader.connect()
    start = clock.monotonic_s()
    seen: list[float] = []
    while len(seen) < 4:
        got = await reader.read(rows_max=10, linger_s=0.25)
        seen += [round(clock.monotonic_s() - start, 6)] * len(got.batch)
    assert seen == [0, 1, 2, 3]
