"""Every mistake in the description of a window is found while the pipeline is built, with a message that says how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pipelines import Pipeline, Schema, agg, calendar, count, hopping, session, sliding, tumbling
from pipelines.errors import PlanError
from pipelines.windows import Over
from tests.core.programs import Feed, Reading, Shelf, windowed


class Live(Schema):
    n = agg.count()
    final = agg.final()


class Unmarked(Schema):
    n = agg.count()


class Hours(Schema):
    n = agg.sum(Live.n)


def live(over: Over | None = None, into: type[Schema] = Live) -> Any:
    return Pipeline("p").read(Feed(Reading, "reading")).window(over or tumbling("1m", late="0s", early="5s"), into)


def day(**options: Any) -> Any:
    return calendar(**{"unit": "day", "tz": "UTC", "late": "0s", **options})


def joined() -> Any:
    readings = Pipeline("p").read(Feed(Reading, "reading"))
    return readings.join(readings.window(tumbling("1m", late="0s", early="5s"), Live).latest(), how="inner")


MINUTE = tumbling("1m", late="0s")
MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: tumbling("1m", late="soon"), r"a window of 1m, late: 'soon' is not a duration"),
    (lambda: hopping("1m", every="2m", late="0s"), r"`every` must be longer than zero and no longer than the window"),
    (lambda: hopping("1h", every="1us", late="0s"), r"has 3600000000 slices, more than 10000: hop less often"),
    (lambda: tumbling("99999w", late="0s"), r"neither may be longer than ten years"),
    (lambda: tumbling("1m", late="0s", offset="1m"), r"a window of 1m, offset 1m: the offset must be shorter than 1m"),
    (lambda: hopping("1h", every="1m", late="0s", offset="2m"), r"offset 2m: the offset must be shorter than 1m"),
    (lambda: tumbling("1m", late="0s", early="1m"), r"early='1m': must be longer than zero and shorter than the window"),
    (lambda: tumbling("1m", late="0s", early="0s"), r"early='0s': must be longer than zero"),
    (lambda: day(unit="fortnight"), r"calendar\('fortnight', tz='UTC'\): a unit is one of day, week, month, quarter, year"),
    (lambda: day(tz="Europe/Bonn"), r"tz='Europe/Bonn'\): there is no such time zone; write one as in 'Europe/Berlin'"),
    (lambda: day(tz="../etc/passwd"), r"there is no such time zone"),
    (lambda: day(size=0), r"size=0, late='0s': at least one day, and neither may be over ten years"),
    (lambda: day(size=5000), r"size=5000, late='0s': at least one day, and neither may be over ten years"),
    (lambda: day(offset="24h"), r"offset='24h': must be shorter than a day"),
    (lambda: day(early="2d"), r"early='2d': must be longer than zero and shorter than the window"),
    (lambda: session("0s", late="0s"), r"session\('0s', late='0s'\): a gap is longer than zero"),
    (lambda: session("gap", late="0s"), r"a session, gap: 'gap' is not a duration"),
    (lambda: count(0), r"count\(0, every=0\): `every` must be more than zero and no more than the window"),
    (lambda: count(5, every=6), r"count\(5, every=6\): `every` must be more than zero"),
    (lambda: count(20_001, every=1), r"count\(20001, every=1\): more than 10000 slices; count less often"),
    (lambda: sliding("0s", late="0s"), r"sliding\('0s', late='0s'\): longer than zero"),
    (lambda: MINUTE.key_clock(idle="0s"), r"key_clock\(idle='0s'\): must be longer than zero"),
    (lambda: live(into=Unmarked), r"Unmarked: with early=… .* must tell them apart: add a line  final = agg.final\(\)"),
    (lambda: live(MINUTE), r"Live.final = agg.final\(\): only windows with early=… have it; this is tumbling 1m, late 0s"),
    (lambda: live(MINUTE, Unmarked).final(), r"unmarked.final\(\): all its results are final; only windows with early=…"),
    (lambda: live().window(tumbling("1h", late="0s"), Hours), r"hours: live gives early results.*only, live.final\(\)"),
    (
        lambda: live().where(Live.n > 1).window(tumbling("1h", late="0s"), Hours),
        r"hours: live\|where gives early results, which the final ones replace: take the final ones only, live.final\(\)",
    ),
    (joined, r"reading\|join: live gives early results"),
    (lambda: windowed(count(3))[2].late, r"stats.late: no row is late for a count window"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[re.sub(r"\W+", "-", m)[:50] for _, m in MISTAKES])
def test_a_mistake_is_explained(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        mistake()


def test_early_results_may_be_filtered_written_and_taken_when_final() -> None:
    some = live()
    some.where(Live.n > 1).to(Shelf(), name="busy")
    some.late.to(Shelf())
    final = some.final()
    final.to(Shelf(), name="done")
    final.window(tumbling("1h", late="0s"), Hours)
    kinds = [s.kind for s in some.flow.plan().steps]
    assert kinds == ["source", "window", "where", "result", "late", "final", "result", "window"]


@pytest.mark.parametrize(
    ("over", "text"),
    [
        (tumbling("90s", late="5s"), "tumbling 90s, late 5s"),
        (hopping("1h", every="1m", late="0s", offset="30s"), "every 1m 1h, offset 30s, late 0s"),
        (calendar("month", tz="Europe/Berlin", late="1h"), "calendar month, Europe/Berlin, late 1h"),
        (day(size=30, early="1h"), "calendar 30 day, UTC, late 0s, early 1h"),
        (tumbling("1m", late="0s").key_clock(idle="1h"), "tumbling 1m, late 0s, clock of each key, idle 1h"),
        (session("5m", late="10s"), "session, gap 5m, late 10s"),
        (count(100), "count 100"),
        (count(100, every=10), "count 100, every 10"),
        (sliding("10m", late="5s"), "sliding 10m, late 5s"),
    ],
)
def test_a_window_says_what_it_is_in_graphs_and_fingerprints(over: Over, text: str) -> None:
    assert str(over) == text
