"""The ledger: whatever happens in whatever order, nothing is delivered that must not be."""

from __future__ import annotations

import itertools
from collections import Counter

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from connectors.control import ledger as limits
from connectors.control.commands import DETAIL_CHARS_MAX, Ack, Answer, Command
from connectors.control.ledger import (
    ACK_WAIT_NS,
    EXECUTION_NS_MAX,
    IN_FLIGHT,
    KEEP_NS,
    OPEN,
    Entry,
    Event,
    Ledger,
    State,
)
from pipelines.errors import LimitExceeded

SECOND = 10**9
START = 1_700_000_000 * SECOND
SETTLED = {State.SUCCEEDED, State.FAILED, State.REJECTED, State.EXPIRED}


def command(
    name: str = "a", device: str = "p1", *, idempotent: bool = False, lasts_s: int = 30, at: int = START
) -> Command:
    return Command(
        id=name, device=device, verb="stop", issuer="me", issued_at_ns=at, expires_at_ns=at + lasts_s * SECOND,
        idempotent=idempotent, topic=f"press/{device}/cmd",
    )  # fmt: skip


def kept(ledger: Ledger, *entries: Entry | None) -> list[State]:
    """Record what was proposed; the states."""
    for entry in entries:
        assert entry is not None
        ledger.record(entry)
    return [e.state for e in entries if e is not None]


def submitted(*commands: Command) -> Ledger:
    ledger = Ledger()
    kept(ledger, *(ledger.submit(c, 0, START) for c in commands))
    return ledger


def due(ledger: Ledger, after_s: float, *, reachable: bool = True) -> list[State]:
    return kept(ledger, *ledger.due(START + int(after_s * SECOND), ready=lambda _: reachable))


def test_what_is_said_of_a_command_has_a_limit() -> None:
    entry = submitted(command()).entries["a"].after(Event.FAIL, START, "it reads " + "x" * 2**20)
    assert entry is not None
    assert len(entry.detail) == DETAIL_CHARS_MAX


def test_the_usual_course() -> None:
    ledger = submitted(command())
    assert due(ledger, 0) == [State.DELIVERED]
    assert due(ledger, 1) == []
    assert kept(ledger, ledger.hear(Ack("a", Answer.EXECUTING), START)) == [State.EXECUTING]
    assert kept(ledger, ledger.hear(Ack("a", Answer.SUCCEEDED, "done"), START)) == [State.SUCCEEDED]
    assert ledger.entries["a"].detail == "done"
    assert ledger.hear(Ack("a", Answer.FAILED), START) is None
    assert due(ledger, 1000) == []


def test_a_known_id_is_dropped_an_expired_command_refused() -> None:
    ledger = submitted(command())
    assert ledger.submit(command(), 0, START) is None
    assert kept(ledger, ledger.submit(command("b"), 0, START + 30 * SECOND)) == [State.EXPIRED]


def test_one_in_flight_per_device_in_order() -> None:
    ledger = submitted(command("a"), command("b"), command("c", "p2"))
    assert [e.command.id for e in ledger.due(START, ready=lambda _: True)] == ["a", "c"]
    assert due(ledger, 0) == [State.DELIVERED, State.DELIVERED]
    assert due(ledger, 1) == []
    kept(ledger, ledger.hear(Ack("a", Answer.SUCCEEDED), START))
    assert [e.command.id for e in ledger.due(START, ready=lambda _: True)] == ["b"]


def test_a_device_is_busy_until_an_expired_command_is_accounted_for() -> None:
    ledger = submitted(command("a", lasts_s=2), command("b"))
    due(ledger, 0)
    assert due(ledger, 5) == []
    assert due(ledger, 12) == [State.TIMED_OUT]
    assert due(ledger, 12) == [State.DELIVERED]


def test_what_cannot_be_delivered_in_time_expires() -> None:
    ledger = submitted(command())
    assert due(ledger, 29, reachable=False) == []
    assert due(ledger, 30, reachable=False) == [State.EXPIRED]


