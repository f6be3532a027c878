"""The account of every command: a table (state, event) -> state, and what time, devices and crashes do to it. Pure.

                       ACCEPT, START           SUCCEED, FAIL, REJECT, EXPIRE
    QUEUED ─DELIVER─> DELIVERED ──> ACCEPTED ──> EXECUTING ──────────────────> SUCCEEDED FAILED REJECTED EXPIRED
      │  <──REPEAT─────┘  │ TIME_OUT, LOSE           ↑ the device answers after all
      └─EXPIRE, REJECT    └────────────> TIMED_OUT UNKNOWN

    AWAITING_APPROVAL ─APPROVE─> QUEUED, once two people have signed. DELIVERED ─RETURN─> QUEUED if certainly nothing was sent.

The ledger proposes entries; its owner has them acknowledged by Kafka and only then records them here and acts on them. So an
entry that says DELIVERED is on record before the device hears anything, and after a crash such an entry means "perhaps":
the command is repeated if it is idempotent, and UNKNOWN if it is not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator

import msgspec

from connectors.control.commands import DETAIL_CHARS_MAX, Ack, Answer, Command
from pipelines.errors import LimitExceeded

ACK_WAIT_NS = 10 * 10**9  # an idempotent command without an answer is sent again after this
EXECUTION_NS_MAX = 300 * 10**9  # from the device's last word on a command that it accepted
KEEP_NS = 24 * 3600 * 10**9  # a finished command is remembered this long after it expired
QUEUED_PER_DEVICE_MAX = 100
SIGNERS_MIN = 2  # of what is dangerous
ENTRIES_MAX = 100_000  # new commands are refused at this
ENTRIES_KEPT_MAX = 90_000  # above this, what is finished is forgotten before its time


class State(enum.StrEnum):
    """Where a command stands."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    QUEUED = "QUEUED"
    DELIVERED = "DELIVERED"
    ACCEPTED = "ACCEPTED"
    EXECUTING = "EXECUTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    TIMED_OUT = "TIMED_OUT"  # the device was sent it and never answered
    UNKNOWN = "UNKNOWN"  # nobody can say whether the device was sent it


class Event(enum.StrEnum):
    """What happens to a command."""

    APPROVE = "approve"
    DELIVER = "deliver"
    RETURN = "return"
    REPEAT = "repeat"
    ACCEPT = "accept"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    REJECT = "reject"
    EXPIRE = "expire"
    TIME_OUT = "time out"
    LOSE = "lose"


IN_FLIGHT = frozenset({State.DELIVERED, State.ACCEPTED, State.EXECUTING})
OPEN = IN_FLIGHT | {State.QUEUED, State.AWAITING_APPROVAL}
_VERDICTS = {
    Event.SUCCEED: State.SUCCEEDED, Event.FAIL: State.FAILED, Event.REJECT: State.REJECTED, Event.EXPIRE: State.EXPIRED,
}  # fmt: skip
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.AWAITING_APPROVAL, Event.APPROVE): State.QUEUED,
    (State.AWAITING_APPROVAL, Event.EXPIRE): State.EXPIRED,
    (State.QUEUED, Event.DELIVER): State.DELIVERED,
    (State.QUEUED, Event.LOSE): State.UNKNOWN,  # it was delivered before and expired while it waited to be repeated
    (State.DELIVERED, Event.REPEAT): State.QUEUED,
    (State.DELIVERED, Event.RETURN): State.QUEUED,
    (State.DELIVERED, Event.ACCEPT): State.ACCEPTED,
    (State.DELIVERED, Event.START): State.EXECUTING,
    (State.ACCEPTED, Event.START): State.EXECUTING,
    (State.DELIVERED, Event.LOSE): State.UNKNOWN,
    **{(state, Event.TIME_OUT): State.TIMED_OUT for state in IN_FLIGHT},
    **{
        (state, event): verdict
        for state in (*IN_FLIGHT, State.QUEUED, State.TIMED_OUT, State.UNKNOWN)
        for event, verdict in _VERDICTS.items()
    },
}
_SAID = {
    Answer.ACCEPTED: Event.ACCEPT, Answer.EXECUTING: Event.START, Answer.SUCCEEDED: Event.SUCCEED, Answer.FAILED: Event.FAIL,
    Answer.REJECTED: Event.REJECT, Answer.EXPIRED: Event.EXPIRE,
}  # fmt: skip


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the account, as it stands in Kafka."""

    command: Command
    state: State
    updated_at_ns: int
    partition: int  # of the command's topic, and so of this record
    attempts: int = 0  # deliveries begun
    detail: str = ""
    received_at_ns: int = 0
    delivered_at_ns: tuple[int, ...] = ()
    by: str = ""  # whoever changed it last, if not control
    signers: tuple[str, ...] = ()  # people who want it done

    def after(self, event: Event, now_ns: int, detail: str = "") -> Entry | None:
        """The entry after an event; None if the event means nothing in this state."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            return None
        at = self.delivered_at_ns
        at = (*at, now_ns) if event is Event.DELIVER else at[:-1] if event is Event.RETURN else at
        return msgspec.structs.replace(
            self, state=state, updated_at_ns=now_ns, detail=detail[:DETAIL_CHARS_MAX], by="", attempts=len(at), delivered_at_ns=at
        )  # fmt: skip

    def approved(self, by: str, now_ns: int) -> Entry | str:
        """The entry with one more signature, or why there cannot be: each counts once."""
        if self.state is not State.AWAITING_APPROVAL or now_ns >= self.command.expires_at_ns:
            return f"command {self.command.id} does not wait for an approval: it is {self.state}"
        if by in self.signers:
            return f"{by} has signed command {self.command.id} already: another person must approve it"
        signers = (*self.signers, by)
        detail = "approved by " + " and ".join(signers)
        after = self.after(Event.APPROVE, now_ns, detail) if len(signers) >= SIGNERS_MIN else None
        return msgspec.structs.replace(
            after or self, signers=signers, by=by, updated_at_ns=now_ns, detail=detail if after else f"signed by {by}"
        )

    @property
    def deadline_ns(self) -> int:
        """When waiting for the device's answer ends. Until it expires, a delivered command may still be carried out."""
        wait = ACK_WAIT_NS if self.state is State.DELIVERED else EXECUTION_NS_MAX
        return max(self.command.expires_at_ns + ACK_WAIT_NS, self.updated_at_ns + wait)

    def repeatable(self, now_ns: int) -> bool:
        """Whether it may be delivered again."""
        c = self.command
        return c.idempotent and self.attempts < c.attempts_max and now_ns < c.expires_at_ns


