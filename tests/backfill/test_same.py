"""A backfill gives what the stream gave, to the last bit, however its readings lie in files and are shared out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from connectors.backfill.job import Limits
from pipelines import Col, Key, Schema
from pipelines.batch import Batch
from pipelines.operators.flow import join_rows
from tests.backfill import kit
from tests.backfill.kit import ONE, REKEYED, TWO, Store


class Machine(Schema):
    device = Key[str]()
    limit = Col[float]("mm/s", absent=1.0)


FACTS = Machine.facts(device=[f"m{i}" for i in range(0, 40, 2)], limit=[float(i) for i in range(0, 40, 2)])


def shuffled(batch: Batch) -> list[Batch]:
    """In batches that overlap in time: a tenth of the readings comes with the next batch. Of equal times all do."""
    first = np.searchsorted(batch.time, batch.time)
    parts = first // 2_500 + (batch.time // 10**6 % 10 == 0)
    return [batch.take(parts == i) for i in range(parts.max() + 1)]


def check(file: str, out: Path, want: dict[str, dict[str, list[object]]]) -> None:
    for name, columns in want.items():
        assert columns, f"{name} has no rows: the test shows nothing"
        got = kit.stored(out, f"t/{name}")
        assert got.keys() == columns.keys()
        for column, values in columns.items():
            assert got[column] == values, (name, column)


@pytest.mark.parametrize("layout", ["segments", "by time", "by key", "sites"])
def test_one_stream(tmp_path: Path, layout: str) -> None:
    file = kit.program(tmp_path / "p", ONE)
    batch = kit.readings(20_000, 12)
    store = Store(file, tmp_path / "store")
    match layout:
        case "segments":
            dataset = store.segments("readings", shuffled(batch))
        case "sites":
            own = batch.codes % 2 == 0
            dataset = store.segments("readings", [batch.take(own)], site="a")
            store.segments("readings", [batch.take(~own)], site="b")
        case _:
            dataset = store.plain("readings", batch, by=layout.removeprefix("by "))
    want = kit.as_stream(file, {"readings": batch}, FACTS)
    kit.backfill(file, {"readings": dataset}, tmp_path / "few", limits=Limits())
    check(file, tmp_path / "few", want)
    summary = kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    check(file, tmp_path / "out", want)
    assert (summary.rows, summary.dropped) == (len(batch), 0)
    assert summary.units > 2, "held_bytes_max did not share the keys out"
    assert not (tmp_path / "out/t/raw").exists()
    assert not (tmp_path / "out/t/late").exists()


@pytest.mark.parametrize("layout", ["segments", "by key", "sites"])
def test_rows_that_go_to_another_key(tmp_path: Path, layout: str) -> None:
    file = kit.program(tmp_path / "p", REKEYED)
    batch = kit.readings(20_000, 12)
    store, wants = Store(file, tmp_path / "store"), [batch]
    match layout:
        case "segments":
            dataset = store.segments("readings", shuffled(batch))
        case "by key":
            dataset = store.plain("readings", batch, by="key")
        case _:
            wants = [batch.take(batch.codes % 2 == i) for i in range(2)]
            dataset = store.segments("readings", wants[:1], site="a")
            store.segments("readings", wants[1:], site="b")
    summary = kit.backfill(file, {"readings": dataset}, tmp_path / "out", jobs=2)
    assert summary.units == len(wants), "all keys of a site meet in one unit"
    streams = [kit.as_stream(file, {"readings": want}) for want in wants]
    together = {name: kit.both(*(s[name] for s in streams)) for name in streams[0]}
    check(file, tmp_path / "out", together)


def test_several_streams_side_by_side(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", TWO)
    batches = {
        "readings": kit.readings(12_000, 8, every=0.05),
        "tools": kit.readings(6_000, 8, 1, schema="Tool", every=0.1),
        "work": kit.readings(40, 8, 2, schema="Work", every=10.0),
    }
    store = Store(file, tmp_path / "store")
    datasets = {
        "readings": store.segments("readings", shuffled(batches["readings"])),
        "tools": store.plain("tools", batches["tools"], by="time", group=500),
        "work": store.plain("work", batches["work"], by="key", group=500),
    }
    summary = kit.backfill(file, datasets, tmp_path / "out")
    assert summary.units > 2
    check(file, tmp_path / "out", kit.as_stream(file, batches))


def test_equal_times_stand_in_the_order_of_files(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    first = kit.readings(3_000, 5)
    second = replace(first, columns={**first.columns, "Reading.x": -first.columns["Reading.x"]})
    store = Store(file, tmp_path / "store")
    store.plain("readings", first.take(slice(10, None)), by="time", group=10_000, name="a.parquet")  # begins after b
    dataset = store.plain("readings", second, by="time", group=100, name="b.parquet").parent
    both = join_rows([first.take(slice(10, None)), second])
    order = np.argsort(both.time, kind="stable")
    kit.backfill(file, {"readings": dataset}, tmp_path / "out")
    want = kit.as_stream(file, {"readings": replace(both.take(order), names=first.names)}, FACTS)
    check(file, tmp_path / "out", {name: want[name] for name in ("smooth", "hundred", "tens")})


def test_side_by_side_in_processes(tmp_path: Path) -> None:
    file = kit.program(tmp_path / "p", ONE)
    batch = kit.readings(20_000, 12)
    dataset = Store(file, tmp_path / "store").plain("readings", batch, by="key")
    told: list[int] = []
    kit.backfill(file, {"readings": dataset}, tmp_path / "alone")
    kit.backfill(file, {"readings": dataset}, tmp_path / "both", jobs=2, told=told.append)
    check(file, tmp_path / "both", kit.as_stream(file, {"readings": batch}, FACTS))
    assert sum(told) == len(batch)
