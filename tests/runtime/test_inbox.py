"""The inbox: no holes, no doubles, several inputs in step."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.runtime.frames import Received
from pipelines.runtime.inbox import Inbox


@dataclass
class Record:
    topic: str
    offset: int
    timestamp: int
    value: bytes | None = b"0123456789"
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


def records(topic: str, *offsets: int, at: int = 0, apart: int = 1) -> list[Record]:
    return [Record(topic, o, at + i * apart) for i, o in enumerate(offsets)]


def offsets(taken: dict[str, list[Received]]) -> dict[str, list[int]]:
    return {topic: [r.offset for r in found] for topic, found in taken.items()}


def test_records_come_out_as_they_came_in() -> None:
    inbox = Inbox({"a": 5})
    assert inbox.accept("a", records("a", 5, 6)) is None
    assert inbox.accept("a", records("a", 7)) is None
    assert inbox.bytes == 30
    assert offsets(inbox.take()) == {"a": [5, 6, 7]}
    assert (inbox.bytes, bool(inbox), inbox.take()) == (0, False, {})


def test_what_does_not_begin_at_the_next_offset_is_asked_for_again() -> None:
    inbox = Inbox({"a": 5})
    assert inbox.accept("a", records("a", 7, 8)) == 5
    assert inbox.accept("a", records("a", 5, 6)) is None
    assert inbox.accept("a", records("a", 6, 7)) == 7, "what is known already"
    assert inbox.accept("a", records("a", 6, 7)) == 7, "even when it comes again"
    assert offsets(inbox.take()) == {"a": [5, 6]}


def test_a_hole_that_is_still_there_after_the_seek_is_in_the_log() -> None:
    inbox = Inbox({"a": 5})
    assert inbox.accept("a", records("a", 7)) == 5
    assert inbox.accept("a", records("a", 7)) is None
    assert inbox.accept("a", records("a", 9)) == 8, "the next hole is another one"
    assert offsets(inbox.take()) == {"a": [7]}


def test_a_call_is_bounded_in_bytes() -> None:
    inbox = Inbox({"a": 0})
    inbox.accept("a", records("a", *range(10)))
    assert offsets(inbox.take(bytes_max=25)) == {"a": [0, 1, 2]}
    assert offsets(inbox.take(bytes_max=1)) == {"a": [3]}, "one record at least"


def test_of_several_inputs_none_runs_ahead_of_what_is_known_of_the_others() -> None:
    inbox = Inbox({"a": 0, "b": 0})
    inbox.accept("a", records("a", *range(10), at=100))
    assert inbox.take() == {}, "b may have something older"
    inbox.accept("b", records("b", 0, 1, at=90, apart=13))
    assert offsets(inbox.take()) == {"a": [0, 1, 2, 3], "b": [0, 1]}
    assert inbox.take() == {}
    assert offsets(inbox.take(ended=["b"])) == {"a": [4, 5, 6, 7, 8, 9]}


def test_when_all_inputs_ended_everything_is_taken() -> None:
    inbox = Inbox({"a": 0, "b": 0})
    inbox.accept("a", records("a", 0, at=100))
    inbox.accept("b", records("b", 0, at=50))
    assert offsets(inbox.take(ended=["a", "b"])) == {"a": [0], "b": [0]}


def test_what_the_pipeline_writes_itself_does_not_wait_for_a_backlog() -> None:
    inbox = Inbox({"a": 0, "own": 0}, apart=["own"])
    inbox.accept("a", records("a", 0, 1, at=100))
    inbox.accept("own", records("own", 0, 1, at=5_000))
    assert offsets(inbox.take()) == {"a": [0, 1], "own": [0, 1]}


def test_an_input_that_is_cut_for_its_size_holds_the_others_back() -> None:
    inbox = Inbox({"a": 0, "b": 0})
    inbox.accept("a", records("a", 0, 1, 2, 3, at=100))
    inbox.accept("b", records("b", 0, 1, 2, 3, at=100))
    inbox.accept("b", records("b", 4, at=200))
    size = len(records("a", 0)[0].value or b"")
    assert offsets(inbox.take(bytes_max=2 * size)) == {"a": [0, 1], "b": [0, 1]}
    inbox.accept("a", records("a", 4, 5, 6, 7, at=104))
    assert offsets(inbox.take(ended=["b"], bytes_max=2 * size)) == {"a": [2, 3], "b": [2, 3]}
    assert offsets(inbox.take(ended=["b"], bytes_max=2 * size)) == {"a": [4, 5]}, "b has nothing as old"
