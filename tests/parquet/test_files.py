"""Rows -> files -> rows, as pyarrow and DuckDB read them."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.parquet import Profile
from connectors.parquet.segment import DATES_MAX, NO_DATE
from connectors.parquet.writer import Rows
from pipelines import Col, Key, Schema
from pipelines.batch import WINDOW_START, Batch
from pipelines.schema import Field, Row

DAY = 86_400 * 10**9


class Reading(Schema):
    device = Key[str]()
    x = Col[float]("mm/s")
    small = Col[np.float32]("K")
    n = Col[int]()
    on = Col[bool]()


ROW = Reading.measured()
ONE = st.tuples(
    st.text(max_size=4), st.integers(-(10**18), 4 * 10**18).map(lambda t: t // 1000 * 1000), st.floats(), st.floats(width=32),
    st.integers(-(2**63), 2**63 - 1), st.booleans(),
)  # fmt: skip


def batch(rows: list[tuple[str, int, float, float, int, bool]]) -> Batch:
    device, time, x, small, n, on = zip(*rows, strict=True)
    return Reading.batch(time=np.array(time, np.int64), device=list(device), x=x, small=small, n=n, on=on)


def write(batches: list[Batch], profile: Profile = "compact", row: Row = ROW) -> dict[str, bytes]:
    """Files by date."""
    rows, found = Rows(row, batches), {}
    for part in rows.parts():
        file = io.BytesIO()
        rows.write(part, file, profile, {"site": "hall"})
        found[part.date] = file.getvalue()
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ONE, min_size=1, max_size=6), min_size=1, max_size=4), st.sampled_from(["compact", "portable"])
)
def test_every_row_comes_back_once_sorted_under_its_date(
    frames: list[list[tuple[str, int, float, float, int, bool]]], profile: Profile
) -> None:
    got = []
    for date, data in write([batch(f) for f in frames], profile).items():
        table = pq.read_table(io.BytesIO(data))
        device, time = table["device"].to_pylist(), table["time"].cast(pa.int64()).to_pylist()
        assert list(zip(device, time, strict=True)) == sorted(
            zip(device, time, strict=True), key=lambda r: (r[0].encode(), r[1])
        )
        assert {str(np.datetime64(t, "us"))[:10] for t in time} == {date}
        columns = [table[c].to_pylist() for c in ("x", "small", "n", "on")]
        got += list(zip(device, [t * 1000 for t in time], *columns, strict=True))
    assert sorted(map(repr, got)) == sorted(map(repr, [row for f in frames for row in f]))


def test_the_same_rows_make_the_same_bytes() -> None:
    frames = [batch([(f"d{i % 5}", i * 10**9, i * 0.1, 1.0, i, True) for i in range(k, k + 50)]) for k in (0, 50)]
    assert write(frames) == write(frames)


def test_a_windowed_row_has_its_window() -> None:
    row = Row("Minute", "device", (Field("Minute.mean", "float64", "mm"),), windowed=True)
    columns = {"Minute.mean": np.array([2.5]), WINDOW_START: np.array([60 * 10**9])}
    rows = Batch.of_keys(["d"], np.array([120 * 10**9 - 1]), columns)
    (data,) = write([rows], row=row).values()
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.names == ["device", "time", "window_start", "mean"]
    assert table["time"].cast(pa.int64()).to_pylist() == [119_999_999], "the end of the window must stay within it"
    assert table["window_start"].cast(pa.int64()).to_pylist() == [60_000_000]


def test_a_device_with_a_mad_clock_does_not_make_thousands_of_files() -> None:
    rows = [("d", day * DAY, 0.0, 0.0, day, True) for day in range(DATES_MAX + 50)]
    files = write([batch(rows)])
    assert len(files) == DATES_MAX
    assert pq.read_table(io.BytesIO(files[NO_DATE])).num_rows == 51


@pytest.mark.parametrize("profile", ["compact", "portable"])
def test_duckdb_and_pyarrow_read_types_partitions_and_values(tmp_path: Path, profile: Profile) -> None:
    rows = [(f"d{i}", i * DAY // 4, i + 0.5, i + 0.25, -i, i % 2 == 0) for i in range(12)]
    for date, data in write([batch(rows)], profile).items():
        folder = tmp_path / "press" / "site=hall" / f"date={date}"
        folder.mkdir(parents=True)
        (folder / "x.parquet").write_bytes(data)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        source = f"read_parquet('{tmp_path}/press/**/*.parquet', hive_partitioning = true)"
        kinds = {name: kind for name, kind, *_ in db.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        assert kinds == {
            "device": "VARCHAR", "time": "TIMESTAMP WITH TIME ZONE", "x": "DOUBLE", "small": "FLOAT", "n": "BIGINT",
            "on": "BOOLEAN", "site": "VARCHAR", "date": "DATE",
        }  # fmt: skip
        counted = db.execute(
            f"SELECT site, date::VARCHAR, count(*), sum(n), sum(x) FROM {source} GROUP BY ALL ORDER BY 2"
        ).fetchall()
    assert counted == [
        ("hall", "1970-01-01", 4, -6, 8.0),
        ("hall", "1970-01-02", 4, -22, 24.0),
        ("hall", "1970-01-03", 4, -38, 40.0),
    ]
    table = ds.dataset(tmp_path / "press", partitioning="hive").to_table(filter=ds.field("date") == "1970-01-02")
    assert sorted(table["small"].to_pylist()) == [4.25, 5.25, 6.25, 7.25]
    assert table.schema.field("x").metadata[b"unit"] == b"mm/s"
    assert table.schema.metadata[b"sitestream.site"] == b"hall"


def test_each_kind_has_its_encoding_and_one_device_its_stretch() -> None:
    (data,) = write([batch([(f"d{i % 3}", i * 10**6, i * 0.1, 0.0, i, True) for i in range(3000)])]).values()
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in encodings["x"]
    assert "DELTA_BINARY_PACKED" in encodings["time"]
    assert "DELTA_BINARY_PACKED" in encodings["n"]
    assert [(c.column_index, c.descending) for c in group.sorting_columns] == [(0, False), (1, False)]
    assert group.column(0).compression == "ZSTD"
