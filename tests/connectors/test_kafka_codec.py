"""Messages of a foreign topic -> frames: how they were fetched changes nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import kafka
from connectors.kafka.codec import Codec, decoder
from pipelines import Col, Key, Pipeline, Schema, agg, hopping
from pipelines.batch import TIME_MIN, WINDOW_START
from pipelines.errors import PlanError
from pipelines.ports import Surroundings
from pipelines.task import Emitted, Task
from tests.connectors.options_table import PAGE, check
from tests.core.programs import Shelf
from tests.runtime.test_inbox import Record

SECOND, BEGIN = 10**9, 1_700_000_000


class Flow(Schema):
    pipe = Key[str]()
    litres = Col[float]("l")


class Sums(Schema):
    litres = agg.sum(Flow.litres)
    n = agg.count()


def records(rows: list[tuple[str, int, float]]) -> list[Record]:
    texts = [json.dumps({"pipe": p, "s": BEGIN + t, "litres": v}).encode() for p, t, v in rows]
    return [Record("raw", i, (BEGIN + 500) * 1000, text) for i, text in enumerate(texts)]


def source(**options: Any) -> kafka.KafkaSource[Flow]:
    return kafka.source(Flow, topic="raw", time="s", time_unit="s", **options)


def json_of(of: kafka.KafkaSource[Flow]) -> Codec:
    return decoder(of, Surroundings())


def test_the_watermark_follows_the_newest_reading_by_the_disorder() -> None:
    (frame,), dead = json_of(source(disorder="2s")).frames(records([("a", 5, 1.0), ("b", 3, 2.0), ("a", 9, 3.0)]))
    begin = BEGIN * SECOND
    assert not dead
    assert frame.batch.keys == ["a", "b", "a"]
    assert frame.before is not None
    assert frame.before.tolist() == [TIME_MIN, begin + 3 * SECOND, begin + 3 * SECOND]
    assert frame.info.watermark == begin + 7 * SECOND


def test_only_bad_records_give_a_frame_that_moves_nothing() -> None:
    (frame,), dead = json_of(source()).frames([Record("raw", 7, 0, b"nothing"), Record("raw", 8, 0, None)])
    assert (len(frame.batch), frame.info.watermark) == (0, TIME_MIN)
    assert [(d.origin, d.reason) for d in dead] == [("raw[0]@7", "not_json"), ("raw[0]@8", "not_json")]


def test_a_time_far_behind_that_of_the_record_is_fine_and_one_far_ahead_is_not() -> None:
    _, dead = json_of(source()).frames(records([("a", 0, 1.0), ("a", 559, 1.0), ("a", 561, 1.0)]))
    assert [d.origin for d in dead] == ["raw[0]@2"]
    assert "`future_max`" in dead[0].message


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.integers(0, 9).map(float)), min_size=1, max_size=40
)


@given(rows=rows, cuts=st.sets(st.integers(1, 39)), disorder=st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_how_records_were_fetched_changes_nothing(
    rows: list[tuple[str, int, float]], cuts: set[int], disorder: int
) -> None:
    all_records = records(rows)
    assert results(all_records, cuts, disorder) == results(all_records, set(range(1, 40)), disorder)


def results(all_records: list[Record], cuts: set[int], disorder: int) -> dict[str, list[Any]]:
    """Results and late rows, with the records fetched in pieces."""
    flow, read = Pipeline("p"), source(disorder=f"{disorder}s")
    sums = flow.read(read).window(hopping("10s", every="5s", late="3s"), Sums)
    sums.to(Shelf())
    sums.late.to(Shelf())
    task, codec, emitted = Task(flow.plan()), json_of(read), list[Emitted]()
    edges = [0, *sorted(c for c in cuts if c < len(all_records)), len(all_records)]
    for low, high in pairwise(edges):
        emitted += task.process({read.stream: codec.frames(all_records[low:high])[0]})
    found: dict[str, list[Any]] = {"sums": [], "sums-late": []}
    for e in emitted:
        columns = [e.batch.columns[n].tolist() for n in sorted(e.batch.columns) if n != WINDOW_START]
        found[e.step] += zip(e.batch.keys, e.batch.time.tolist(), *columns, strict=True)
    return {step: sorted(rows, key=lambda r: (r[1], r[0])) if step == "sums" else rows for step, rows in found.items()}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"topic": "plant/raw"}, r"kafka topic 'plant/raw': write its whole name: letters, digits"),
        ({"topic": "raw", "time_unit": "min"}, r"kafka time_unit='min': it is iso, s, ms, us or ns"),
        ({"topic": "raw", "disorder": "soon"}, r"kafka disorder: .*soon"),
        ({"topic": "raw", "future_max": "1"}, r"kafka future_max: "),
    ],
)
def test_a_mistake_is_explained(options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        kafka.source(Flow, **options)


@pytest.mark.parametrize("name", ["source", "Registry", "Protobuf"])
def test_the_page_says_what_the_function_takes(name: str) -> None:
    check(f"kafka.{name}", getattr(kafka, name), PAGE.parent / "connectors" / "kafka.md")


def test_fields_may_lie_deeper() -> None:
    read = kafka.source(Flow, topic="raw", key="at.pipe", time=None, fields={Flow.litres: "of.litres"})
    (frame,), dead = json_of(read).frames(
        [Record("raw", 0, BEGIN * 1000, b'{"at": {"pipe": "a"}, "of": {"litres": 2}}')]
    )
    assert (frame.batch.keys, frame.batch[Flow.litres].tolist(), dead) == (["a"], [2.0], [])


def test_readings_go_to_a_sink_through_a_topic_of_the_pipeline() -> None:
    flow = Pipeline("p")
    flow.read(source(stream="raw")).to(Shelf(), name="flow")
    plan = flow.plan()
    assert plan.outputs == ("flow",)
    assert [(t.name, t.foreign) for t in plan.topics("hall", 2)[:2]] == [("raw", True), ("hall.p.flow", False)]
    assert np.all([not t.settings for t in plan.topics("hall", 2) if t.foreign])
