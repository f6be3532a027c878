"""When devices that cannot tell their settings are read and written to, and what devices.toml may say of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.control import agenda
from connectors.control.agenda import Agenda
from connectors.control.commands import Command, Value
from connectors.control.devices import parse
from connectors.control.found import TEXT_CHARS_MAX, Found
from connectors.control.ledger import Event
from connectors.control.modbus import Modbus
from connectors.control.rounds import QUIET_S_MAX, Rounds
from connectors.control.switch import Switch
from connectors.control.telling import AGAIN_S_MAX
from connectors.control.twin import State, Twin, Twins
from connectors.control.twins import TwinDesk
from pipelines.clock import ManualClock
from pipelines.errors import ConfigError, NotConnected
from pipelines.runtime.account import Beside

MODBUS = """
[profiles.drive]
devices = ["d1"]
modbus = "tcp://10.0.0.7"
verbs.go.write = {to = "register", address = 1, value = 1}
[profiles.drive.settings]
a = {type = "float", min = 0, max = 9, write = {to = "register", address = 4, scale = 0.1, word = "u32"}}
b = {type = "bool", write = {to = "coil", address = 4}}
"""
OPCUA = """
[profiles.mixer]
devices = ["m*"]
opcua.server = "opc.tcp://h:4840"
[profiles.mixer.settings]
a = {type = "float", set = {node = "Objects/{device}/A", type = "Float"}}
"""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (', write = {to = "coil", address = 4}', "", "settings.b: a setting of a Modbus device, and no other, has a `write`"),
        ('type = "bool"', 'type = "text"', "settings.b.type: no register holds a text: write float, int or bool"),
        ('"coil", address = 4', '"coil", address = 4, arg = "b"', "leave out arg and value"),
        ('"coil", address = 4', '"coil", address = 4, value = 1', "leave out arg and value"),
        ('"coil", address = 4', '"coil", address = 4, read_back = false', "a setting is known by being read; write a verb"),
        ('"coil", address = 4', '"coil", address = 70000', "settings.b.write.address: write 0 to 65535"),
        ('"register", address = 4', '"register", address = 65535', "a.write.address: write 0 to 65534, for u32 takes two"),
        ('"coil", address = 4', '"coil", address = -1', "settings.b.write.address: write 0 to 65535"),
        ('"coil", address = 4', '"register", address = 5', "the setting 'a' writes to register 5, too: one would undo what"),
        ("address = 1, value", "address = 5, value", "settings.a: the verb 'go' writes to register 5, too: one would undo"),
        ("[profiles.drive.settings]", 'settings_every = "2h"\n[profiles.drive.settings]', "settings_every: write 1s to 1h"),
        (', set = {node = "Objects/{device}/A", type = "Float"}', "", "a setting of an OPC UA device, and no other, has a `set`"),
        ("{device}/A", "A", "settings.a.set.node: 'Objects/A' is one node, and the profile is for several devices"),
        ('type = "Float"', 'type = "String"', "settings.a.type: a float is nothing for a node of type String"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_document_is_told(old: str, new: str, why: str) -> None:
    text = (MODBUS + OPCUA).replace(old, new) if old in MODBUS else MODBUS + OPCUA.replace(old, new)
    parse(MODBUS + OPCUA, "devices.toml")
    assert text != MODBUS + OPCUA
    with pytest.raises(ConfigError) as told:
        parse(text, "devices.toml")
    assert why in str(told.value)


@pytest.mark.parametrize("write", ['"register", address = 65534', '"coil", address = 65535'])  # as u32: two, and one
def test_the_last_address_that_can_be_written_to_may_be(write: str) -> None:
    parse(MODBUS.replace('"register", address = 4', write), "devices.toml")


async def test_a_device_that_answers_with_too_little_counts_as_one_that_does_not() -> None:
    async def short(*_: object, **__: object) -> object:
        return SimpleNamespace(isError=lambda: False, registers=[1], bits=[])

    devices = parse(MODBUS, "devices.toml")
    modbus = Modbus(devices, ManualClock())
    link = modbus._link(devices.profiles["drive"])
    link.client = SimpleNamespace(read_holding_registers=short, read_coils=short, close=lambda: None)  # type: ignore[assignment]  # all that is asked
    with pytest.raises(NotConnected, match="it was asked for register 4, and answered with too little"):
        await modbus.read("d1", {})


def test_what_the_register_cannot_hold_is_refused_when_it_is_set() -> None:
    (drive,) = parse(MODBUS.replace("min = 0, max = 9, ", ""), "devices.toml").profiles.values()
    assert drive.settings_refusal({"a": 429_496_729.5, "b": None}) == ""
    assert "a=-1.0 is -10 as u32, and may be 0 to 4294967295" in drive.settings_refusal({"a": -1.0})


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 30)), max_size=80), st.integers(1, 4))
def test_turns_come_in_order_and_each_as_it_was_put_last(puts: list[tuple[int, int]], count: int) -> None:
    turns, obvious, now = Agenda(), dict[str, float](), 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agenda, "STALE_MAX", 3)
        for n, wait in puts:
            at = now + wait if wait >= 0 else float("inf")
            turns.put(f"d{n}", at)
            obvious[f"d{n}"] = at
            now += 1
            expected = sorted((at, name) for name, at in obvious.items() if at <= now)[:count]
            assert turns.due(now, count) == turns.due(now, count) == [name for _, name in expected]
            assert len(turns._heap) <= 2 * len(obvious) + 3


def test_a_setting_that_does_not_last_is_written_less_and_less_often() -> None:
    rounds, now, written = Rounds(seed=1), 0.0, list[float]()
    rounds.begin(["d1"], now)
    while now < 24 * 3600:
        for _ in rounds.due(now, 9):
            rounds.started("d1")
            if write := rounds.may_write("d1", 1, now):
                rounds.wrote("d1", 1, now)
                written.append(now)
            rounds.ended("d1", now, 60.0, agrees=write)  # it is as desired after a write, and otherwise a minute later
        now += 0.25
    gaps = [b - a for a, b in pairwise(written)]
    assert gaps[0] < 61
    assert min(gaps[-20:]) >= AGAIN_S_MAX / 2
    assert max(gaps) <= AGAIN_S_MAX + 61
    assert rounds.may_write("d1", 2, now)  # what is desired anew is written at once


def test_a_device_that_is_away_is_asked_once_a_minute_and_something_new_at_once() -> None:
    rounds, now, asked, words = Rounds(seed=1), 0.0, list[float](), 0
    rounds.begin(["d1"], now)
    while now < 3600:
        for _ in rounds.due(now, 9):
            rounds.started("d1")
            words += rounds.silent("d1", now)
            asked.append(now)
        now += 0.25
    assert QUIET_S_MAX / 2 <= asked[-1] - asked[-2] <= QUIET_S_MAX + 1
    assert words == 1
    rounds.changed("d1", now)
    assert rounds.due(now, 9) == ["d1"]


class Box:
    """A writer: one device that does what it is told, unless it is to do otherwise; `before` is called before each write."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {"a": 0.0, "b": False}
        self.writes: list[str] = []
        self.before: Callable[[], object] = lambda: None
        self.outcome: tuple[Event, str] = (Event.SUCCEED, "")
        self.away = False
        self.gate: asyncio.Event | None = None  # what a read waits for
        self.reads = 0
        self.unreadable: list[str] = []

    def reachable(self, device: str) -> bool:
        return True

    async def deliver(self, command: Command) -> tuple[Event, str]:
        raise AssertionError

    async def close(self) -> None: ...

    async def read(self, device: str, want: Mapping[str, Value]) -> Found:
        if self.away:
            raise NotConnected("it does not answer")
        self.reads += 1
        if self.gate:
            await self.gate.wait()
        found = Found()
        for name, value in self.values.items():
            if name in self.unreadable:
                found.fault(name, "it cannot be read")
            else:
                found.take(name, value, want, same=name in want and want[name] == value)
        return found

    async def write(self, device: str, setting: str, value: Value) -> tuple[Event, str]:
        self.writes.append(setting)
        if self.outcome[0] is Event.SUCCEED:
            self.values[setting] = value
        self.before()
        return self.outcome


