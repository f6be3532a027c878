"""Seeded runs of the twins: whatever is lost, repeated, late or killed, a device ends with what was desired last.

`SITESTREAM_CONTROL_RUNS=10000` makes that many runs; a seed that fails is in the message.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.control.commands import Command, Value
from connectors.control.devices import parse
from connectors.control.switch import Switch
from connectors.control.telling import ASSERT_S
from connectors.control.twin import Desired, Reported, State, Twins
from connectors.control.twins import Side, TwinDesk, line_of
from pipelines.errors import NotConnected
from pipelines.runtime.account import Beside

RUNS = int(os.environ.get("SITESTREAM_CONTROL_RUNS", "160"))
SECOND = 10**9
DOCUMENT = parse(
    """
[profiles.press]
devices = ["p*"]
topic = "s1/{device}/cmd"
settings.speed = {type = "float"}
settings.mode = {type = "text"}
settings.n = {type = "int"}
""",
    "devices.toml",
)


class Killed(Exception):
    """kill -9."""


class Machine:
    """A device as docs/control.md wants it: it keeps the newest version it has heard, and answers all that it hears."""

    def __init__(self) -> None:
        self.version, self.ever, self.values = 0, 0, dict[str, Value]()
        self.online = True

    def hear(self, payload: bytes) -> bytes:
        told = json.loads(payload)
        if told["version"] >= self.version:
            self.version, self.values = told["version"], {**self.values, **told["values"]}
        self.ever = max(self.ever, self.version)
        return self.report()

    def report(self) -> bytes:
        values = {name: self.values.get(name) for name in ("speed", "mode", "n")}
        return json.dumps({"version": self.version, "values": values}).encode()

    def reset(self) -> None:
        """It comes from the factory."""
        self.version, self.values = 0, {}


class Run:
    """One site. `kafka` is what is on record; `down` and `up` hold messages under way, in any order and perhaps twice."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random, self.now_s, self.skew_s = random.Random(seed), 1e9, 0.0
        self.kafka: dict[tuple[str, bytes], bytes] = {}
        self.down: list[tuple[str, bytes]] = []
        self.up: list[tuple[str, bytes]] = []
        self.old: list[tuple[str, bytes]] = []  # all that was ever told: a process that was replaced may tell it yet
        self.machines = {f"p{n}": Machine() for n in range(3)}
        self.wanted: dict[str, dict[str, Value]] = {}
        self.history: dict[tuple[str, int], dict[str, Value]] = {}
        self.connected, self.calm, self.folder = True, False, folder
        self.restart()

    def now_ns(self) -> int:
        return int((self.now_s + self.skew_s) * SECOND)

    def monotonic_s(self) -> float:
        return self.now_s

    def may_die(self) -> None:
        if not self.calm and self.random.random() < 0.02:
            raise Killed

    def sides(self) -> list[Side]:
        kinds: dict[str, type[Side]] = {"s1.twin.desired": Desired, "s1.twin.reported": Reported}
        return [msgspec.json.decode(v, type=kinds[t]) for (t, _), v in self.kafka.items() if t in kinds]

    def restart(self) -> None:
        """A new process reads what is on record."""
        link: Any = self
        clock: Any = self
        self.desk = TwinDesk("s1", DOCUMENT, self.sides(), link, Switch(self.folder), clock)
        self.desk._telling._random.seed(self.random.random())

    async def put(self, lines: Sequence[Beside]) -> None:
        """All or none."""
        self.may_die()
        for line in lines:
            if line.key is not None:
                at = (line.topic, line.key)
                before = json.loads(self.kafka.get(at, b'{"version": 0}'))["version"]
                assert json.loads(line.value)["version"] > before, f"{line} goes back from {before}"
                self.kafka[at] = line.value
                if line.topic == "s1.twin.desired":
                    side = msgspec.json.decode(line.value, type=Desired)
                    self.history[side.device, side.version] = side.values
        self.may_die()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[[Sequence[Beside]], Awaitable[None]]]:
        yield self.put

    async def publish(self, topic: str, payload: bytes) -> None:
        """As MQTT: it may be lost, or come twice, or the answer of the broker is lost."""
        assert topic.endswith("/desired")
        self.may_die()
        if not self.connected:
            raise NotConnected("down")
        self.down += [(topic.split("/")[1], payload)] * (1 if self.calm else self.random.choice([0, 1, 1, 2]))
        self.old.append((topic.split("/")[1], payload))
        self.may_die()
        if not self.calm and self.random.random() < 0.1:
            raise NotConnected("not confirmed")

    async def set(self) -> None:
        device = self.random.choice(list(self.machines))
        choice: dict[str, Value] = {
            "speed": self.random.choice([0.5, 1.0, 2.0]), "mode": self.random.choice(["eco", "full"]),
            "n": self.random.randrange(3),
        }  # fmt: skip
        args = dict(self.random.sample(list(choice.items()), self.random.choice([1, 1, 2])))
        command = Command(id="c", device=device, verb="twin", args=args, issuer="me", issued_at_ns=1, expires_at_ns=2)
        while True:  # what was cut off is read again
            try:
                desired = self.desk.set(command, self.now_ns())
                if desired:
                    await self.put([line_of("s1", desired)])
                    self.desk.record(desired)
                break
            except Killed:
                self.restart()
        self.wanted[device] = self.wanted.get(device, {}) | args

    async def look(self) -> None:
        try:
            await self.desk._tell()
            await self.desk._keep(self.alone)
        except Killed:
            self.restart()
        twins = Twins(self.sides())
        for device, machine in self.machines.items():
            if twins[device].state is State.IN_SYNC:
                assert machine.ever >= twins[device].version, f"{device} has never heard {twins[device]}"

    def arrive(self) -> None:
        """One message of either way, of those that are under way."""
        for way in (self.down, self.up):
            if not way:
                continue
            device, payload = way.pop(0 if self.calm else self.random.randrange(len(way)))
            if way is self.up:
                self.desk.hear(f"s1/{device}/reported", payload)
            elif self.machines[device].online:
                machine = self.machines[device]
                before = machine.version
                answer = machine.hear(payload)
                assert machine.version >= before
                if machine.version >= before and json.loads(payload)["version"] == machine.version:
                    told = self.history[device, machine.version]
                    assert {n: machine.values.get(n) for n in told} == told
                self.up += [(device, answer)] * (1 if self.calm else self.random.choice([0, 1, 1, 2]))

    async def step(self) -> None:
        what = self.random.random()
        machine = self.machines[self.random.choice(list(self.machines))]
        if what < 0.15:
            await self.set()
        elif what < 0.5:
            self.arrive()
        elif what < 0.55 and self.old:
            self.down.append(self.random.choice(self.old))
        elif what < 0.6:
            machine.online = not machine.online
        elif what < 0.62:
            machine.reset()
        elif what < 0.65:
            self.connected = not self.connected
            self.desk.connected()
        elif what < 0.67:
            self.skew_s = self.random.choice([0.0, -3600.0, 30.0])
        elif what < 0.69:
            self.restart()
        elif what < 0.7:
            machine.version += 7  # it was at another site before, or Kafka was begun anew
        else:
            self.now_s += self.random.choice([0.1, 1, 5, 60, 600])
            await self.look()

    async def end(self) -> None:
        """Everything works from now on."""
        self.calm, self.connected = True, True
        for machine in self.machines.values():
            machine.online = True
        self.desk.connected()
        for _ in range(int(2 * ASSERT_S / 100)):
            self.now_s += 100
            await self.look()
            while self.down or self.up:
                self.arrive()
            await self.look()


@pytest.mark.parametrize("part", range(4))
def test_no_seed_ends_with_anything_but_what_was_desired_last(part: int) -> None:
    told = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(part, RUNS, 4):
            run = Run(seed, Path(folder))

            async def all_of(run: Run) -> None:
                for _ in range(120):
                    await run.step()
                await run.end()

            asyncio.run(all_of(run))
            twins = Twins(run.sides())
            told += len(run.old)
            for device, want in run.wanted.items():
                desired = twins[device].desired
                assert desired
                assert desired.values == want, f"seed {seed}: a change of {device} is lost"
                have = run.machines[device].values
                assert {n: have.get(n) for n in want} == want, f"seed {seed}: {device} has {have}, not {want}"
                assert twins[device].state is State.IN_SYNC, f"seed {seed}: {device}: {twins[device]}"
            assert not twins.different
    assert told > RUNS, "next to nothing was told"
