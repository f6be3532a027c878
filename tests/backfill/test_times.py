"""--from, --to and --warm-up; what is not read at all; what cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.backfill.job import narrowed
from connectors.backfill.planning import orders
from connectors.backfill.reach import reach
from pipelines.load import load
from tests.backfill import kit
from tests.backfill.kit import BEGIN, HEAD, ONE, SECOND, Store
from tests.bed.s3 import S3

WINDOWS = (
    HEAD
    + """
class Tens(Schema):
    mean = agg.mean(Reading.x)


class Hop(Schema):
    mean = agg.mean(Tens.mean)


test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
tens = readings.window(tumbling("10s", late="2s"), Tens).to(parquet.dataset("t/tens"))
hop = tens.window(hopping("30s", every="10s", late="0s"), Hop).to(parquet.dataset("t/hop"))
results = {"tens": tens, "hop": hop}
"""
)
FILTERED = (
    HEAD
    + """
class Tens(Schema):
    n = agg.count()


test = Pipeline("test")
readings = test.read(topic.append(Reading, "readings"))
high = readings.where((Reading.k >= 95) & (Reading.state == "run")).window(tumbling("10s", late="2s"), Tens)
results = {"tens": high.to(parquet.dataset("t/tens"))}
"""
)


def between(columns: dict[str, list[Any]], low: int, high: int) -> dict[str, list[Any]]:
    keep = [low // 1000 <= t < high // 1000 for t in columns["time"]]
    return {n: [v for v, k in zip(c, keep, strict=True) if k] for n, c in columns.items()}


def test_results_are_those_of_the_time_asked_for_and_of_whole_windows(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", WINDOWS)
    batch = kit.readings(20_000, 5)
    dataset = Store(file, tmp_path / "store").plain("readings", batch, by="time")
    low, high = BEGIN + 60 * SECOND, BEGIN + 125 * SECOND
    want = kit.as_stream(file, {"readings": batch})
    summary = kit.backfill(file, {"readings": dataset}, tmp_path / "out", begin=low, end=high)
    for name, columns in want.items():
        assert kit.stored(tmp_path / "out", f"t/{name}") == between(columns, low, high), name
    assert summary.rows < len(batch) * 0.6
    kit.backfill(file, {"readings": dataset}, tmp_path / "cold", begin=low, end=high, warm_up=0)
    assert kit.stored(tmp_path / "cold", "t/tens") == between(want["tens"], low, high)
    assert kit.stored(tmp_path / "cold", "t/hop") == between(want["hop"], low + 29 * SECOND, high)


def test_the_warm_up_is_as_long_as_windows_reach(tmp_path: Path) -> None:
    assert reach(narrowed(load(kit.program(tmp_path / "a", WINDOWS)).plan())) == 40 * SECOND
    assert reach(narrowed(load(kit.program(tmp_path / "b", kit.TWO)).plan())) == 60 * SECOND  # the tolerance
    assert (
        reach(narrowed(load(kit.program(tmp_path / "c", ONE)).plan())) == (25 * 3600) * SECOND
    )  # a day has at most that


def test_row_groups_that_no_filter_lets_pass_are_not_read(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", FILTERED)
    batch = kit.readings(20_000, 5)
    batch.columns["Reading.k"][5_000:] %= 95
    dataset = Store(file, tmp_path / "store").plain("readings", batch, by="time", group=1_000)
    job = kit.job(file, {"readings": dataset}, tmp_path / "out")
    assert {p.group for o in orders(job, 1) for p in o.pieces} == set(range(5))
    kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    want = kit.as_stream(file, {"readings": batch})["tens"]
    assert want
    assert kit.stored(tmp_path / "out", "t/tens") == want


def test_files_of_other_days_are_not_opened(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", WINDOWS)
    store = Store(file, tmp_path / "store")
    dataset = store.segments("readings", [kit.readings(5_000, 5)])
    old = dataset / "site=hall/date=2020-01-01/damaged.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"not Parquet")
    for manifest in dataset.rglob("*.json"):
        manifest.unlink()
    assert kit.backfill(file, {"readings": dataset}, tmp_path / "out", begin=BEGIN).rows == 5_000


def test_what_no_manifest_names_does_not_count(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", WINDOWS)
    store = Store(file, tmp_path / "store")
    dataset = store.segments("readings", [kit.readings(5_000, 5)])
    first = next(dataset.rglob("*.parquet"))
    first.with_name(f"{first.stem}.rest.parquet").write_bytes(first.read_bytes())
    assert kit.backfill(file, {"readings": dataset}, tmp_path / "out").rows == 5_000


def test_csv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = kit.program(tmp_path / "p", WINDOWS)
    batch = kit.readings(5_000, 5)
    lines = ["device,time,x,k,state,more"]
    when = np.datetime_as_string(batch.time.astype("datetime64[ns]"), unit="ms")
    x = batch.columns["Reading.x"]
    lines += [f"{d},{t}Z,{v!r},1,run,-" for d, t, v in zip(batch.keys, when.tolist(), x.tolist(), strict=True)]
    lines.insert(7, "m0,2026-01-01T00:00Z,warm,1,run,-")
    (tmp_path / "r.csv").write_text("\n".join(lines))
    summary = kit.backfill(file, {"readings": tmp_path / "r.csv"}, tmp_path / "out")
    assert summary.rows == 5_000
    assert "r.csv:8: x is 'warm': a number is needed" in caplog.text
    for name, columns in kit.as_stream(file, {"readings": batch}).items():
        assert kit.stored(tmp_path / "out", f"t/{name}") == columns, name
    staged = {f: f.stat().st_mtime_ns for f in (tmp_path / "out/_backfill/staged").rglob("*")}
    assert staged
    assert kit.backfill(file, {"readings": tmp_path / "r.csv"}, tmp_path / "out") == summary
    assert staged == {f: f.stat().st_mtime_ns for f in (tmp_path / "out/_backfill/staged").rglob("*")}


def test_missing_values_and_other_types(tmp_path: Path) -> None:
    file = kit.program(
        tmp_path / "p",
        HEAD.replace("Col[int]()", "Col[int](absent=7)")
        + """