class Bench:
    """A twin desk with that one device."""

    def __init__(self, folder: Path) -> None:
        self.box, self.clock, self.switch = Box(), ManualClock(10**18), Switch(folder)
        self.lines: list[Beside] = []
        self.flying = set[str]()
        self.desk = self.made()

    def made(self, document: str = MODBUS) -> TwinDesk:
        sides = [s for t in [self.twin] for s in (t.desired, t.reported) if s] if hasattr(self, "desk") else []
        return TwinDesk(
            "s", parse(document, "devices.toml"), sides, None, {"modbus": self.box}, self.switch, self.clock
        )

    @property
    def twin(self) -> Twin:
        twins: Twins = self.desk._twins
        return twins["d1"]

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[[Sequence[Beside]], Awaitable[None]]]:
        async def put(lines: Sequence[Beside]) -> None:
            self.lines += lines

        yield put

    def set(self, **args: Value) -> None:
        command = Command(id="c", device="d1", verb="twin", args=args, issuer="me", issued_at_ns=1, expires_at_ns=2)
        desired = self.desk.set(command, self.clock.now_ns())
        assert desired
        self.desk.record(desired)

    async def look(self, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        await self.desk._direct.begin(self.alone, self.flying.__contains__)
        await self.desk._direct.settled()
        await self.desk._keep(self.alone)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_what_differs_is_written_and_only_that_and_read_again(bench: Bench) -> None:
    await bench.look(10)
    assert (bench.twin.state, bench.twin.reported.values) == (State.REPORTED, {"a": 0.0, "b": False})  # type: ignore[union-attr]  # there is one
    bench.set(a=1.0, b=False)
    await bench.look(1)
    assert (bench.twin.state, bench.box.writes) == (State.IN_SYNC, ["a"])
    bench.box.values = {"a": 2.0, "b": True}  # somebody stands before it
    await bench.look(61)
    assert (bench.twin.state, bench.box.writes) == (State.IN_SYNC, ["a", "a", "b"])
    bench.desk = bench.made()  # another process knows all that from the record
    await bench.look(10)
    assert bench.box.writes == ["a", "a", "b"]


async def test_what_was_refused_is_said_and_stays_said(bench: Bench) -> None:
    bench.box.outcome = (Event.FAIL, "it answered the write with code 3")
    bench.set(a=1.0)
    await bench.look(10)
    assert (bench.twin.state, bench.twin.reported.detail) == (State.DIFFERS, "a: it answered the write with code 3")  # type: ignore[union-attr]
    lines = len(bench.lines)
    await bench.look(1)
    assert (len(bench.lines), bench.box.writes) == (lines, ["a"])  # too early, and nothing new
    await bench.look(6)
    assert bench.box.writes == ["a", "a"]


async def test_after_a_write_of_which_nobody_knows_the_rest_waits(bench: Bench) -> None:
    bench.box.outcome = (Event.LOSE, "it was written to and did not answer")
    bench.box.before = lambda: setattr(bench.box, "away", True)
    bench.set(a=1.0, b=True)
    await bench.look(10)
    assert (bench.twin.state, bench.box.writes) == (State.PENDING, ["a"])
    bench.box.away, bench.box.before, bench.box.outcome = False, lambda: None, (Event.SUCCEED, "")
    await bench.look(10)
    assert bench.twin.state is State.IN_SYNC


@pytest.mark.parametrize("first", ["switch", "command", "newer", "end"])
async def test_something_else_comes_before_the_next_write(bench: Bench, first: str) -> None:
    acts: dict[str, Callable[[], object]] = {
        "switch": lambda: bench.switch.turn(off=True),
        "command": lambda: bench.desk.yields("d1"),
        "newer": lambda: bench.set(a=1.0, b=False) if bench.twin.version == 1 else None,
        "end": lambda: setattr(bench.desk._direct, "_ending", True),
    }
    bench.box.before = acts[first]
    bench.set(a=1.0, b=True)
    await bench.look(10)
    assert bench.box.writes == ["a"]
    assert bench.desk.yields("d1")
    await bench.look(2)
    assert bench.box.writes == (["a", "b"] if first == "command" else ["a"])
    assert (bench.twin.state is State.IN_SYNC) == (first in ("command", "newer"))


async def test_a_device_has_one_pass_at_a_time_whatever_is_desired_meanwhile(bench: Bench) -> None:
    bench.box.gate = asyncio.Event()
    bench.set(a=1.0)
    for value in (2.0, 3.0):
        bench.clock.advance(2)
        await bench.desk._direct.begin(bench.alone, bench.flying.__contains__)
        await asyncio.sleep(0)
        bench.set(a=value)
    assert bench.box.reads == 1
    bench.box.gate.set()
    await bench.look()
    await bench.look(2)
    assert (bench.twin.state, bench.box.values["a"], bench.box.writes) == (State.IN_SYNC, 3.0, ["a"])


async def test_a_setting_that_cannot_be_read_does_not_make_control_read_more_often(bench: Bench) -> None:
    bench.set(a=1.0, b=True)
    bench.box.unreadable = ["a"]
    for _ in range(3600):
        await bench.look(1)
    assert 60 <= bench.box.reads <= 130  # every minute, as `settings_every` says, cut at random
    assert bench.box.writes == ["b"]
    assert (bench.twin.state, bench.twin.difference) == (State.DIFFERS, {"a": (1.0, None)})
    assert bench.twin.reported.detail == "a: it cannot be read"  # type: ignore[union-attr]  # there is one


async def test_a_long_text_is_not_kept_but_put_right(bench: Bench) -> None:
    bench.box.values["a"] = "x" * (TEXT_CHARS_MAX + 1)
    await bench.look(10)
    assert bench.twin.reported.values == {"b": False}  # type: ignore[union-attr]  # there is one
    assert bench.twin.reported.detail == "a: its text has 1001 characters, and may have 1000"  # type: ignore[union-attr]
    bench.set(a=1.0)
    await bench.look(1)
    assert (bench.twin.state, bench.box.writes) == (State.IN_SYNC, ["a"])
    assert max(len(line.value) for line in bench.lines) < TEXT_CHARS_MAX


async def test_what_is_not_allowed_any_more_is_not_written_but_the_settings_are_read(bench: Bench) -> None:
    bench.set(a=5.0)
    bench.desk = bench.made(MODBUS.replace("max = 9", "max = 4"))
    await bench.look(10)
    assert (bench.twin.state, bench.box.writes) == (State.PENDING, [])
    assert bench.twin.reported.values == {"a": 0.0, "b": False}  # type: ignore[union-attr]  # there is one
    said = b"".join(line.value for line in bench.lines)
    assert b"BLOCKED" in said
    assert b"a: 5 is more than 4: set it anew or unset it" in said


async def test_a_pass_that_can_put_nothing_on_record_writes_nothing_and_ends_the_service(bench: Bench) -> None:
    bench.set(a=1.0)

    @asynccontextmanager
    async def fenced() -> AsyncIterator[Any]:
        async def put(lines: Sequence[Beside]) -> None:
            raise NotImplementedError("another control service took over")

        yield put

    bench.clock.advance(10)
    await bench.desk._direct.begin(fenced, bench.flying.__contains__)
    await asyncio.sleep(0)
    with pytest.raises(NotImplementedError, match="took over"):
        await bench.desk.run(bench.alone, bench.flying.__contains__, asyncio.Event())
    assert bench.box.writes == []
