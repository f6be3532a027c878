"""Manifests: what counts, and what is wrong with a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import LocalStore

from connectors import parquet
from connectors.parquet import manifest
from connectors.parquet.manifest import Problem
from connectors.parquet.segment import File, Manifest, log_id
from pipelines import Col, Key, Schema
from pipelines.errors import BadData, PlanError

LOG = "0" * 8


def put(folder: Path, start: int, end: int, *, partition: int = 0, size: int = 3) -> Manifest:
    name = f"t/site=hall/date=2024-01-01/{partition}-{start}.parquet"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x" * 3)
    file = File(name, "2024-01-01", 1, size, "", 0, 0, "")
    made = Manifest("t", "p", "hall", "hall.x", partition, LOG, start, end, (file,), {})
    (folder / made.path).parent.mkdir(parents=True, exist_ok=True)
    (folder / made.path).write_bytes(made.encode())
    return made


def test_files_are_those_of_the_manifests(tmp_path: Path) -> None:
    put(tmp_path, 10, 20)
    put(tmp_path, 0, 10)
    (tmp_path / "t/site=hall/date=2024-01-01/stray.parquet").write_bytes(b"")
    expected = [f"t/site=hall/date=2024-01-01/0-{n}.parquet" for n in (0, 10)]
    assert [f.path for f in manifest.files(f"file://{tmp_path}", "t")] == expected
    assert manifest.verify(LocalStore(tmp_path), "t") == []


def test_gaps_overlaps_and_lost_files_are_found(tmp_path: Path) -> None:
    for start, end in ((0, 10), (12, 20), (18, 30)):
        put(tmp_path, start, end)
    put(tmp_path, 5, 9, partition=1, size=4)
    (tmp_path / "t/site=hall/date=2024-01-01/0-12.parquet").unlink()
    path = "t/_manifest/site=hall/hall.x-0-00000000-{:020d}.json"
    assert manifest.verify(f"file://{tmp_path}", "t") == [
        Problem("gap", "hall/hall.x-0-00000000", f"offsets [10, 12) before {path.format(12)}"),
        Problem("overlap", "hall/hall.x-0-00000000", f"offsets [18, 20) before {path.format(18)}"),
        Problem(
            "missing", "t/site=hall/date=2024-01-01/0-12.parquet", "a manifest names it, but it is not in the store"
        ),
        Problem("size", "t/site=hall/date=2024-01-01/1-5.parquet", "has 3 bytes, its manifest says 4"),
    ]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    made = put(tmp_path, 0, 10)
    (tmp_path / made.path).write_text("{}")
    with pytest.raises(BadData, match=f"{made.path} is not a manifest: Object missing required field"):
        manifest.files(f"file://{tmp_path}", "t")


def test_a_cluster_has_its_id() -> None:
    assert log_id("a") == log_id("a") != log_id("b")
    assert len(log_id("a")) == 8


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("Press", {}, "Parquet table 'Press' cannot be used: write names of lower-case letters"),
        ("a/../b", {}, "cannot be used"),
        ("a", {"profile": "tiny"}, "profile 'tiny' is unknown: write 'compact' or 'portable'"),
        ("a", {"roll": "2GiB"}, "roll='2GiB' is out of range: write a size up to '1GiB'"),
        ("a", {"rows_max": 0}, "rows_max=0 must be more than 0"),
    ],
)
def test_a_wrong_dataset_is_refused(table: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parquet.dataset(table, **options)  # type: ignore[arg-type]  # wrong on purpose


def test_a_column_must_not_be_named_like_a_part_of_the_path() -> None:
    class Reading(Schema):
        device = Key[str]()
        date = Col[int]()

    with pytest.raises(
        PlanError, match=r"Reading\.date cannot go to Parquet table 't': the path already has a column 'date'"
    ):
        parquet.dataset("t").check(Reading.measured())
