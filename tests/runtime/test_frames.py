"""Records <-> frames, without Kafka."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.batch import TIME_MIN, WINDOW_START, Batch
from pipelines.runtime import frames, kafka
from pipelines.task import Emitted
from pipelines.wire import FrameInfo, decode, encode
from tests.runtime.plant import Reading, Setting, plant, plant_keyed
from tests.runtime.test_inbox import Record

PLAN = plant.plan()
ROW = Reading.measured()


def record(value: bytes | None, offset: int = 0, info: FrameInfo | None = None) -> Record:
    headers = (info or FrameInfo("test", 5, 1, ROW.fingerprint)).headers()
    return Record("s.readings", offset, 0, value, 3, tuple(headers))


def good() -> bytes:
    return encode(Reading.batch(time=[5], device=["d"], x=[1.5]), ROW)


def test_frames_and_dead_letters_are_told_apart_in_order() -> None:
    setting = Setting.batch(time=[5], device=["d"], base=[1.0])
    records = [record(good()), record(b"junk", 1), record(encode(setting, Setting.measured()), 2), record(good(), 3)]
    read, dead = frames.read(records, ROW)
    assert [f.batch.columns["Reading.x"].tolist() for f in read] == [[1.5], [1.5]]
    assert [(d.origin, d.reason) for d in dead] == [("s.readings[3]@1", "not_arrow"), ("s.readings[3]@2", "schema")]
    assert "lacks x" in dead[1].message


def test_a_dead_letter_is_cut_so_that_it_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "DEAD_BYTES_MAX", 4)
    _, dead = frames.read([record(b"too long to keep")], ROW)
    out = frames.bury(dead[0], "s")
    assert (out.topic, out.partition, out.value) == ("s.dead", 0, b"too ")
    assert dict(out.headers)["service"] == b"process"


def emitted(rows: int) -> Emitted:
    columns = {f"Tens.{c}": np.arange(rows, dtype=float) for c in ("total", "low", "high")}
    columns |= {"Tens.n": np.arange(rows), WINDOW_START: np.zeros(rows, np.int64)}
    return Emitted("tens", Batch.of_keys([f"d{i}" for i in range(rows)], np.full(rows, 9), columns), 77)


def test_results_are_cut_into_frames_and_only_the_last_carries_the_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 160)
    outs = frames.write(emitted(7), PLAN, "s", 3, 4)
    infos = [FrameInfo.of(out.headers) for out in outs]
    batches = [decode(out.value, PLAN.by_name["tens"].row) for out in outs]
    assert [(out.topic, out.partition) for out in outs] == [("s.plant.tens", 3)] * len(outs)
    assert len(outs) > 2
    assert [i.watermark for i in infos] == [TIME_MIN] * (len(outs) - 1) + [77]
    assert [i.rows for i in infos] == [len(b) for b in batches]
    assert [key for b in batches for key in b.keys] == [f"d{i}" for i in range(7)]
    assert [n for b in batches for n in b.columns["Tens.n"]] == list(range(7))


def test_a_frame_within_the_limit_is_sent_whole() -> None:
    (out,) = frames.write(emitted(7), PLAN, "s", 0, 4)
    assert FrameInfo.of(out.headers) == FrameInfo("plant", 77, 7, PLAN.by_name["tens"].row.fingerprint)


def test_rows_go_to_the_partition_of_their_new_key_and_the_others_hear_of_the_watermark() -> None:
    plan = plant_keyed.plan()
    row = plan.by_name["readings-select-by-parity"].row
    columns = {"Reading.device": np.array(["a", "b", "a"], "T"), "Parity.x": np.array([1.0, 2.0, 3.0])}
    rows = Batch.of_keys(["odd", "even", "odd"], np.array([1, 2, 3]), columns)
    outs = frames.write(Emitted("readings|select|key_by", rows, 99), plan, "s", 2, 3)
    assert [(out.topic, out.partition) for out in outs] == [("s.plant.readings-select-by-parity", p) for p in range(3)]
    infos = [FrameInfo.of(out.headers) for out in outs]
    assert {(i.source, i.watermark) for i in infos} == {("2/3", 99)}
    got = {out.partition: decode(out.value, row) for out in outs}
    homes = {name: kafka.partition_of(name, 3) for name in ("odd", "even")}
    assert got[homes["odd"]].columns["Parity.x"].tolist() == [1.0, 3.0]
    assert got[homes["even"]].columns["Reading.device"].tolist() == ["b"]
    assert [len(got[p]) for p in range(3) if p not in homes.values()] == [0]
