"""Columns that the source fills: quality and time of arrival, from the schema through windows, joins and frames."""

from __future__ import annotations

import numpy as np
import pytest

from connectors import replay, topic
from connectors.columns import Layout, fill
from pipelines import Arrival, Col, Key, Pipeline, Quality, Schema, agg, tumbling
from pipelines.batch import Batch
from pipelines.errors import PlanError
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import arrival_of, quality_of
from pipelines.testing import run
from pipelines.wire import decode, encode

S = 10**9


class Tank(Schema):
    device = Key[str]()
    level = Col[float]("m", absent=-1.0)
    quality = Quality()
    at = Arrival()


class Plain(Schema):
    device = Key[str]()
    level = Col[float]("m")


class Fill(Schema):
    mean = agg.mean(Tank.level)
    worst = agg.max(Tank.quality)
    good = agg.mean(Tank.quality == GOOD)
    n = agg.count()


class Good(Schema):
    level = Tank.level
    quality = Tank.quality
    hundred = Tank.quality * 100


def tank(**more: object) -> Batch:
    return Tank.batch(time=np.arange(4) * S, device=["a"] * 4, level=[1.0, 2.0, np.nan, 4.0], **more)


def test_what_a_schema_has() -> None:
    assert (quality_of(Tank), arrival_of(Tank)) == ("Tank.quality", "Tank.at")
    assert (quality_of(Plain), arrival_of(Plain)) == (None, None)
    assert [(f.name, f.dtype, f.unit) for f in Tank.measured().fields] == [
        ("level", "float64", "m"), ("quality", "int8", ""), ("at", "int64", "ns"),
    ]  # fmt: skip
    assert [f.name for f in Tank.sent().fields] == ["level"]
    assert Tank.sent().key == "device"
    assert (Layout.of(Tank).row, dict(Layout.of(Tank).absent)) == (Tank.sent(), {"level": -1.0})


@pytest.mark.parametrize("kind", [Quality, Arrival])
def test_there_is_at_most_one_of_each(kind: type[Quality] | type[Arrival]) -> None:
    class Twice(Schema):
        device = Key[str]()
        one = kind()
        two = kind()

    with pytest.raises(PlanError, match=rf"Twice has several {kind.__name__} columns \(Twice.one, Twice.two\)"):
        Twice.measured()


def test_they_are_filled_where_nobody_has_given_them() -> None:
    batch = Batch.of_keys(["a", "b"], np.array([1, 2]), {"Tank.level": np.array([1.0, 2.0])})
    filled = fill(batch, Tank, 7)
    assert filled.columns["Tank.quality"].tolist() == [GOOD, GOOD]
    assert filled.columns["Tank.quality"].dtype == np.int8
    assert filled.columns["Tank.at"].tolist() == [7, 7]
    given = fill(
        Batch(batch.names, batch.codes, batch.time, {**batch.columns, "Tank.quality": np.array([2, 1], np.int8)}),
        Tank,
        np.array([8, 9]),
    )
    assert given.columns["Tank.quality"].tolist() == [BAD, UNCERTAIN]
    assert given.columns["Tank.at"].tolist() == [8, 9]
    assert fill(batch, Plain, 7) is batch


def test_a_batch_by_hand_is_good_and_came_at_once() -> None:
    assert tank().columns["Tank.quality"].tolist() == [GOOD] * 4
    assert tank().columns["Tank.at"].tolist() == tank().time.tolist()
    assert tank(quality=[GOOD, GOOD, BAD, UNCERTAIN]).columns["Tank.quality"].tolist() == [0, 0, 2, 1]


def test_a_frame_carries_it_in_one_byte() -> None:
    batch = tank(quality=[GOOD, GOOD, BAD, UNCERTAIN])
    back = decode(encode(batch, Tank.measured()), Tank.measured())
    assert back.columns["Tank.quality"].dtype == np.int8
    assert back.columns["Tank.quality"].tolist() == [0, 0, 2, 1]


def test_windows_and_filters_read_it() -> None:
    p = Pipeline("p")
    read = p.read(topic.append(Tank, "tank"))
    windows = read.window(tumbling("10s", late="0s"), Fill)
    good = read.where(Tank.quality != BAD).select(Good)
    out = run(p, {read: tank(quality=[GOOD, GOOD, BAD, UNCERTAIN])})
    assert [out[windows][c].tolist() for c in (Fill.mean, Fill.worst, Fill.good, Fill.n)] == [
        [7 / 3],
        [BAD],
        [0.5],
        [4],
    ]
    assert out[good][Good.quality].tolist() == [GOOD, GOOD, UNCERTAIN]
    assert out[good][Good.hundred].tolist() == [0, 0, 100]


def test_a_left_join_that_finds_no_reading_says_bad() -> None:
    p = Pipeline("p")
    plain, read = p.read(topic.append(Plain, "plain")), p.read(topic.append(Tank, "tank"))

    class Both(Schema):
        level = Tank.level
        quality = Tank.quality

    both = plain.join(read.latest(), how="left").select(Both)
    out = run(p, {plain: Plain.batch(time=[5 * S, 6 * S], device=["a", "b"], level=[0.0, 0.0]), read: tank()})
    assert dict(zip(out[both].keys, out[both][Both.quality].tolist(), strict=True)) == {"a": GOOD, "b": BAD}


def test_facts_have_no_quality() -> None:
    with pytest.raises(PlanError, match=r"facts have no Tank.at, Tank.quality: only a source of readings fills that"):
        Pipeline("p").dimension(Tank, "tanks.csv")


def test_devices_do_not_send_it() -> None:
    with pytest.raises(PlanError, match=r"Tank has Tank.level"):
        replay.source(Tank, "x.csv", columns={Tank.quality: "q"})
