"""Where a log goes on after a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.parquet.segment import Manifest, Origin, Span
from connectors.upload.resume import Known, Start, start_of, unusable
from connectors.upload.spool import Journal, Spool, origin_of
from pipelines.errors import StateError
from tests.upload.world import ORIGIN, TOPIC

NOTHING = Journal([], {}, {})


def manifest(start: int, end: int) -> Manifest:
    return Manifest("press/raw", "p", "site", TOPIC, 0, ORIGIN.log, start, end, (), {})


def open_at(start: int, end: int) -> dict[Origin, Span]:
    return {ORIGIN: Span(ORIGIN, start, end)}


@pytest.mark.parametrize(
    ("journal", "known", "expected"),
    [
        (NOTHING, Known(None, 5, 100), Start(5, ask_store=True)),
        (NOTHING, Known(20, 5, 100), Start(20, ask_store=True)),
        (Journal([], {}, {ORIGIN: 30}), Known(20, 5, 100), Start(30)),
        (Journal([], {}, {ORIGIN: 30}), Known(None, 5, 100), Start(30)),
        (Journal([manifest(20, 25), manifest(25, 40)], {}, {}), Known(20, 5, 100), Start(40)),
        (Journal([manifest(20, 25)], open_at(25, 33), {ORIGIN: 20}), Known(20, 5, 100), Start(25, 33)),
        (Journal([], open_at(5, 33), {}), Known(None, 5, 100), Start(5, 33)),
        (Journal([], open_at(5, 33), {}), Known(40, 5, 100), Start(40)),
        (Journal([], {}, {ORIGIN: 30}), Known(30, 45, 100), Start(45, lost=15)),
        (Journal([], open_at(30, 50), {ORIGIN: 30}), Known(30, 45, 100), Start(45, lost=15)),
    ],
)
def test_a_log_goes_on_at_the_furthest_that_is_certain(journal: Journal, known: Known, expected: Start) -> None:
    assert start_of(ORIGIN, journal, known) == expected


def test_a_log_that_was_cut_off_is_refused_with_the_cure() -> None:
    with pytest.raises(
        StateError, match=r"site.readings\[0\] ends at offset 7, but was stored up to 30: the topic was deleted"
    ):
        start_of(ORIGIN, Journal([], {}, {ORIGIN: 30}), Known(None, 0, 7))


def test_what_was_open_on_another_cluster_cannot_be_written_any_more() -> None:
    assert unusable(Journal([], open_at(1, 2), {}), "f" * 8) == [Span(ORIGIN, 1, 2)]
    assert unusable(Journal([], open_at(1, 2), {}), ORIGIN.log) == []


def test_a_damaged_entry_of_the_journal_is_named_with_the_cure(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / f"{manifest(1, 2).span.name}.sealed").write_text("{")
    with pytest.raises(
        StateError, match=r"is not a manifest: .* Remove every file of this topic-partition from the spool"
    ):
        spool.recover()
    spool.close()


def test_names_of_origins_and_spans_can_be_read_back() -> None:
    origin = Origin("a-b.c-1.d", 12, "0123abcd")
    assert origin_of(origin.name) == origin
    assert Span.parse(Span(origin, 3, 40).name) == Span(origin, 3, 40)