class All(Schema):
    x = Reading.x
    k = Reading.k
    state = Reading.state


test = Pipeline("test")
results = {"all": test.read(topic.append(Reading, "readings")).select(All).to(parquet.dataset("t/all"))}
""",
    )
    table = pa.table({
        "device": ["a", "b", None, "a", "a"],
        "time": pa.array([BEGIN // 10**9 + i for i in range(5)], pa.timestamp("s")),
        "x": pa.array([1, 2, 3, None, 5], pa.int16()),
        "state": pa.array(["run", "run", "run", "run", "stop"], pa.large_string()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "older.parquet")
    with_k = table.append_column("k", pa.array([1, 2, 3, 4, None], pa.int32()))
    pq.write_table(with_k, tmp_path / "newer.parquet", write_statistics=False)
    summary = kit.backfill(file, {"readings": tmp_path / "*er.parquet"}, tmp_path / "out")
    assert summary.dropped == 4
    got = kit.stored(tmp_path / "out", "t/all")
    assert sorted(zip(got["device"], got["x"], got["k"], got["state"], strict=True)) == sorted(
        (d, float(x).hex(), k, s)
        for d, x, s, ks in [("a", 1, "run", (1, 7)), ("b", 2, "run", (2, 7)), ("a", 5, "stop", (7, 7))]
        for k in ks
    )


def test_a_table_is_known_from_its_beginning(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", kit.TWO)
    batches = {
        "readings": kit.readings(6_000, 4, every=0.05),
        "tools": kit.readings(3_000, 4, 1, schema="Tool", every=0.1),
        "work": kit.readings(8, 4, 2, schema="Work", every=0.5),  # in the first four seconds
    }
    store = Store(file, tmp_path / "store")
    datasets = {s: store.plain(s, b, by="time", group=500) for s, b in batches.items()}
    low = BEGIN + 200 * SECOND
    kit.backfill(file, datasets, tmp_path / "out", begin=low)
    want = between(kit.as_stream(file, batches)["ordered"], low, 2 * low)
    assert any(order for order in want["order"])
    assert kit.stored(tmp_path / "out", "t/ordered") == want


def test_a_dataset_in_a_bucket(tmp_path: Path, s3: S3, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kit.program(tmp_path / "p", WINDOWS)
    batch = kit.readings(5_000, 5)
    dataset = Store(file, tmp_path / "store").segments("readings", [batch])
    for path in dataset.rglob("*.*"):
        obstore.put(s3.store(), f"{unique}/raw/readings/{path.relative_to(dataset)}", path.read_bytes())
    facts = {
        "ACCESS_KEY_ID": s3.access_key,
        "SECRET_ACCESS_KEY": s3.secret_key,
        "ENDPOINT_URL": s3.endpoint,
        "REGION": s3.region,
    }
    for name, value in facts.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    url = f"s3://{s3.bucket}/{unique}/raw/readings"
    kit.backfill(file, {"readings": url}, tmp_path / "out")  # type: ignore[dict-item]  # a URL
    assert kit.stored(tmp_path / "out", "t/hop") == kit.as_stream(file, {"readings": batch})["hop"]