class Ledger:
    """Entries by id. Every method but `record` and `forget` only says what should become of them."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[str, Entry] = {}
        self._open: dict[str, dict[str, Entry]] = {}  # by device
        self._admitted: dict[tuple[str, str], dict[str, Entry]] = {}  # by device and verb, what counts for its rate
        for entry in sorted(entries, key=lambda e: (e.command.issued_at_ns, e.command.id)):
            self.record(entry)

    def record(self, entry: Entry) -> None:
        """Take note of an entry that Kafka has acknowledged."""
        c = entry.command
        self.entries[c.id] = entry
        if entry.attempts or entry.state not in (State.REJECTED, State.EXPIRED):
            self._admitted.setdefault((c.device, c.verb), {})[c.id] = entry
        else:
            self._admitted.get((c.device, c.verb), {}).pop(c.id, None)
        if entry.state in OPEN:
            self._open.setdefault(c.device, {})[c.id] = entry
        elif c.device in self._open:
            self._open[c.device].pop(c.id, None)
            if not self._open[c.device]:
                del self._open[c.device]

    def forget(self, entry: Entry) -> None:
        """Drop an entry of `forgettable`."""
        c = entry.command
        del self.entries[c.id]
        same = self._admitted.get((c.device, c.verb), {})
        same.pop(c.id, None)
        if not same:
            self._admitted.pop((c.device, c.verb), None)

    def in_flight(self, device: str) -> list[Entry]:
        """What a device has got and not yet brought to an end."""
        return [e for e in self._open.get(device, {}).values() if e.state in IN_FLIGHT]

    def admitted(self, device: str, verb: str, since_ns: int) -> int:
        """How many commands were let in since then."""
        return sum(e.received_at_ns > since_ns for e in self._admitted.get((device, verb), {}).values())

    def delivered(self, device: str, verb: str, since_ns: int) -> int:
        """How many deliveries were begun since then."""
        return sum(at > since_ns for e in self._admitted.get((device, verb), {}).values() for at in e.delivered_at_ns)

    def submit(
        self,
        command: Command,
        partition: int,
        now_ns: int,
        *,
        refusal: str = "",
        signers: tuple[str, ...] | None = None,
    ) -> Entry | None:
        """The entry of a new command: QUEUED, or refused; AWAITING_APPROVAL if only `signers` have signed what is dangerous.

        None if its id is known. `LimitExceeded` if the ledger is full.
        """
        if command.id in self.entries:
            return None
        if len(self.entries) >= ENTRIES_MAX:
            raise LimitExceeded(f"command {command.id} is refused: {ENTRIES_MAX} commands are on record (ENTRIES_MAX)")
        waits = signers is not None and len(signers) < SIGNERS_MIN
        new = Entry(
            command=command, state=State.AWAITING_APPROVAL if waits and not refusal else State.QUEUED, updated_at_ns=now_ns,
            partition=partition, received_at_ns=now_ns, by=command.issuer, signers=signers or (),
        )  # fmt: skip
        if refusal:
            return new.after(Event.REJECT, now_ns, refusal)
        if now_ns >= command.expires_at_ns:
            return new.after(Event.EXPIRE, now_ns, "it had expired when it arrived")
        if len(self._open.get(command.device, ())) >= QUEUED_PER_DEVICE_MAX:
            full = msgspec.structs.replace(new, state=State.QUEUED)
            return full.after(Event.REJECT, now_ns, f"{QUEUED_PER_DEVICE_MAX} commands wait for this device")
        return new

    def hear(self, ack: Ack, now_ns: int) -> Entry | None:
        """The entry after a device's answer; None if the answer says nothing new, or answers what was never sent."""
        entry = self.entries.get(ack.id)
        return entry.after(_SAID[ack.state], now_ns, ack.detail) if entry and entry.attempts else None

    def due(self, now_ns: int, *, ready: Callable[[Command], bool]) -> list[Entry]:
        """What time has done, and the deliveries that can be made now: one for each device with none in flight.

        `ready` says whether the device can be reached and may be sent one more now.
        """
        return [e for queue in self._open.values() for e in self._due(list(queue.values()), now_ns, ready)]

    def _due(self, queue: list[Entry], now_ns: int, ready: Callable[[Command], bool]) -> Iterator[Entry]:
        yield from filter(None, (_aged(e, now_ns) for e in queue))
        if any(e.state in IN_FLIGHT for e in queue):
            return
        fresh = [e for e in queue if e.state is State.QUEUED and now_ns < e.command.expires_at_ns]
        for entry in sorted(fresh, key=lambda e: not e.attempts)[:1]:  # what is to be repeated goes first
            if ready(entry.command):
                yield from filter(None, (entry.after(Event.DELIVER, now_ns),))

    def lost(self, command_id: str, now_ns: int, why: str) -> Entry | None:
        """The entry after a delivery of which nobody knows the outcome: queued again if it may be repeated, else UNKNOWN."""
        entry = self.entries[command_id]
        return entry.after(Event.REPEAT if entry.repeatable(now_ns) else Event.LOSE, now_ns, why)

    def interrupted(self, now_ns: int) -> list[Entry]:
        """After a restart: what was being delivered is lost. What its device has accepted is still waited for."""
        cut = [e for queue in self._open.values() for e in queue.values() if e.state is State.DELIVERED]
        why = "control was interrupted after this was on record and before the device answered"
        return [e for c in cut if (e := self.lost(c.command.id, now_ns, why)) is not None]

    def forgettable(self, now_ns: int) -> list[Entry]:
        """Finished entries, oldest first, that need not be kept: a copy of their command would be refused as expired."""
        done = [e for e in self.entries.values() if e.state not in OPEN and e.command.expires_at_ns <= now_ns]
        done.sort(key=lambda e: e.updated_at_ns)
        excess = max(0, len(self.entries) - ENTRIES_KEPT_MAX)
        old = [e for e in done[excess:] if max(e.command.expires_at_ns, e.updated_at_ns) + KEEP_NS < now_ns]
        return done[:excess] + old


def _aged(entry: Entry, now_ns: int) -> Entry | None:
    """The entry after the time that has passed, if that changes it."""
    if entry.state is State.AWAITING_APPROVAL and now_ns >= entry.command.expires_at_ns:
        return entry.after(Event.EXPIRE, now_ns, "it expired before two people had signed")
    if entry.state is State.QUEUED and now_ns >= entry.command.expires_at_ns:
        if entry.attempts:
            return entry.after(Event.LOSE, now_ns, f"no answer to {entry.attempts} deliveries before it expired")
        return entry.after(Event.EXPIRE, now_ns, "it expired before it could be delivered")
    if entry.state is State.DELIVERED and now_ns >= entry.updated_at_ns + ACK_WAIT_NS and entry.repeatable(now_ns):
        return entry.after(Event.REPEAT, now_ns, "the device did not answer")
    if entry.state in IN_FLIGHT and now_ns >= entry.deadline_ns:
        return entry.after(Event.TIME_OUT, now_ns, "the device did not answer")
    return None