def test_a_device_that_does_not_answer_is_waited_for_until_it_could_no_longer_act() -> None:
    ledger = submitted(command(lasts_s=30))
    due(ledger, 0)
    assert due(ledger, 39) == []
    assert due(ledger, 40) == [State.TIMED_OUT]
    assert kept(ledger, ledger.hear(Ack("a", Answer.SUCCEEDED), START)) == [State.SUCCEEDED]  # and answers after all


def test_a_device_that_began_is_given_longer() -> None:
    ledger = submitted(command())
    due(ledger, 0)
    kept(ledger, ledger.hear(Ack("a", Answer.ACCEPTED), START))
    assert due(ledger, EXECUTION_NS_MAX / SECOND - 1) == []
    assert due(ledger, EXECUTION_NS_MAX / SECOND) == [State.TIMED_OUT]


def test_an_idempotent_command_is_sent_again_a_limited_number_of_times() -> None:
    ledger = submitted(command(idempotent=True, lasts_s=1000))
    seen: list[State] = []
    for _ in range(10):
        seen += due(ledger, len(seen) * ACK_WAIT_NS / SECOND)
    assert seen[:5] == [State.DELIVERED, State.QUEUED, State.DELIVERED, State.QUEUED, State.DELIVERED]
    assert ledger.entries["a"].attempts == 3
    assert due(ledger, 1010) == [State.TIMED_OUT]


def test_a_late_answer_ends_the_repetition() -> None:
    ledger = submitted(command(idempotent=True))
    due(ledger, 0)
    assert due(ledger, 11, reachable=False) == [State.QUEUED]
    assert kept(ledger, ledger.hear(Ack("a", Answer.SUCCEEDED), START)) == [State.SUCCEEDED]


def test_a_repetition_that_comes_too_late_is_not_called_expired() -> None:
    ledger = submitted(command(idempotent=True))
    due(ledger, 0)
    due(ledger, 11, reachable=False)
    assert due(ledger, 31) == [State.UNKNOWN]


def test_an_answer_to_what_was_never_sent_counts_for_nothing() -> None:
    ledger = submitted(command())
    assert ledger.hear(Ack("a", Answer.SUCCEEDED), START) is None
    assert ledger.hear(Ack("b", Answer.SUCCEEDED), START) is None


@pytest.mark.parametrize(("idempotent", "state"), [(False, State.UNKNOWN), (True, State.QUEUED)])
def test_after_a_crash(idempotent: bool, state: State) -> None:
    ledger = submitted(command("a", idempotent=idempotent), command("b", "p2", idempotent=idempotent))
    due(ledger, 0)
    kept(ledger, ledger.hear(Ack("b", Answer.ACCEPTED), START))
    again = Ledger(ledger.entries.values())
    assert kept(again, *again.interrupted(START)) == [state]  # what its device has accepted is still waited for
    assert again.entries["b"].state is State.ACCEPTED


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUED_PER_DEVICE_MAX", 2)
    ledger = submitted(command("a"), command("b"))
    full = ledger.submit(command("c"), 0, START)
    assert full is not None
    assert (full.state, full.detail) == (State.REJECTED, "2 commands wait for this device")
    monkeypatch.setattr(limits, "ENTRIES_MAX", 2)
    with pytest.raises(LimitExceeded, match=r"command d is refused: 2 commands are on record \(ENTRIES_MAX\)"):
        ledger.submit(command("d"), 0, START)


def test_what_is_finished_and_old_is_forgotten_and_early_if_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = submitted(*(command(name, device=name, lasts_s=5) for name in "abc"))
    due(ledger, 5, reachable=False)
    assert ledger.forgettable(START + 6 * SECOND) == []
    assert len(ledger.forgettable(START + KEEP_NS + 6 * SECOND)) == 3
    monkeypatch.setattr(limits, "ENTRIES_KEPT_MAX", 2)
    (early,) = ledger.forgettable(START + 6 * SECOND)
    ledger.forget(early)
    assert len(ledger.entries) == 2
    again = ledger.submit(early.command, 0, START + 6 * SECOND)  # a copy of what is forgotten is refused
    assert again is not None
    assert again.state is State.EXPIRED


