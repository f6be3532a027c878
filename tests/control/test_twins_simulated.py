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
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from pymodbus.exceptions import ModbusException

from connectors.control.commands import Command, Value
from connectors.control.devices import parse
from connectors.control.modbus import Modbus
from connectors.control.switch import Switch
from connectors.control.telling import ASSERT_S
from connectors.control.twin import Desired, Reported, State, Twins
from connectors.control.twins import Side, TwinDesk, line_of
from pipelines.errors import NotConnected
from pipelines.runtime.account import Beside

RUNS = int(os.environ.get("SITESTREAM_CONTROL_RUNS", "100"))
SECOND = 10**9
DOCUMENT = parse(
    """
[profiles.press]
devices = ["p*"]
topic = "s1/{device}/cmd"
settings.speed = {type = "float"}
settings.mode = {type = "text"}
settings.n = {type = "int"}
[profiles.drive]
devices = ["d0"]
modbus = "tcp://d0"
[profiles.drive.settings]
speed = {type = "float", write = {to = "register", address = 0, scale = 0.5, within = "1ms"}}
n = {type = "int", write = {to = "register", address = 1, word = "i32", within = "1ms"}}
on = {type = "bool", write = {to = "coil", address = 0, within = "1ms"}}
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


class Drive:
    """A Modbus device, and the client that speaks to it. It has 1.0, -7 and false when it comes from the factory."""

    FACTORY = (2, 65535, 65529, 0)  # three registers and a coil, as words

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.words = list(self.FACTORY)
        self.online, self.up, self.writes = True, False, 0
        self.had = [self.values]

    @property
    def values(self) -> dict[str, Value]:
        low = int.from_bytes(b"".join(w.to_bytes(2, "big") for w in self.words[1:3]), "big", signed=True)
        return {"speed": self.words[0] / 2, "n": low, "on": bool(self.words[3])}

    @property
    def connected(self) -> bool:
        return self.up and self.online

    async def connect(self) -> None:
        self.up = True

    def close(self) -> None:
        self.up = False

    def reset(self) -> None:
        """Somebody stands before it."""
        self.words = list(self.FACTORY)
        self.had.append(self.values)

    def break_off(self) -> None:
        self.run.may_die()
        if not self.online or self.run.fault(0.05):
            raise ModbusException("no answer")

    def answer(self, **fields: Any) -> Any:
        failed = self.run.fault(0.02)
        return SimpleNamespace(isError=lambda: failed, exception_code=self.run.random.choice([2, 6, 11]), **fields)

    async def read_holding_registers(self, address: int, count: int, device_id: int) -> Any:
        assert not self.run.switch.why_off(), "it is asked although it is off"
        self.break_off()
        if self.run.fault(0.05):
            assert not self.run.desk.yields(self.name), "a command may go to a device that is being written to"
        return self.answer(registers=self.words[address : address + count])

    async def read_coils(self, address: int, count: int, device_id: int) -> Any:
        self.break_off()
        return self.answer(bits=[bool(self.words[3])])

    async def write_register(self, address: int, word: int, device_id: int) -> Any:
        return await self.write_registers(address, [word], device_id)

    async def write_coil(self, address: int, bit: bool, device_id: int) -> Any:
        return await self.write_registers(3, [int(bit)], device_id)

    async def write_registers(self, address: int, words: list[int], device_id: int) -> Any:
        assert self.words[address : address + len(words)] != words, "it has that already"
        assert not self.run.switch.why_off(), "it is written to although it is off"
        assert self.name not in self.run.flying, "it is written to while it has a command"
        self.break_off()
        answer = self.answer()
        if not answer.isError():
            self.words[address : address + len(words)] = words
            self.writes += 1
            self.had.append(self.values)
        self.break_off()
        return answer


class Run:
    """One site. `kafka` is what is on record; `down` and `up` hold messages under way, in any order and perhaps twice."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random, self.now_s, self.skew_s = random.Random(seed), 1e9, 0.0
        self.kafka: dict[tuple[str, bytes], bytes] = {}
        self.down: list[tuple[str, bytes]] = []
        self.up: list[tuple[str, bytes]] = []
        self.old: list[tuple[str, bytes]] = []  # all that was ever told: a process that was replaced may tell it yet
        self.machines: dict[str, Machine | Drive] = {f"p{n}": Machine() for n in range(2)}
        self.drive = self.machines["d0"] = Drive(self, "d0")
        self.flying = set[str]()  # devices that have a command
        self.wanted: dict[str, dict[str, Value]] = {}
        self.history: dict[tuple[str, int], dict[str, Value]] = {}
        self.connected, self.calm, self.switch = True, False, Switch(folder)
        self.restart()

    def now_ns(self) -> int:
        return int((self.now_s + self.skew_s) * SECOND)

    def monotonic_s(self) -> float:
        return self.now_s

    def fault(self, chance: float) -> bool:
        """Whether something goes wrong; nothing does when all is calm."""
        return not self.calm and self.random.random() < chance

    def may_die(self) -> None:
        if self.fault(0.02):
            raise Killed

    def sides(self) -> list[Side]:
        kinds: dict[str, type[Side]] = {"s1.twin.desired": Desired, "s1.twin.reported": Reported}
        return [msgspec.json.decode(v, type=kinds[t]) for (t, _), v in self.kafka.items() if t in kinds]

    def restart(self) -> None:
        """A new process reads what is on record."""
        link: Any = self
        clock: Any = self
        modbus = Modbus(DOCUMENT, clock)
        at: Any = modbus._link(DOCUMENT.profiles["drive"])
        at.client, self.drive.up = self.drive, False
        at._backoff._random.seed(self.random.random())
        seed = self.random.randrange(2**32)
        self.desk = TwinDesk("s1", DOCUMENT, self.sides(), link, {"modbus": modbus}, self.switch, clock, seed)
        self.flying.clear()

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
        assert not self.switch.why_off()
        self.may_die()
        if not self.connected:
            raise NotConnected("down")
        self.down += [(topic.split("/")[1], payload)] * (1 if self.calm else self.random.choice([0, 1, 1, 2]))
        self.old.append((topic.split("/")[1], payload))
        self.may_die()
        if self.fault(0.1):
            raise NotConnected("not confirmed")

    async def set(self) -> None:
        device = self.random.choice(list(self.machines))
        choice: dict[str, Value] = {
            "speed": self.random.choice([0.5, 1.0, 2.0]), "mode": self.random.choice(["eco", "full"]),
            "n": self.random.randrange(-1, 2), "on": self.random.random() < 0.5,
        }  # fmt: skip
        del choice["mode" if device == "d0" else "on"]
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
        await asyncio.sleep(0)  # for links to be made
        try:
            await self.desk._tell()
            await self.desk._direct.begin(self.alone, self.flying.__contains__)
            await self.desk._direct.settled()
            await self.desk._keep(self.alone)
        except Killed:
            self.restart()
        twins = Twins(self.sides())
        for device, machine in self.machines.items():
            twin = twins[device]
            if twin.state is State.IN_SYNC and isinstance(machine, Machine):
                assert machine.ever >= twin.version, f"{device} has never heard {twin}"
            elif twin.state is State.IN_SYNC and isinstance(machine, Drive) and twin.desired:
                assert any(twin.desired.values.items() <= had.items() for had in machine.had), (
                    f"{device} never had {twin}"
                )

    def arrive(self) -> None:
        """One message of either way, of those that are under way."""
        for way in (self.down, self.up):
            if not way:
                continue
            device, payload = way.pop(0 if self.calm else self.random.randrange(len(way)))
            if way is self.up:
                self.desk.hear(f"s1/{device}/reported", payload)
            elif isinstance(machine := self.machines[device], Machine) and machine.online:
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
        elif what < 0.7 and isinstance(machine, Machine):
            machine.version += 7  # it was at another site before, or Kafka was begun anew
        elif what < 0.72:
            self.switch.turn(off=not self.switch.why_off())
        elif what < 0.75:
            self.flying ^= {"d0"} if self.desk.yields("d0") else set()
        else:
            self.now_s += self.random.choice([0.1, 1, 5, 60, 600])
            await self.look()

    async def end(self) -> None:
        """Everything works from now on."""
        self.calm, self.connected = True, True
        self.switch.turn(off=False)
        self.flying.clear()
        for machine in self.machines.values():
            machine.online = True
        self.desk.connected()
        writes = -1
        for n in range(int(2 * ASSERT_S / 100)):
            self.now_s += 100
            writes = self.drive.writes if n == ASSERT_S // 100 else writes
            await self.look()
            while self.down or self.up:
                self.arrive()
            await self.look()
        assert self.drive.writes == writes, "it is written to without need"


async def all_of(seed: int, folder: Path) -> Run:
    """A run to its end."""
    run = Run(seed, folder)
    for _ in range(120):
        await run.step()
    await run.end()
    return run


def test_a_seed_replays_its_run(tmp_path: Path) -> None:
    runs = [asyncio.run(all_of(seed, tmp_path)) for seed in range(8) for _ in range(2)]
    ends = [(run.random.random(), run.drive.had, run.old) for run in runs]
    assert ends[::2] == ends[1::2]


@pytest.mark.parametrize("part", range(4))
def test_no_seed_ends_with_anything_but_what_was_desired_last(part: int) -> None:
    told, written = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(part, RUNS, 4):
            run = asyncio.run(all_of(seed, Path(folder)))
            twins = Twins(run.sides())
            told, written = told + len(run.old), written + run.drive.writes
            for device, want in run.wanted.items():
                desired = twins[device].desired
                assert desired
                assert desired.values == want, f"seed {seed}: a change of {device} is lost"
                have = run.machines[device].values
                assert {n: have.get(n) for n in want} == want, f"seed {seed}: {device} has {have}, not {want}"
                assert twins[device].state is State.IN_SYNC, f"seed {seed}: {device}: {twins[device]}"
            assert not twins.different
    assert told > RUNS, "next to nothing was told"
    assert written > RUNS / 4, "next to nothing was written"
