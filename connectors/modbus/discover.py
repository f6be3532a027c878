"""Looks for Modbus units and their registers, slowly and by reading only.

For the operator's machine: `collect` does not have it.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.modbus import wire
from connectors.modbus.address import PORT, Endpoint
from connectors.modbus.link import Link, Silent
from connectors.modbus.registers import FUNCTIONS, Table
from pipelines.clock import Clock
from pipelines.errors import ConfigError, NotConnected

HOSTS_MAX = 256
ADDRESSES_MAX = 10_000
STEP = 10  # registers in a request; what is refused is looked at one by one
COLUMNS_MAX = 40
IDENTITY = bytes.fromhex("2b0e0100")  # function 43/14: read device identification, basic
IDENTITY_NAMES = ("vendor", "product", "revision")


@dataclass(slots=True)
class Unit:
    """A unit that answered: who it says it is, and the values that were read."""

    endpoint: Endpoint
    number: int
    identity: str = ""
    values: dict[Table, dict[int, int]] = field(default_factory=dict)
    stopped: str = ""  # why not all was looked at


def endpoints(text: str) -> list[Endpoint]:
    """HOST, HOST:PORT or a network such as 10.0.0.0/28; `ConfigError` if it is neither or has more than `HOSTS_MAX` hosts."""
    host, colon, port = text.rpartition(":")
    if not colon or "/" in port or text.count(":") > 1:
        host, port = text, str(PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{text!r} is no address: write HOST, HOST:PORT, or a network such as 10.0.0.0/28")
    if "/" not in host:
        return [Endpoint("tcp", host, int(port))]
    try:
        network = ipaddress.ip_network(host)
    except ValueError as e:
        raise ConfigError(f"{text!r} is no network ({e}): write one such as 10.0.0.0/28") from e
    if network.num_addresses > HOSTS_MAX:
        raise ConfigError(
            f"{text!r} has {network.num_addresses:,} hosts: at most {HOSTS_MAX} are asked, so as to disturb nobody"
        )
    return [Endpoint("tcp", str(h), int(port)) for h in network.hosts()]


def numbers(text: str, most: int) -> range:
    """The range of '1-10' or '7'; `ConfigError` if it is none, or goes beyond `most`."""
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit() and int(first) <= int(last or first) <= most):
        raise ConfigError(f"{text!r} is no range: write one such as 1-10, up to {most}")
    return range(int(first), int(last or first) + 1)


async def look(
    endpoint: Endpoint, units: Iterable[int], addresses: range, clock: Clock, *, timeout_s: float, pause_s: float
) -> list[Unit]:
    """The units that answer at an address and what they have, asking once in `pause_s`. `NotConnected` if nothing is there."""
    if len(addresses) > ADDRESSES_MAX:
        raise ConfigError(
            f"{len(addresses):,} registers are too many: at most {ADDRESSES_MAX:,} of each kind are looked at"
        )
    found = []
    for number in units:
        asker = _Asker(await Link.open(endpoint, clock), number, clock, timeout_s, pause_s)
        try:
            if (unit := await _unit(asker, endpoint, addresses)) is not None:
                found.append(unit)
        finally:
            asker.link.close()
    return found


@dataclass(frozen=True, slots=True)
class _Asker:
    link: Link
    unit: int
    clock: Clock
    timeout_s: float
    pause_s: float

    async def pdu(self, pdu: bytes) -> bytes:
        await self.clock.sleep(self.pause_s)
        return await self.link.ask(self.unit, pdu, self.timeout_s)

    async def words(self, function: int, start: int, count: int) -> wire.Words:
        return wire.answer(function, count, await self.pdu(wire.request(function, start, count)))


async def _unit(asker: _Asker, endpoint: Endpoint, addresses: range) -> Unit | None:
    try:
        await asker.words(FUNCTIONS["holding"], addresses[0], 1)
    except wire.Refused as e:
        if e.code in (wire.NO_PATH, wire.NO_TARGET):
            return None
    except (Silent, wire.Malformed, NotConnected):
        return None
    unit = Unit(endpoint, asker.unit)
    try:
        unit.identity = identity(await asker.pdu(IDENTITY))
        for table in FUNCTIONS:
            unit.values[table] = {}
            await _table(asker, table, addresses, unit.values[table])
    except Silent:
        unit.stopped = f"it did not answer within {asker.timeout_s:g} s"
    except (wire.Refused, wire.Malformed, NotConnected) as e:
        unit.stopped = str(e)
    return unit


async def _table(asker: _Asker, table: Table, addresses: range, into: dict[int, int]) -> None:
    """Read what is there; what is refused is looked at one by one. `Refused` for anything but an illegal function or address."""
    function = FUNCTIONS[table]
    for start in range(addresses.start, addresses.stop, STEP):
        count = min(STEP, addresses.stop - start)
        code = await _block(asker, function, start, count, into)
        if code == wire.ILLEGAL_FUNCTION:
            return
        if code:
            for address in range(start, start + count):
                await _block(asker, function, address, 1, into)


async def _block(asker: _Asker, function: int, start: int, count: int, into: dict[int, int]) -> int:
    """0, or the code with which it was refused."""
    try:
        values = await asker.words(function, start, count)
    except wire.Refused as e:
        if e.code not in (wire.ILLEGAL_FUNCTION, wire.ILLEGAL_ADDRESS, wire.ILLEGAL_VALUE):
            raise
        return e.code
    into.update(zip(range(start, start + count), values.tolist(), strict=True))
    return 0


def identity(pdu: bytes) -> str:
    """Vendor, product and revision of an answer to `IDENTITY`; '' if it has none."""
    if pdu[:2] != IDENTITY[:2] or len(pdu) < 7:
        return ""
    texts, at = {}, 7
    for _ in range(pdu[6]):
        if at + 2 > len(pdu):
            break
        number, length = pdu[at], pdu[at + 1]
        texts[number] = "".join(c for c in pdu[at + 2 : at + 2 + length].decode("ascii", "replace") if c.isprintable())
        at += 2 + length
    return ", ".join(f"{name} {texts[n]}" for n, name in enumerate(IDENTITY_NAMES) if texts.get(n))


def pipeline_file(units: Sequence[Unit]) -> str:
    """A pipeline file to begin with: a source for all units that have the same registers, with the values seen as comments."""
    alike: dict[tuple[tuple[Table, tuple[int, ...]], ...], list[Unit]] = {}
    for unit in units:
        key: list[tuple[Table, tuple[int, ...]]] = [(t, tuple(v)) for t, v in unit.values.items() if v]
        if key:
            alike.setdefault(tuple(key), []).append(unit)
    parts = [
        '"""Found by `pipeline devices discover modbus`: give columns names, types and units, remove what means nothing."""\n\n'
        "from connectors import modbus\n"
        "from connectors.modbus import coil, discrete_input, holding, input_register\n"
        "from pipelines import Col, Key, Pipeline, Schema\n\n"
        'found = Pipeline("found")\n'
    ]
    parts += [_group(n, group) for n, group in enumerate(alike.values(), 1)]
    return "".join(parts)


def _group(number: int, units: Sequence[Unit]) -> str:
    name, first = f"Device{number}", units[0]
    seen = [(t, a, v) for t, values in first.values.items() for a, v in values.items()]
    columns = [f"    {t}_{a} = Col[{_kind(t)}]()  # {_seen(first.values[t], a)}\n" for t, a, _ in seen[:COLUMNS_MAX]]
    more = [f"    # {t} {a}: {_seen(first.values[t], a)}\n" for t, a, _ in seen[COLUMNS_MAX:]]
    registers = [f"        {name}.{t}_{a}: {t}({a}),\n" for t, a, _ in seen[:COLUMNS_MAX]]
    devices = [
        f'        "device-{u.endpoint.host}-{u.number}": "modbus://{u.endpoint}?unit={u.number}",{_about(u)}\n'
        for u in units
    ]
    return (
        f"\n\nclass {name}(Schema):\n    device = Key[str]()\n{''.join(columns + more)}\n\n"
        f"found.read(modbus.source(\n    {name},\n    devices={{\n{''.join(devices)}    }},\n"
        f"    registers={{\n{''.join(registers)}    }},\n))\n"
    )


def _about(unit: Unit) -> str:
    text = "; ".join(t for t in (unit.identity, unit.stopped and f"not all was looked at: {unit.stopped}") if t)
    return f"  # {text}" if text else ""


def _kind(table: Table) -> str:
    return "bool" if table in ("coil", "discrete_input") else "float"


def _seen(values: Mapping[int, int], address: int) -> str:
    """The value, and what it would be with the next register."""
    value, after = values[address], values.get(address + 1)
    if after is None or value < 2:
        return str(value)
    (number,) = struct.unpack(">f", struct.pack(">HH", value, after))
    sensible = number == number and 1e-4 < abs(number) < 1e7
    return f"{value}, or {number:.6g} as float32" if sensible else str(value)
