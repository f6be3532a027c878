"""One connection to a device, a gateway or a serial line: a question, and its answer or why there is none. Never used twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable

from connectors.modbus import wire
from connectors.modbus.address import Endpoint
from pipelines.clock import Clock
from pipelines.errors import ConfigError, NotConnected

CONNECT_S_MAX = 5.0
QUIET_S = 0.1  # after a timeout an RTU line must be silent for so long: an answer that comes too late must not meet a question
QUIET_S_MAX = 1.0  # and is asked again after this, silent or not
CHARACTER_BITS = 11
GAP_CHARACTERS, GAP_S_MIN = 3.5, 0.00175  # between two frames on a serial line


class Silent(Exception):
    """No answer in time."""


class Link(asyncio.Protocol):
    """See the module. `NotConnected` means that this link is over."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._framer: wire.Framer = wire.TcpFramer() if endpoint.kind == "tcp" else wire.RtuFramer()
        self._answer: asyncio.Future[bytes] | None = None
        self._error: NotConnected | None = None
        self._send: Callable[[bytes], object] = lambda _: None
        self._close: Callable[[], None] = lambda: None
        self._heard_s = 0.0
        self._gap_s = 0.0

    @property
    def stale(self) -> int:
        """Answers that came too late, or to no question."""
        return self._framer.stale

    @classmethod
    async def open(cls, endpoint: Endpoint, clock: Clock) -> Link:
        """Connect; `NotConnected` says why that failed."""
        link = cls(endpoint, clock)
        try:
            if endpoint.kind == "serial":
                await link._open_serial()
            else:
                await link._open_tcp()
        except TimeoutError:
            raise NotConnected(f"Modbus at {endpoint} does not answer: is it running, is it reachable?") from None
        except PermissionError as e:
            raise NotConnected(
                f"Modbus at {endpoint} may not be opened ({e}): give it to the service: `devices` in the site file"
            ) from e
        except (OSError, termios.error) as e:
            raise NotConnected(f"Modbus at {endpoint} cannot be reached ({e}): start it, or correct its address") from e
        return link

    async def _open_tcp(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S_MAX):
            transport, _ = await loop.create_connection(lambda: self, self._endpoint.host, self._endpoint.port)
        self._send, self._close = transport.write, transport.abort

    async def _open_serial(self) -> None:
        fd = os.open(self._endpoint.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            set_line(fd, self._endpoint)
            stream = os.fdopen(fd, "rb", buffering=0)
        except BaseException:
            os.close(fd)
            raise
        self._gap_s = max(GAP_S_MIN, GAP_CHARACTERS * CHARACTER_BITS / self._endpoint.baud)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, stream)

        def send(data: bytes) -> None:
            try:
                os.write(fd, data)  # a question is far smaller than the port's buffer
            except OSError as e:
                self._break(NotConnected(f"Modbus at {self._endpoint}: {e}"))

        self._send, self._close = send, transport.close

    async def ask(self, unit: int, pdu: bytes, timeout_s: float) -> bytes:
        """The PDU of the answer; `Silent` if none comes in time. One question at a time."""
        self._check()
        if (wait_s := self._heard_s + self._gap_s - self._clock.monotonic_s()) > 0 and self._gap_s:
            await asyncio.sleep(wait_s)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            self._send(self._framer.question(unit, pdu))
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise Silent from None
        finally:
            self._answer = None

    async def quiet(self) -> None:
        """Wait until what comes too late has come: after a timeout, where answers have no number."""
        if self._endpoint.kind == "tcp":
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S_MAX):
                while True:
                    heard_s = self._heard_s
                    await asyncio.sleep(QUIET_S)
                    if self._heard_s == heard_s:
                        return

    def close(self) -> None:
        """Close it; never raises."""
        self._break(NotConnected("the Modbus link was closed"))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_s = self._clock.monotonic_s()
        try:
            found = self._framer.feed(data)
        except wire.OutOfStep as e:
            self._break(NotConnected(f"Modbus at {self._endpoint}: {e}: is this another protocol?"))
            return
        if found is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._break(NotConnected(f"Modbus at {self._endpoint} closed the connection ({exc or 'without a reason'})"))

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _break(self, error: NotConnected) -> None:
        self._error = self._error or error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._error)
        self._close()


def set_line(fd: int, endpoint: Endpoint) -> None:
    """Set a serial port: raw bytes, eight bits, the endpoint's speed, parity and stop bits.

    `ConfigError` if it has no such speed.
    """
    speed = getattr(termios, f"B{endpoint.baud}", None)
    if speed is None:
        raise ConfigError(f"{endpoint}: this machine's serial ports have no speed of {endpoint.baud}")
    parity = {"N": 0, "E": termios.PARENB, "O": termios.PARENB | termios.PARODD}[endpoint.parity]
    control = termios.CS8 | termios.CREAD | termios.CLOCAL | parity | (termios.CSTOPB if endpoint.stop == 2 else 0)
    characters = [b"\0"] * 32
    characters[termios.VMIN] = b"\1"
    termios.tcsetattr(fd, termios.TCSANOW, [0, 0, control, 0, speed, speed, characters])
    termios.tcflush(fd, termios.TCIOFLUSH)
