"""A way to a site's own broker for people, who reach its engine and not its network: through a program in its container.

No port is opened anywhere, neither at the site nor here. An event loop hands Kafka's client, where that connects to the broker by
its name, one end of a pair of sockets; what comes out of the other is carried to a program that the engine starts beside the
broker, one for each connection, and that carries it to the broker's port. TLS is between the client and the broker: the
certificate is checked for the broker's name, and keys stay on this machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from containers.attached import PIECE_BYTES_MAX, Attached
from pipelines.errors import SitestreamError

CONNECTIONS_MAX = 8  # a client has two or three; each is a process in the broker's container, of some 10 MB
IDLE_S_MAX = (
    900  # without a byte from here a program ends: longer than the 9 minutes after which clients close idle connections
)
_RELAY = """\
import os, signal, socket, sys, threading
def back():
    try:
        while data := broker.recv(65536):
            while data:
                data = data[os.write(1, data):]
    finally:
        os._exit(0)
signal.alarm(IDLE)
data = os.read(0, 65536)
if data:
    try:
        broker = socket.create_connection(("127.0.0.1", PORT), 10)
    except OSError as e:
        sys.exit(e.strerror or str(e))
    broker.settimeout(None)
    threading.Thread(target=back, daemon=True).start()
while data:
    signal.alarm(IDLE)
    broker.sendall(data)
    data = os.read(0, 65536)
os._exit(0)
"""


def relay(port: int) -> tuple[str, ...]:
    """What is run in a container: carries stdin to a port of it and what comes back to stdout, and ends as soon as either ends.

    Kafka's protocol has no half-closed connections: who has ended wants no more answers. If the line to it dies and nobody can
    tell it so, it ends after `IDLE_S_MAX`.
    """
    text = _RELAY.replace("PORT", str(port)).replace("IDLE", str(IDLE_S_MAX))
    return ("python3", "-I", "-S", "-c", text)


class Tunnel(asyncio.SelectorEventLoop):
    """An event loop whose connections to `host`:`port` lead through programs that `attach` starts. Others are as ever.

    `trouble`: why the last one led nowhere, if the other side said so.
    """

    def __init__(self, host: str, port: int, attach: Callable[[], Any]) -> None:
        super().__init__()
        self._address, self._attach, self.trouble = (host, port), attach, ""
        self._open: set[asyncio.Task[None]] = set()

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """As that of every loop."""
        if (host, port) != self._address:
            return await super().create_connection(protocol_factory, host, port, **options)
        ours = self._connected()
        try:
            return await super().create_connection(protocol_factory, sock=ours, server_hostname=host, **options)
        except BaseException:
            ours.close()
            raise

    def _connected(self) -> socket.socket:
        """Our end of a new connection. Waits for the engine: nobody else in this loop has anything to do meanwhile."""
        if len(self._open) >= CONNECTIONS_MAX:
            raise ConnectionRefusedError(f"{CONNECTIONS_MAX} connections are open already")
        try:
            program = Attached(self._attach())
        except SitestreamError as e:
            self.trouble = str(e)
            raise ConnectionRefusedError(self.trouble) from e
        ours, far = socket.socketpair()
        for end in (ours, far):
            end.setblocking(False)
        carried = self.create_task(self._carry(program, far))
        self._open.add(carried)
        carried.add_done_callback(self._open.discard)
        return ours

    async def _carry(self, program: Attached, far: socket.socket) -> None:
        ways = [self.create_task(self._there(program, far)), self.create_task(self._back(program, far))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            try:
                await asyncio.gather(*ways, return_exceptions=True)
            finally:  # the loop may be ending just now, and cancel us once more
                program.close()
                far.close()

    async def _there(self, program: Attached, far: socket.socket) -> None:
        while piece := await self.sock_recv(far, PIECE_BYTES_MAX):
            await program.write(piece)

    async def _back(self, program: Attached, far: socket.socket) -> None:
        silent = "it closed the connection"
        while piece := await program.read():
            self.trouble = silent = ""
            await self.sock_sendall(far, piece)
        self.trouble = program.said.strip() or silent
