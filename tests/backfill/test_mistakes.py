"""What is wrong with a backfill is said in one line: what, where, and the cure."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.backfill.pieces import Share
from connectors.backfill.planning import orders
from connectors.backfill.reader import Keys
from connectors.backfill.record import Record
from pipelines.errors import BadData, ConfigError, StateError, Unavailable
from pipelines.runtime.kafka import partition_of
from tests.backfill import kit
from tests.backfill.kit import HEAD, ONE, TWO, Store

END = """
test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
readings.to(parquet.dataset("t/raw"))
"""


def plain(tmp_path: Path, **columns: object) -> Path:
    given = {
        "device": ["a"],
        "time": pa.array([kit.BEGIN], pa.timestamp("ns")),
        "x": [1.0],
        "k": [1],
        "state": ["run"],
    } | columns
    pq.write_table(pa.table({n: c for n, c in given.items() if c is not None}), tmp_path / "r.parquet")
    return tmp_path / "r.parquet"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": None},
            "r.parquet has no column 'x'; it has 'device', 'time', 'k', 'state': name the columns as the schema does",
        ),
        ({"device": None}, "has no column 'device'"),
        (
            {"k": [1.5]},
            "r.parquet: column 'k' is double, the schema wants int64: change the schema or convert the column",
        ),
        ({"x": ["1"]}, "column 'x' is string, the schema wants float64"),
        ({"device": [7]}, "column 'device' is int64, the schema wants text"),
        ({"time": ["2026-01-31"]}, "column 'time' is string: a timestamp is needed; convert it"),
        ({"k": pa.array([2**64 - 1], pa.uint64())}, "column 'k' does not fit int64: .*: change the schema"),
    ],
)
def test_columns(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    file = kit.program(tmp_path / "p", ONE)
    with pytest.raises(ConfigError, match=message):
        kit.backfill(file, {"readings": plain(tmp_path, **columns)}, tmp_path / "out")


def test_datasets(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    (tmp_path / "empty").mkdir()
    for nothing in ("nowhere", "empty", "p/pipe.py", "no/*.parquet"):
        with pytest.raises(ConfigError, match=rf"dataset .*{re.escape(nothing)}: there is no such file or folder"):
            kit.backfill(file, {"readings": tmp_path / nothing}, tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"dataset 'nosuch://x' cannot be opened: .*: write a folder, or s3://bucket/folder"
    ):
        kit.backfill(file, {"readings": "nosuch://x"}, tmp_path / "out")  # type: ignore[dict-item]  # a URL
    (tmp_path / "bad.parquet").write_text("text")
    with pytest.raises(
        ConfigError, match=r"bad.parquet cannot be read: .*: leave it out of the dataset, or bring it again"
    ):
        kit.backfill(file, {"readings": tmp_path / "bad.parquet"}, tmp_path / "out")


def test_streams_and_times(tmp_path: Path) -> None:
    file, data = kit.program(tmp_path / "p", TWO), plain(tmp_path)
    with pytest.raises(
        ConfigError, match=r"--source reading=…: the tables of .* are computed from readings, tools, work: name"
    ):
        kit.backfill(file, {"reading": data}, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"stream tools has no readings: add  --source tools=DATASET"):
        kit.backfill(file, {"readings": data}, tmp_path / "out")
    given = (("readings", str(data)),) * 2
    with pytest.raises(ConfigError, match=r"--source readings=… is there twice"):
        replace(kit.job(file, {}, tmp_path / "out"), datasets=given).check()
    with pytest.raises(ConfigError, match=r"--from is not before --to"):
        kit.backfill(file, {"readings": data}, tmp_path / "out", begin=5, end=5)
    one = kit.program(tmp_path / "q", ONE)
    with pytest.raises(ConfigError, match=r"there are no readings between --from and --to in the dataset"):
        kit.backfill(one, {"readings": data}, tmp_path / "out", end=kit.BEGIN)


def test_pipelines(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"pipeline test has no result to backfill: none of its computed steps has a .to"
    ):
        kit.backfill(kit.program(tmp_path / "p", HEAD + END), {"readings": plain(tmp_path)}, tmp_path / "out")


def test_segments_that_overlap(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    dataset = Store(file, tmp_path / "store").segments("readings", [kit.readings(500, 5)] * 2)
    second = max(dataset.rglob("*.json"))
    second.write_text(second.read_text().replace('"start": 3', '"start": 2'))
    with pytest.raises(
        BadData, match=r"two manifests of hall/hall.readings-1-0123abcd both have offsets \[2, 3\).* count twice"
    ):
        kit.backfill(file, {"readings": dataset}, tmp_path / "out")


def test_a_key_that_moved_to_another_partition(tmp_path: Path) -> None:
    """As when a topic got more partitions: seen in the footers if it is the first or last of a file, else when it is read."""
    names = sorted((f"m{i}" for i in range(60)), key=lambda n: partition_of(n, 2))
    first = [n for n in names if partition_of(n, 2) == 0]
    file = kit.program(tmp_path / "p", ONE)
    share = Share(partition=0, partitions=2)
    _, mine = Keys(share).codes(pa.array(first).dictionary_encode())
    assert mine
    with pytest.raises(
        StateError, match=r"in partition 0 of 2, where it does not belong: the number of partitions has changed"
    ):
        Keys(share).codes(pa.array(names).dictionary_encode())
    batch = kit.readings(5_000, 40)
    store = Store(file, tmp_path / "store")
    dataset = store.segments("readings", [batch], partitions=2)
    assert {o.unit.share.partitions for o in orders(kit.job(file, {"readings": dataset}, tmp_path / "a"), 1)} == {2}
    for path in dataset.rglob("*readings-1-*"):
        path.rename(path.with_name(path.name.replace("readings-1-", "readings-2-")))
        if path.suffix == ".json":
            path.with_name(path.name.replace("readings-1-", "readings-2-")).unlink()
    for path in dataset.rglob("*.json"):
        path.unlink()
    assert {o.unit.share.partitions for o in orders(kit.job(file, {"readings": dataset}, tmp_path / "b"), 1)} == {0}


def test_two_at_a_time(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    with (
        Record(str(tmp_path / "out")).alone(),
        pytest.raises(Unavailable, match=r"a backfill into .*out is running already"),
    ):
        kit.backfill(file, {"readings": plain(tmp_path)}, tmp_path / "out")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    (tmp_path / "out/t").mkdir(parents=True)
    (tmp_path / "out/t/tens").write_text("in the way")
    with pytest.raises(
        Unavailable, match=r"t/tens/.* cannot be written \(.*\): free space, or give another folder with --out"
    ):
        kit.backfill(file, {"readings": plain(tmp_path)}, tmp_path / "out")
