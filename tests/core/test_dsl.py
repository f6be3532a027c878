"""Every mistake a program can hold is found while it is built, with a message that says where and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipelines import Col, Expr, Key, Pipeline, Schema, Stream, agg, hopping, if_else, sqrt, tumbling
from pipelines.errors import SitestreamError
from pipelines.testing import run
from tests.core.programs import Feed, Reading, Shelf, Stats, windowed

MINUTE = tumbling("1m", late="0s")


class Other(Schema):
    machine = Key[str]()
    y = Col[float]("")


class Flags(Schema):
    device = Key[str]()
    count = Col[int]("")


class NotAnAggregate(Schema):
    x = Reading.x


class Empty(Schema):
    pass


class Twice(Schema):
    device = Reading.x * 2


def stream() -> Stream[Reading]:
    return Pipeline("p").read(Feed(Reading, "reading"))


def typeless() -> Any:
    class Wrong(Schema):
        device = Key[str]()
        x: Col[float] = Col("mm/s")

    return Pipeline("p").read(Feed(Wrong, "wrong"))


def strange_type() -> Any:
    class Wrong(Schema):
        device = Key[str]()
        x = Col[complex]("mm/s")

    return Pipeline("p").read(Feed(Wrong, "wrong"))


def reserved() -> Any:
    class Wrong(Schema):
        device = Key[str]()
        time = Col[float]("s")

    return Wrong


def two_keys() -> Any:
    class Wrong(Schema):
        device = Key[str]()
        tag = Key[str]()

    return Pipeline("p").read(Feed(Wrong, "wrong"))


def no_key() -> Any:
    return Pipeline("p").read(Feed(NotAnAggregate, "wrong"))


def computed_source() -> Any:
    class Wrong(Schema):
        device = Key[str]()
        x = Reading.x * 2

    return Pipeline("p").read(Feed(Wrong, "wrong"))


def same_step_twice() -> Any:
    s = stream()
    s.window(tumbling("1m", late="0s"), Stats)
    return s.window(tumbling("5m", late="0s"), Stats)


def same_result_twice() -> Any:
    s = stream()
    s.where(Reading.x > 1).to(Shelf())
    return s.where(Reading.x > 2).to(Shelf(), name="reading")


def truth() -> Any:
    return stream().where(Reading.x > 1 and Reading.x < 2)


def not_a_condition() -> Any:
    anything: Any = Reading.x
    return stream().where(anything)


def key_again() -> Any:
    class Wrong(Schema):
        machine = Key[str]()
        n = agg.count()

    return stream().window(tumbling("1m", late="0s"), Wrong)


def join(other: Any, **options: Any) -> Any:
    p = Pipeline("p")
    return p.read(Feed(Reading, "reading")).join(p.read(Feed(other, "other")).latest(), **options)


def two_of_a_name() -> Any:
    class Stats(Schema):  # another class of the same name
        n = agg.count()

    s = stream()
    s.window(tumbling("1m", late="0s"), globals()["Stats"])
    return s.select(Twice).flow.read(Feed(Reading, "again")).window(tumbling("1h", late="0s"), Stats)


def extended() -> Any:
    class Wrong(Reading):
        y = Col[float]("")

    return Wrong


def no_column() -> Any:
    class Wrong(Schema):
        limit = 3

    return Wrong


def foreign_table() -> Any:
    return stream().join(Pipeline("other").read(Feed(Flags, "flags")).latest(), how="inner")


def named_state() -> Any:
    class State(Schema):
        n = agg.count()

    return stream().window(MINUTE, State)


def of_results() -> Any:
    class Wrong(Schema):
        m = Stats.mean

    return windowed(MINUTE)[2].window(tumbling("1h", late="0s"), Wrong)


def computed(expr: Any) -> Any:
    class Wrong(Schema):
        y = expr

    return stream().select(Wrong)


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: stream().where(Other.y > 1), r"where: column Other.y is not in this stream, which has Reading.device"),
    (not_a_condition, r"where\(Reading.x\): a condition must be true or false, this is a float64"),
    (truth, r"column \(Reading.x > 1\) has no truth value: combine conditions with & \| ~"),
    (lambda: stream().select(Empty), r"select\(Empty\): the schema has no columns"),
    (lambda: stream().window(tumbling("1m", late="0s"), Empty), r"Empty: the schema has no aggregates, such as  n = agg.count"),
    (lambda: stream().window(MINUTE, NotAnAggregate), r"NotAnAggregate.x: Reading.x is not an aggregate.*agg.mean"),
    (key_again, r"Wrong.machine: the key of reading is 'device'; leave the Key out of Wrong"),
    (lambda: windowed(MINUTE)[2].late.window(MINUTE, Stats), r"late rows have no watermark.*sink"),
    (same_step_twice, r"p: there is already a step 'stats' \(window\).*give the schema another name"),
    (same_result_twice, r"already a step 'reading' \(source\)|already a step 'reading' \(result\)"),
    (lambda: windowed(MINUTE)[2].to(Shelf(), name="x"), r"the rows of stats already have a topic"),
    (lambda: stream().select(Twice).to(Shelf()).flow.plan(), r"twice: two columns are called device; select a schema"),
    (lambda: Pipeline("p").plan(), r"p reads nothing: add a line such as  readings = p.read"),
    (lambda: Pipeline("Press 1"), r"pipeline name 'Press 1' cannot be used: write lower-case letters"),
    (lambda: Pipeline("p").read(Feed(Reading, "a/b")), r"stream name 'a/b' cannot be used"),
    (lambda: join(Other, how="inner"), r"join\(other\): its key is 'machine', the key of reading is 'device'"),
    (lambda: join(Flags, how="outer"), r"how='outer': how is 'inner' or 'left'"),
    (lambda: join(Flags, how="left"), r"say what Flags.count is where there is no row: Col\[…\]\(absent=…\)"),
    (lambda: join(Reading, how="inner"), r"join\(other\): both sides have Reading.k, Reading.x"),
    (two_of_a_name, r"p: two schemas are called Stats: rename one"),
    (extended, r"Wrong extends Reading: a schema stands for itself; write its columns again"),
    (no_column, r"Wrong.limit is no column: write limit = Col"),
    (foreign_table, r"join\(flags\): it belongs to pipeline 'other', this is 'p'"),
    (named_state, r"p: a step cannot be called 'state'.*rename the schema"),
    (of_results, r"Wrong.m: Stats.mean is a result of another window; here write agg.mean\(Stats.mean\)"),
    (lambda: computed(Expr("&", Reading.x, 4)), r"Wrong: \(Reading.x & 4\) cannot be computed"),
    (lambda: computed(if_else(Reading.x > 0, 1j, 2j)), r"is of type complex128; a column is float64, float32, int64, bool or"),
    (lambda: computed(Reading.k + 2**70), r"Wrong: .* cannot be computed|is of type object"),
    (lambda: Pipeline("collect"), r"a pipeline cannot be called 'collect': topics of the service have that name"),
    (lambda: Pipeline("control"), r"a pipeline cannot be called 'control'"),
    (lambda: Pipeline("p").read(Feed(Reading, "dead")), r"a stream cannot be called 'dead'.*give it another stream="),
    (lambda: tumbling("99999w", late="0s"), r"neither may be longer than ten years"),
    (lambda: Reading.batch(device=["a"], time=[0, 1], x=[1.0], k=[1]), r"Reading.batch: device has 1 values for 2 times"),
    (lambda: Reading.batch(device=["a"], time=np.array(["NaT"], "M8[ns]"), x=[1.0], k=[1]), r"a time is absent or absurd"),
    (typeless, r"Wrong.x has no type: write Col\[float\]"),
    (strange_type, r"Wrong.x cannot be a <class 'complex'>: a column is float, int, bool, str or numpy.float32"),
    (reserved, r"Wrong.time: this name is taken"),
    (two_keys, r"Wrong has 2 keys \(device, tag\)"),
    (no_key, r"NotAnAggregate has no key: add a line such as  device = Key\[str\]\(\)"),
    (computed_source, r"Wrong.x is computed \(\(Reading.x \* 2\)\): a source has measured columns only"),
    (lambda: agg.quantile(Reading.x, 99), r"quantile\(Reading.x, 99\): q is a fraction between 0 and 1"),
    (lambda: tumbling("1 minute", late="0s"), r"'1 minute' is not a duration: write a number and a unit .* such as '15m'"),
    (lambda: hopping("1m", every="2m", late="0s"), r"`every` must be longer than zero and no longer than the window"),
    (lambda: hopping("1h", every="1us", late="0s"), r"has 3600000000 slices, more than 10000: hop less often"),
    (lambda: Reading.batch(device=["a"], time=[0], x=[1.0]), r"Reading has columns \['device', 'k', 'x'\], got \['dev"),
    (lambda: run(windowed(MINUTE)[0], {windowed(MINUTE)[2]: []}), r"stats is not read from a source"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[re.sub(r"\W+", "-", m)[:40] for _, m in MISTAKES])
def test_a_mistake_is_explained(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(SitestreamError, match=message):
        mistake()


def test_expressions_are_computed_on_columns() -> None:
    class Shaped(Schema):
        twice = Reading.x * 2
        root = sqrt(abs(Reading.x))
        clipped = if_else(Reading.x > 2, 2.0, Reading.x)
        renamed = Reading.x
        one = if_else(Reading.x > 0, 1, 1)

    p = Pipeline("p")
    s = p.read(Feed(Reading, "reading"))
    shaped = s.where((Reading.x >= 1) & ~(Reading.x == 3)).select(Shaped).where(Shaped.twice > 2)
    b = Reading.batch(device=list("abcd"), time=range(4), x=[0.0, 1.0, 2.0, 4.0], k=[1, 2, 3, 4])
    out = run(p, {s: b})[shaped]
    assert out.keys == ["c", "d"]
    np.testing.assert_allclose(out[Shaped.root], np.sqrt([2.0, 4.0]))
    np.testing.assert_allclose(out[Shaped.clipped], [2.0, 2.0])
    np.testing.assert_allclose(out[Shaped.renamed], [2.0, 4.0])
    row = p.plan().by_name[shaped.step].row
    assert {f.name: f.unit for f in row.fields}["renamed"] == "mm/s"
    assert [f.name for f in row.fields] == ["twice", "root", "clipped", "renamed", "one"]


def test_the_fingerprint_follows_what_decides_results_only() -> None:
    def fingerprint(window: str, stream: str = "reading") -> str:
        p = Pipeline("p")
        p.read(Feed(Reading, stream)).window(tumbling(window, late="0s"), Stats).to(Shelf())
        return p.plan().fingerprint

    def shaped(factor: int, *, keep: bool = False) -> str:
        class Shaped(Schema):
            y = Reading.x * factor

        class Mean(Schema):
            y = agg.mean(Shaped.y)

        p = Pipeline("p")
        mean = p.read(Feed(Reading, "reading")).window(tumbling("1m", late="0s"), Mean)
        if keep:
            mean.where(Mean.y > 3).to(Shelf(), name="hot")
            mean.late.to(Shelf())
        return p.plan().fingerprint

    assert shaped(2) != shaped(3), "a column that was never selected counts with its formula"
    assert shaped(2) == shaped(2, keep=True), "filters and sinks behind a window leave its state as it is"
    assert fingerprint("1m") == fingerprint("60s")
    assert len({fingerprint("1m"), fingerprint("2m"), fingerprint("1m", "other")}) == 3


def test_status_bits_can_be_tested() -> None:
    p = Pipeline("p")
    s = p.read(Feed(Reading, "reading"))
    alarm = s.where((Reading.k & 4) != 0)
    b = Reading.batch(device=list("abc"), time=range(3), x=[0.0, 1.0, 2.0], k=[3, 4, 8])
    assert run(p, {s: b})[alarm].keys == ["b"]


def test_the_graph_shows_steps_and_sinks() -> None:
    text = windowed(tumbling("1m", late="5s"))[0].plan().mermaid()
    assert "tumbling 1m, late 5s" in text
    assert text.count("-->") == 4


def test_topics_of_a_plan() -> None:
    plan = windowed(tumbling("1m", late="5s"))[0].plan()
    names = {t.name: dict(t.settings) for t in plan.topics("s1", 4)}
    assert set(names) == {"s1.reading", "s1.test.stats", "s1.test.stats-late", "s1.test.state", "s1.dead"}
    assert all(s["message.timestamp.type"] == "LogAppendTime" for s in names.values())
    assert names["s1.test.state"]["cleanup.policy"] == "compact"
