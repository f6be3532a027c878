"""Readings from Modbus devices, by polling: TCP, RTU over TCP and serial lines. A description only.

`connectors.modbus.reader` acts on it. Nothing is ever written: `connectors.modbus.wire` knows no request but the four that read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from connectors.columns import KEY_CHARS_MAX
from connectors.conditions import Condition
from connectors.conditions import check as check_conditions
from connectors.modbus.address import Address, Endpoint, parse
from connectors.modbus.registers import Poll, Register, check, coil, discrete_input, holding, input_register, poll
from connectors.modbus.wire import WORDS_MAX
from connectors.options import durations
from pipelines.errors import PlanError
from pipelines.schema import Schema
from pipelines.topics import named_after
from pipelines.units import duration_ns, show_duration

__all__ = ["ModbusSource", "Poll", "Register", "coil", "discrete_input", "holding", "input_register", "poll", "source"]

S = TypeVar("S", bound=Schema)
DEVICES_MAX = 10_000


@dataclass(frozen=True)
class ModbusSource(Generic[S]):
    """See `source`."""

    reader: ClassVar[str] = "connectors.modbus.reader:ModbusReader"
    speed: ClassVar[float] = 1.0

    schema: type[S]
    stream: str
    devices: tuple[tuple[str, Address], ...]
    polls: tuple[Poll, ...]
    timeout: str
    timeouts: tuple[tuple[str, str], ...]
    gap_max: int
    silence: str
    conditions: tuple[Condition, ...]
    stale: str | None

    @cached_property
    def fastest(self) -> int:
        """The number of the poll that is done most often, the first of those: each time it gives a row."""
        every = [duration_ns(p.every) for p in self.polls]
        return every.index(min(every))

    @property
    def ports(self) -> tuple[str, ...]:
        """The serial ports that it needs."""
        return tuple(dict.fromkeys(a.endpoint.path for _, a in self.devices if a.endpoint.path))

    def describe(self) -> dict[str, str]:
        """See `Source.describe`."""
        about = {"modbus": ", ".join(f"{name}={a.endpoint} unit {a.unit}" for name, a in self.devices)}
        return about | {f"every {p.every}": p.text() for p in self.polls}


def source(
    schema: type[S],
    *,
    devices: Mapping[str, str],
    registers: Mapping[Any, Register] | Sequence[Poll],
    every: str = "1s",
    offset: str = "0s",
    jitter: str = "0s",
    timeout: str = "1s",
    timeouts: Mapping[str, str] | None = None,
    gap_max: int = 10,
    stream: str | None = None,
    silence: str | None = None,
    conditions: Sequence[Condition] = (),
    stale: str | None = None,
) -> ModbusSource[S]:
    """Readings of `schema` from devices that all have the same registers.

    `devices`: address by name: 'modbus://host:502?unit=1', 'modbus+rtu://host:4001?unit=3' (RTU frames over TCP),
    'modbus+serial:///dev/ttyUSB0?baud=19200&parity=E&stop=1&unit=7'. Those that share host and port, or a serial port, share one
    connection and are asked one after the other.
    `registers`: a register for each column; with `every`, `offset` and `jitter` of `poll`. Or a list of `poll(…)`, if some
    columns are asked for less often: the fastest makes the rows, the others' columns have their last value, for up to two of
    their own intervals.
    `timeout`: how long an answer may take; `timeouts`: that of single devices. `gap_max`: so many registers that nobody wants are
    read through, where that saves a request.
    A reading's time is the gateway's, in the middle between the poll's first request and its last answer.
    Every failed poll gives a row of quality BAD; a row of which some values could not be read is UNCERTAIN if they are float (and
    the schema has a Quality column) or have `absent=`, else BAD.
    `stale`: a device that gives nothing for so long is marked as stale; by default two polls. `silence`: see `mqtt.source`; by
    default the time of two polls, at least 2 s.
    `conditions`: what is reported of the readings. `stream`: last part of the Kafka topic's name; by default the schema's name,
    kebab-case.
    """
    polls = (
        (poll(every, registers, offset=offset, jitter=jitter),) if isinstance(registers, Mapping) else tuple(registers)
    )
    if not polls or not all(isinstance(p, Poll) for p in polls):
        raise PlanError(
            "modbus registers: give a mapping {column: register}, or a list of poll(every, {column: register})"
        )
    if not isinstance(registers, Mapping) and (every, offset, jitter) != ("1s", "0s", "0s"):
        raise PlanError(
            "modbus every, offset, jitter: with several polls each has its own: poll('1s', {…}, offset='200ms')"
        )
    check(schema.sent(), polls)
    if not 0 <= gap_max < WORDS_MAX:
        raise PlanError(f"modbus gap_max={gap_max}: give a number of registers from 0 to {WORDS_MAX - 1}")
    twice = 2 * min(duration_ns(p.every) for p in polls)
    stale = stale or show_duration(twice)
    silence = silence or show_duration(max(twice, 2 * 10**9))
    own = dict(timeouts or {})
    durations(
        "modbus", timeout=timeout, silence=silence, stale=stale, **{f"timeouts of {n}": t for n, t in own.items()}
    )
    if strange := [name for name in own if name not in devices]:
        raise PlanError(f"modbus timeouts: {strange[0]!r} is none of the devices")
    name = stream or named_after(schema.__name__)
    return ModbusSource(
        schema, name, _devices(devices), polls, timeout, tuple(own.items()), gap_max, silence,
        check_conditions("modbus", schema, conditions), stale,
    )  # fmt: skip


def _devices(devices: Mapping[str, str]) -> tuple[tuple[str, Address], ...]:
    if not 1 <= len(devices) <= DEVICES_MAX:
        raise PlanError(f"modbus devices: {len(devices)} are given; a source has 1 to {DEVICES_MAX}")
    known: dict[Address, str] = {}
    ports: dict[str, Endpoint] = {}
    for name, text in devices.items():
        if not name or len(name) > KEY_CHARS_MAX:
            raise PlanError(f"modbus devices: {name!r} is no name: it has 1 to {KEY_CHARS_MAX} characters")
        address = parse(text)
        if address in known:
            raise PlanError(f"modbus devices: {name} and {known[address]} are the same unit of {address.endpoint}")
        known[address] = name
        same = ports.setdefault(str(address.endpoint), address.endpoint)
        if same != address.endpoint:
            raise PlanError(
                f"modbus devices: {name}: {address.endpoint} is given with other settings before: a line has one"
            )
    return tuple((name, address) for address, name in known.items())