class AnyOrder(RuleBasedStateMachine):
    """Commands, answers, time, lost links and crashes in any order, at any point of the protocol."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.ledger = Ledger()
        self.record: dict[str, Entry] = {}  # in Kafka
        self.deliveries: Counter[str] = Counter()
        self.numbers = itertools.count()

    def keep(self, *entries: Entry | None, crash: int = 10**6, lose: bool = False) -> None:
        """As the desk does it: on record, then noted, then acted upon; `crash` cuts it off after so many steps."""
        steps = 0
        for entry in filter(None, entries):
            for act in (self._write, self._note, self._actuate):
                if steps == crash:
                    self.restart()
                    return
                act(entry)
                steps += 1
            if lose and entry.state is State.DELIVERED:
                self.keep(self.ledger.lost(entry.command.id, self.now, "lost"))

    def _write(self, entry: Entry) -> None:
        before = self.record.get(entry.command.id)
        assert before is None or before.state not in SETTLED, "what is settled stays settled"
        self.record[entry.command.id] = entry

    def _note(self, entry: Entry) -> None:
        self.ledger.record(entry)

    def _actuate(self, entry: Entry) -> None:
        if entry.state is State.DELIVERED:
            assert self.now < entry.command.expires_at_ns
            self.deliveries[entry.command.id] += 1

    def restart(self) -> None:
        """kill -9 and a new start."""
        stored = msgspec.json.decode(msgspec.json.encode(list(self.record.values())), type=list[Entry])
        self.ledger = Ledger(stored)
        self.keep(*self.ledger.interrupted(self.now))

    @rule(
        target=ids,
        device=st.sampled_from(["p1", "p1", "p2"]),
        idempotent=st.booleans(),
        lasts=st.sampled_from([2, 30, 1000]),
        crash=st.integers(0, 6),
    )
    def new(self, device: str, idempotent: bool, lasts: int, crash: int) -> Command:
        made = command(f"{next(self.numbers)}", device, idempotent=idempotent, lasts_s=lasts, at=self.now)
        self.keep(self.ledger.submit(made, 0, self.now), crash=crash)
        return made

    @rule(again=ids, crash=st.integers(0, 6))
    def replayed(self, again: Command, crash: int) -> None:
        self.keep(self.ledger.submit(again, 0, self.now), crash=crash)

    @rule(to=ids, answer=st.sampled_from(Answer), crash=st.integers(0, 6))
    def answered(self, to: Command, answer: Answer, crash: int) -> None:
        self.keep(self.ledger.hear(Ack(to.id, answer), self.now), crash=crash)

    @rule(
        seconds=st.sampled_from([0, 0, 1, 5, 15, 100]),
        reachable=st.booleans(),
        lose=st.booleans(),
        crash=st.integers(0, 12),
    )
    def time(self, seconds: int, reachable: bool, lose: bool, crash: int) -> None:
        self.now += seconds * SECOND
        self.keep(*self.ledger.due(self.now, ready=lambda _: reachable), crash=crash, lose=lose)

    @rule()
    def killed(self) -> None:
        self.restart()

    @invariant()
    def no_more_deliveries_than_allowed(self) -> None:
        for name, count in self.deliveries.items():
            c = self.record[name].command
            assert count <= (c.attempts_max if c.idempotent else 1)

    @invariant()
    def one_in_flight_per_device(self) -> None:
        flying = Counter(e.command.device for e in self.ledger.entries.values() if e.state in IN_FLIGHT)
        assert all(n == 1 for n in flying.values())

    @invariant()
    def memory_is_what_is_on_record(self) -> None:
        assert self.ledger.entries == self.record

    def teardown(self) -> None:
        for _ in range(10):
            self.now += 1000 * SECOND
            self.keep(*self.ledger.due(self.now, ready=lambda _: True))
        assert not [e for e in self.record.values() if e.state in OPEN], "everything comes to an end"


AnyOrder.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_every_event_of_the_table_can_happen() -> None:
    assert {event for _, event in limits.TRANSITIONS} == set(Event)
    assert not {state for state, _ in limits.TRANSITIONS} & SETTLED
