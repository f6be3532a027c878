"""Early results of windows, their revisions, and the final ones."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Pipeline, Schema, Stream, Windowed, agg, calendar, hopping, tumbling
from pipelines.batch import WINDOW_START, Batch
from pipelines.task import Task
from pipelines.testing import run
from pipelines.windows import Window
from pipelines.wire import decode, encode
from tests.core import reference
from tests.core.grouping import SECOND, assert_grouping_changes_no_bit, batch, frame, frames
from tests.core.programs import Feed, Reading, Shelf

WINDOWS = [
    tumbling("20s", late="3s", early="5s"),
    hopping("20s", every="10s", late="0s", early="4s"),
    calendar("day", tz="Europe/Berlin", late="1h", early="10s"),
    tumbling("20s", late="5s", early="3s").key_clock(idle="30s"),
    hopping("20s", every="10s", late="0s", early="4s").key_clock(idle="7s"),
]


class Live(Schema):
    n = agg.count()
    total = agg.sum(Reading.k)
    revision = agg.revision()
    final = agg.final()
    mean = agg.sum(Reading.k) / agg.count()


class Plain(Schema):
    n = agg.count()
    total = agg.sum(Reading.k)


def program(over: Window) -> tuple[Pipeline, Stream[Reading], Windowed[Live, Reading]]:
    p = Pipeline("test")
    readings = p.read(Feed(Reading, "reading"))
    live = readings.window(over, Live)
    live.to(Shelf())
    return p, readings, live


def rows(b: Batch, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(b.keys, b.columns[WINDOW_START].tolist(), *(b.columns[c].tolist() for c in columns), strict=True))


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames)
@settings(max_examples=40, deadline=None)
def test_revisions_count_up_and_the_last_is_final_and_as_without(over: Window, frames: reference.Frames) -> None:
    p, readings, live = program(over)
    plain = readings.window(Window(over.grid, over.size, over.hop, over.late, idle=over.idle), Plain)
    final = live.final()
    out = run(p, {readings: [batch(f) for f in frames]})
    told = defaultdict(list)
    for key, start, n, revision, closed in rows(out[live], "Live.n", "Live.revision", "Live.final"):
        told[key, start].append((n, revision, closed))
    for some in told.values():
        assert [r for _, r, _ in some] == list(range(len(some)))
        assert [c for *_, c in some] == [False] * (len(some) - 1) + [True]
        counts = [n for n, *_ in some]
        assert counts[:-1] == sorted(set(counts[:-1])), "an early result that tells nothing new"
    assert sorted(rows(out[final], "Live.n", "Live.total")) == sorted(rows(out[plain], "Plain.n", "Plain.total"))


@pytest.mark.parametrize("over", WINDOWS, ids=str)
@given(frames=frames, data=st.data())
@settings(max_examples=40, deadline=None)
def test_grouping_and_restarts_change_no_bit(over: Window, frames: reference.Frames, data: st.DataObject) -> None:
    assert_grouping_changes_no_bit(program(over)[0].plan(), frames, data)


def test_windows_that_changed_are_told_when_the_watermark_passes_a_multiple() -> None:
    task = Task(program(tumbling("1m", late="0s", early="10s"))[0].plan())

    def told(seconds: int, device: str | None = None) -> list[tuple[object, ...]]:
        given = [reference.Reading(device, seconds * SECOND, 0.0, 1)] if device else []
        out = task.process({"reading": [frame(given, seconds * SECOND)]})
        return [r[:1] + r[2:] for e in out for r in rows(e.batch, "Live.n", "Live.revision", "Live.final")]

    assert told(3, "a") == []
    assert told(9, "b") == []
    assert told(11, "a") == [("a", 2, 0, False), ("b", 1, 0, False)]
    assert told(19) == []
    assert told(25) == []
    assert told(37, "b") == [("b", 2, 1, False)]
    assert told(60) == [("a", 2, 1, True), ("b", 2, 2, True)]
    assert told(99) == []


def test_there_may_be_many_keys_before_the_first_early_result() -> None:
    task = Task(program(tumbling("1m", late="0s", early="10s"))[0].plan())
    many = [reference.Reading(f"d{i}", SECOND, 0.0, 1) for i in range(100)]
    (out,) = task.process({"reading": [frame(many, SECOND), frame([], 60 * SECOND)]})
    assert out.batch.columns["Live.revision"].tolist() == [0] * 100


def test_marks_travel_as_columns() -> None:
    p, readings, live = program(tumbling("1m", late="0s", early="10s"))
    out = run(p, {readings: [batch([reference.Reading("a", t * SECOND, 0.0, 1)]) for t in (1, 11, 61)]})[live]
    row = p.plan().by_name[live.step].row
    again = decode(encode(out, row), row)
    columns = ("Live.n", "Live.revision", "Live.final")
    assert rows(again, *columns) == rows(out, *columns)
    assert rows(again, *columns)[:2] == [("a", 0, 2, 0, False), ("a", 0, 2, 1, True)]


@pytest.mark.parametrize("over", WINDOWS, ids=str)
def test_state_does_not_grow_with_the_stream(over: Window) -> None:
    task, sizes = Task(program(over)[0].plan()), []
    for t in range(0, 40 * 7200, 7200):
        many = [reference.Reading(f"d{i}", t * SECOND, 1.0, 1) for i in range(5)]
        task.process({"reading": [frame(many, t * SECOND), frame([], (t + 7199) * SECOND)]})
        sizes.append(task.state_bytes)
    assert max(sizes[20:]) == max(sizes[:20])
