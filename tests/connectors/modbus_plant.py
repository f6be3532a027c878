"""Modbus devices for tests: pymodbus servers whose devices can be told how to misbehave, and a proxy that records requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

Act = Callable[["Unit", int, int, int], Awaitable[int | None]]  # (unit, function, address, count) -> exception code


class Unit:
    """A device: holding and input registers share values, as do coils and discrete inputs."""

    def __init__(self, number: int, words: Mapping[int, int], bits: Mapping[int, bool] | None = None) -> None:
        self.number, self.words, self.bits = number, dict(words), dict(bits or {0: False})
        self.asked: list[tuple[int, int, int]] = []  # (function, address, count)
        self.act: Act | None = None

    def device(self) -> SimDevice:
        """As pymodbus wants it."""

        def words() -> list[SimData]:
            return [SimData(a, values=v, datatype=DataType.REGISTERS) for a, v in sorted(self.words.items())]

        def bits() -> list[SimData]:
            last = max(self.bits)
            values: Any = [self.bits.get(a, False) for a in range(last + 1)]
            return [SimData(0, values=values, datatype=DataType.BITS)]

        return SimDevice(self.number, (bits(), bits(), words(), words()), action=self._asked)

    async def _asked(
        self, function: int, start: int, address: int, count: int, now: list[int], new: object
    ) -> ExcCodes | None:
        self.asked.append((function, address, count))
        if self.act is not None and (code := await self.act(self, function, address, count)):
            return ExcCodes(code)
        if function in (3, 4):
            for a in range(address, address + count):
                if a in self.words:
                    now[a - start] = self.words[a]
        return None


@asynccontextmanager
async def served(*units: Unit, framer: FramerType = FramerType.SOCKET) -> AsyncIterator[int]:
    """The units behind one port of this machine; gives the port."""
    about = ModbusDeviceIdentification(info_name={"VendorName": "Acme", "ProductCode": "P1"})
    server = ModbusTcpServer([u.device() for u in units], framer=framer, identity=about, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        assert isinstance(server.transport, asyncio.Server)
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


@asynccontextmanager
async def wired(*units: Unit) -> AsyncIterator[str]:
    """The units on a serial line (a pair of pseudo-terminals joined by this process); gives the path of our end."""
    theirs, theirs_tty = os.openpty()
    ours, ours_tty = os.openpty()
    for fd in (theirs, theirs_tty, ours, ours_tty):
        tty.setraw(fd)
        os.set_blocking(fd, False)
    loop = asyncio.get_running_loop()

    def carry(source: int, target: int) -> None:
        with contextlib.suppress(OSError):
            os.write(target, os.read(source, 4096))

    loop.add_reader(theirs, carry, theirs, ours)
    loop.add_reader(ours, carry, ours, theirs)
    server = ModbusSerialServer([u.device() for u in units], port=os.ttyname(theirs_tty), parity="N", baudrate=19200)
    await server.serve_forever(background=True)
    try:
        yield os.ttyname(ours_tty)
    finally:
        await server.shutdown()
        for fd in (theirs, ours):
            loop.remove_reader(fd)
        for fd in (theirs, theirs_tty, ours, ours_tty):
            with contextlib.suppress(OSError):
                os.close(fd)


class Proxy:
    """Passes TCP through to `port`, records requests, and can hold answers back or break connections."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.requests: list[tuple[int, int, int, int]] = []  # (unit, function, address, count)
        self.delay_s = 0.0  # of answers
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def before(cls, port: int) -> AsyncIterator[Proxy]:
        """A proxy in front of a port."""
        proxy = cls(port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        down, up = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, up]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._asking(reader, up), self._answering(down, writer))

    async def _asking(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readexactly(6)
                body = await reader.readexactly(struct.unpack(">H", head[4:])[0])
                self.requests.append(struct.unpack(">BBHH", body))  # exactly the length of one that reads
                up.write(head + body)
        up.close()

    async def _answering(self, down: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await down.read(65_536):
                await asyncio.sleep(self.delay_s)
                writer.write(data)
        writer.close()
