"""Seeded runs of all that control decides, with devices that really carry out: no seed may break a promise.

`SITESTREAM_CONTROL_RUNS=10000` makes that many runs; a seed that fails is in the message.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import msgspec
import pytest

from connectors.control import DeviceTopic
from connectors.control.commands import Ack, Answer, Command
from connectors.control.devices import parse
from connectors.control.guard import Guard
from connectors.control.ledger import IN_FLIGHT, OPEN, Entry, Event, Ledger, State
from connectors.control.signing import signed
from tests.control.plant import DEVICES, ME, YOU

RUNS = int(os.environ.get("SITESTREAM_CONTROL_RUNS", "160"))
SECOND = 10**9
START = 1_700_000_000 * SECOND
TOPICS = [DeviceTopic.of("s1/{device}/cmd")]
DOCUMENT = parse(DEVICES.replace("SITE", "s1").replace("IDEMPOTENT", "true"), "devices.toml")
VERBS = ["stop", "set_speed", "set_speed", "beep", "beep", "open"]


class Killed(Exception):
    """kill -9."""


class Run:
    """One site: `record` is Kafka; `wire` holds answers under way, in any order and perhaps twice."""

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.skew = random.Random(seed), START, 0
        self.record: dict[str, Entry] = {}
        self.log: list[Command] = []  # the command topic
        self.wire: list[Ack] = []
        self.executed: Counter[str] = Counter()
        self.sent_at: dict[tuple[str, str], list[int]] = {}
        self.dangerous_without_two: list[str] = []
        self.genuine: set[str] = set()
        self.offline: dict[str, int] = {}
        self.restart()

    @property
    def clock(self) -> int:
        """Control's clock, which may be wrong."""
        return self.now + self.skew

    def restart(self) -> None:
        """A new process reads what is on record."""
        stored = msgspec.json.decode(msgspec.json.encode(list(self.record.values())), type=list[Entry])
        self.ledger = Ledger(stored)
        newest = max((e.updated_at_ns for e in stored), default=0)
        self.guard = Guard("s1", DOCUMENT, TOPICS, ME, newest)
        self.unsafe(lambda: self.keep(*self.ledger.interrupted(self.clock)))

    def unsafe(self, do) -> None:  # type: ignore[no-untyped-def]
        """Do it; it may be cut off anywhere."""
        try:
            do()
        except Killed:
            self.restart()

    def may_die(self) -> None:
        if self.random.random() < 0.02:
            raise Killed

    def keep(self, *entries: Entry | None) -> None:
        """On record, then noted, then acted upon; killed before, between or after."""
        for entry in filter(None, entries):
            self.may_die()
            self.record[entry.command.id] = entry
            self.may_die()
            self.ledger.record(entry)
            self.guard.saw(entry.updated_at_ns)
            assert (
                sum(e.state in IN_FLIGHT and e.command.device == entry.command.device for e in self.record.values())
                <= 1
            )
            if entry.state is State.DELIVERED:
                self.deliver(entry)

    def deliver(self, entry: Entry) -> None:
        c = entry.command
        self.may_die()
        assert self.clock < c.expires_at_ns
        if c.verb == "open" and len(entry.signers) < 2:
            self.dangerous_without_two.append(c.id)
        outcome = self.random.choice(["mqtt", "mqtt", "modbus", "return", "lost before", "lost after"])
        if outcome == "return" or (self.offline.get(c.device, 0) > self.now and outcome != "mqtt"):
            self.keep(entry.after(Event.RETURN, self.clock, "not sent"))
            return
        self.sent_at.setdefault((c.device, c.verb), []).append(self.clock)
        if outcome != "lost before" and self.offline.get(c.device, 0) <= self.now:
            self.executed[c.id] += 1
            last = self.random.choice([Answer.SUCCEEDED, Answer.FAILED])
            if outcome == "mqtt":
                answers = [Ack(c.id, Answer.ACCEPTED), Ack(c.id, Answer.EXECUTING), Ack(c.id, last)]
                self.wire += answers * self.random.choice([0, 1, 1, 2])
                self.random.shuffle(self.wire)
        self.may_die()
        if outcome == "modbus":
            self.keep(entry.after(Event.SUCCEED, self.clock, "read back"))
        elif outcome.startswith("lost"):
            self.keep(self.ledger.lost(c.id, self.clock, "lost"))

    def take(self, command: Command) -> None:
        """As the desk takes a record of the command topic."""
        self.guard.saw(self.now)
        if self.guard.forged(command):
            return
        self.genuine.add(command.id)
        if command.id in self.ledger.entries:
            return
        verdict = self.guard.judge(command, self.ledger, self.clock)
        new = self.ledger.submit(verdict.command, 0, self.clock, refusal=verdict.refusal, signers=verdict.signers)
        if new and new.state is State.QUEUED and command.verb == "approve":
            target = self.ledger.entries.get(str(command.args["id"]))
            after = target.approved(command.issuer, self.clock) if target else ""
            event = Event.SUCCEED if isinstance(after, Entry) else Event.REJECT
            self.keep(after if isinstance(after, Entry) else None, new.after(event, self.clock))
        else:
            self.keep(new)

    def issue(self) -> Command:
        n, chance = len(self.log), self.random.random()
        verb = self.random.choice(VERBS)
        args: dict[str, object] = {"speed": self.random.choice([1.0, 1.0, 9.0])} if verb == "set_speed" else {}
        if self.log and chance < 0.25:
            verb, args = "approve", {"id": self.random.choice(self.log).id}
        who, key = self.random.choice(
            [("me", ME)] * 5 + [("you", YOU)] * 2 + [("s1/alarm", ME)] * 3 + [("me", YOU), ("eve", ME)]
        )
        lasts = self.random.choice([2, 30, 200, 1000])
        command = Command(
            id=f"c{n}", device=self.random.choice(["p1", "p1", "p1", "p2", "p2", "x9"]), verb=verb, args=args, issuer=who,  # type: ignore[arg-type]
            issued_at_ns=self.now, expires_at_ns=self.now + lasts * SECOND,
        )  # fmt: skip
        self.log.append(signed(command, "s1", key))
        return self.log[-1]

    def step(self) -> None:
        """Something happens."""
        what = self.random.random()
        if what < 0.35:
            for _ in range(self.random.choice([1] * 9 + [12])):  # now and then a storm
                self.receive(self.issue())
        elif what < 0.45 and self.log:
            self.receive(self.random.choice(self.log))  # again
        elif what < 0.7 and self.wire:
            ack = self.wire.pop()
            self.unsafe(lambda: self.keep(self.ledger.hear(ack, self.clock)))
        elif what < 0.75:
            self.offline[self.random.choice(["p1", "p2"])] = self.now + self.random.choice([10, 10, 10, 3600]) * SECOND
        elif what < 0.78:
            self.skew = self.random.choice([0, 0, 0, -3600, -5, 30]) * SECOND
        else:
            self.now += self.random.choice([0, 1, 5, 15, 100]) * SECOND
            self.look()

    def receive(self, command: Command) -> None:
        """Until it is acknowledged: what was cut off is read again."""
        while True:
            try:
                self.take(command)
                return
            except Killed:
                self.restart()

    def look(self) -> None:
        self.unsafe(lambda: self.keep(*self.ledger.due(self.clock, ready=self.ready)))

    def ready(self, command: Command) -> bool:
        return self.guard.may_deliver(command, self.ledger, self.clock)

    def end(self) -> None:
        self.skew = 0
        for _ in range(60):
            self.now += 200 * SECOND
            self.look()


@pytest.mark.parametrize("part", range(4))
def test_no_seed_breaks_a_promise(part: int) -> None:
    done = 0
    for seed in range(part, RUNS, 4):
        run = Run(seed)
        for _ in range(30):
            run.step()
        run.end()
        done += sum(run.executed.values())
        for name, times in run.executed.items():
            c = run.record[name].command
            assert times <= (c.attempts_max if c.idempotent else 1), (
                f"seed {seed}: {name} ({c.verb}) was done {times} times"
            )
            assert c.device in ("p1", "p2"), f"seed {seed}: {c.device} is in no profile"
            assert c.args.get("speed", 0.0) != 9.0, f"seed {seed}: out of range"
        assert not run.dangerous_without_two, f"seed {seed}"
        still = [e.command.id for e in run.record.values() if e.state in OPEN]
        assert not still, f"seed {seed}: without a final state: {still}"
        assert run.genuine == set(run.record), f"seed {seed}: every genuine command is on record, and no other"
        for (_, verb), at in run.sent_at.items():
            if verb == "beep":
                assert all(b - a >= 60 * SECOND for a, b in zip(at, at[2:], strict=False)), f"seed {seed}: rate"
    assert done > RUNS // 16, "the devices did next to nothing"
