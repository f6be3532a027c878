"""Between a client and an OPC UA server: writes down the requests that pass, breaks the line, and puts garbage on it."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from asyncua import ua

_NAMES = {
    number: name.removesuffix("Request_Encoding_DefaultBinary")
    for name, number in vars(ua.ObjectIds).items()
    if name.endswith("Request_Encoding_DefaultBinary")
}


class Requests:
    """The names of requests in a stream of bytes from a client that does not encrypt."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More bytes. Fails if they are none of OPC UA."""
        self._rest += data
        while len(self._rest) >= 8 and len(self._rest) >= (size := int.from_bytes(self._rest[4:8], "little")):
            chunk, self._rest = self._rest[:size], self._rest[size:]
            self.names.append(self._name(chunk))

    @staticmethod
    def _name(chunk: bytes) -> str:
        kind, end = chunk[:3], chunk[3:4]
        if kind == b"HEL":
            return "Hello"
        assert end == b"F", "a request in several chunks: only its first says what it is"
        at = 12
        if kind == b"OPN":  # asymmetric header: three texts
            for _ in range(3):
                at += 4 + max(int.from_bytes(chunk[at : at + 4], "little", signed=True), 0)
        else:
            assert kind in (b"MSG", b"CLO"), kind
            at += 4
        body = chunk[at + 8 :]
        assert body[:2] == b"\1\0", "a NodeId of four bytes in namespace 0"
        return _NAMES[int.from_bytes(body[2:4], "little")]


class Proxy:
    """Listens on `port`; use it as an asynchronous context."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.requests: list[str] = []
        self._lines: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._whole = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"opc.tcp://127.0.0.1:{self.port}/plant"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Break every line, and make none until `mend`."""
        self._whole = False
        for line in list(self._lines):
            line.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mend(self) -> None:
        """Let them connect again."""
        self._whole = True

    def inject(self, data: bytes) -> None:
        """Send this to all clients, as if the server had."""
        for client in self._clients:
            client.write(data)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError):
            if self._whole:
                server_reader, server = await asyncio.open_connection("127.0.0.1", self._target)
                self._lines.add(server)
                self._clients.add(writer)
                requests = Requests()
                requests.names = self.requests
                await asyncio.gather(self._copy(reader, server, requests), self._copy(server_reader, writer, None))
        for line in (writer, *([server] if self._clients & {writer} else [])):
            line.transport.abort()
            with contextlib.suppress(OSError):
                await line.wait_closed()
            self._lines.discard(line)
        self._clients.discard(writer)
        self._tasks.discard(task)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Requests | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if requests is not None:
                    requests.feed(data)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
