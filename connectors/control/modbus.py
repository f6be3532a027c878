"""Writes to Modbus TCP devices (function codes 5, 6 and 16), reads back what it wrote, and reads settings (1, 3).

A device is asked once before it is written to, so that one that does not answer certainly got
nothing. The client repeats nothing by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from connectors.backoff import Backoff
from connectors.control.commands import Command, Value
from connectors.control.devices import Devices, Profile, Write
from connectors.control.found import Found
from connectors.control.ledger import Event
from pipelines.clock import Clock
from pipelines.errors import NotConnected
from pipelines.units import duration_s

REQUEST_S_MAX = 1.0
TURN_S_MAX = 2.0  # a gateway serves one request at a time
LOOK_AGAIN_S = 0.1
_NOBODY = {10, 11}  # of a gateway: the device behind it does not answer
_PERHAPS_DONE = {5, 6, 11}  # 'acknowledge', 'busy', 'gateway target failed to respond': the device may do it yet
Outcome = tuple[Event, str]


class Modbus:
    """The links to the Modbus devices of a document, made when they are needed."""

    def __init__(self, devices: Devices, clock: Clock) -> None:
        self._devices, self._clock = devices, clock
        self._links: dict[str, _Link] = {}

    def reachable(self, device: str) -> bool:
        """Whether the link to a device is up; if not, it is tried now and then from now on."""
        return self._link(self._profile(device)).up()

    async def deliver(self, command: Command) -> Outcome:
        """Carry out a command: SUCCEED, FAIL, RETURN (nothing was written) or LOSE (nobody knows), and the detail."""
        profile = self._profile(command.device)
        write = profile.verbs[command.verb].write
        assert write is not None  # the document is checked
        try:
            async with self._link(profile).mine() as link:
                if self._clock.now_ns() >= command.expires_at_ns:
                    return Event.RETURN, "it expired before it was written"
                return await _carry_out(link, profile.unit, write, write.raw(command.args))
        except NotConnected as e:
            return Event.RETURN, str(e)

    async def read(self, device: str, want: Mapping[str, Value]) -> Found:
        """The settings of a device; see `Writer.read`."""
        profile, found = self._profile(device), Found()
        async with self._link(profile).mine() as link:
            for name, write in profile.writes.items():
                try:
                    answer = await _read(link.client, profile.unit, write)
                except (ModbusException, OSError, TimeoutError) as e:
                    link.down()
                    raise NotConnected(f"it does not answer: {e}") from e
                if answer.isError() and answer.exception_code in _NOBODY:
                    raise NotConnected(f"its gateway does not reach it (code {answer.exception_code})")
                if answer.isError():
                    found.fault(name, f"{write.to} {write.address} cannot be read (code {answer.exception_code})")
                else:
                    number = _number(answer, write)
                    same = name in want and number == write.raw({name: want[name]})
                    found.take(name, write.value_of(number, profile.settings[name].type), want, same=same)
        return found

    async def write(self, device: str, setting: str, value: Value) -> Outcome:
        """Write a setting; see `Writer.write`."""
        profile = self._profile(device)
        write = profile.writes[setting]
        try:
            async with self._link(profile).mine() as link:
                return await _carry_out(link, profile.unit, write, write.raw({setting: value}))
        except NotConnected as e:
            return Event.RETURN, str(e)

    async def close(self) -> None:
        """Close all links."""
        for link in self._links.values():
            await link.close()

    def _profile(self, device: str) -> Profile:
        profile = self._devices.profile_of(device)
        assert profile is not None  # the guard lets no other through
        return profile

    def _link(self, profile: Profile) -> _Link:
        if profile.modbus not in self._links:
            self._links[profile.modbus] = _Link(profile.modbus, self._clock)
        return self._links[profile.modbus]


class _Link:
    def __init__(self, url: str, clock: Clock) -> None:
        at = urlsplit(url)
        self._turn = asyncio.Lock()
        self._clock, self._backoff, self._next_s = clock, Backoff(), 0.0
        self.client = AsyncModbusTcpClient(
            str(at.hostname), port=at.port or 502, timeout=REQUEST_S_MAX, retries=0, reconnect_delay=0
        )
        self._connecting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[_Link]:
        """While no other device is served at this address. `NotConnected` if that takes too long."""
        try:
            async with asyncio.timeout(TURN_S_MAX):
                await self._turn.acquire()
        except TimeoutError as e:
            raise NotConnected("others are served by this address") from e
        try:
            yield self
        finally:
            self._turn.release()

    def up(self) -> bool:
        if self.client.connected:
            return True
        if self._connecting is None and self._clock.monotonic_s() >= self._next_s:
            self._connecting = asyncio.create_task(self._connect())
        return False

    async def _connect(self) -> None:
        try:
            await self.client.connect()
        finally:
            self._connecting = None
        if self.client.connected:
            self._backoff.reset()
        else:
            self.down()

    def down(self) -> None:
        """It does not answer: another try after a while."""
        self.client.close()
        self._next_s = self._clock.monotonic_s() + self._backoff.delay_s()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self.client.close()


async def _carry_out(link: _Link, unit: int, write: Write, number: int) -> Outcome:
    try:
        before = await _read(link.client, unit, write)
    except (ModbusException, OSError, TimeoutError) as e:
        link.down()
        return Event.RETURN, f"it does not answer, and was not written to: {e}"
    if before.isError() and write.read_back:
        return Event.FAIL, f"{write.to} {write.address} cannot be read back (code {before.exception_code}): not written"
    try:
        answer = await _write(link.client, unit, write, number)
    except (ModbusException, OSError, TimeoutError) as e:
        link.down()
        return Event.LOSE, f"it was written to and did not answer: {e}"
    if answer.isError():
        code = answer.exception_code
        return Event.LOSE if code in _PERHAPS_DONE else Event.FAIL, f"it answered the write with code {code}"
    return await _confirm(link, unit, write, number) if write.read_back else (Event.SUCCEED, f"{number} is written")


async def _confirm(link: _Link, unit: int, write: Write, number: int) -> Outcome:
    """Read until the value is there or the time is over."""
    found, at = None, f"{write.to} {write.address}"
    try:
        async with asyncio.timeout(duration_s(write.within)):
            while found != number:
                answer = await _read(link.client, unit, write)
                found = None if answer.isError() else _number(answer, write)
                if found != number:
                    await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        if found is not None:
            return Event.FAIL, f"{number} was written, and {at} reads {found} after {write.within}"
        return Event.LOSE, f"{number} was written, and {at} could not be read for {write.within}"
    except (ModbusException, OSError) as e:
        link.down()
        return Event.LOSE, f"{number} was written, and {at} could not be read: {e}"
    return Event.SUCCEED, f"{at} reads {number}"


async def _read(client: Any, unit: int, write: Write) -> Any:
    ask = client.read_coils if write.to == "coil" else client.read_holding_registers
    answer = await ask(write.address, count=write.count, device_id=unit)
    if not answer.isError() and len(answer.bits if write.to == "coil" else answer.registers) < write.count:
        raise ModbusException(f"it was asked for {write.to} {write.address}, and answered with too little")
    return answer


async def _write(client: Any, unit: int, write: Write, number: int) -> Any:
    if write.to == "coil":
        return await client.write_coil(write.address, bool(number), device_id=unit)
    raw = (number % 2 ** (16 * write.count)).to_bytes(2 * write.count, "big")
    words = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
    if len(words) == 1:
        return await client.write_register(write.address, words[0], device_id=unit)
    return await client.write_registers(write.address, words, device_id=unit)


def _number(answer: Any, write: Write) -> int:
    if write.to == "coil":
        return int(answer.bits[0])
    raw = b"".join(word.to_bytes(2, "big") for word in answer.registers)
    return int.from_bytes(raw, "big", signed=write.word.startswith("i"))
