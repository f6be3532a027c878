"""Speaks with a program in a container by its stdin and stdout, over the line on which its engine had it started.

The line is what docker's client was connected by: a unix or TCP socket, one with TLS, or the pipes of an `ssh`. The program's
output comes in frames of the Engine API: a byte that says which output, three unused ones, the length (big-endian), the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

PIECE_BYTES_MAX = 2**16
SAID_BYTES_MAX = 4096
_HEADER, _STDOUT = struct.Struct(">BxxxL"), 1


class Attached:
    """A program that runs at the other end of `line`, see `Engine.attached`. For one task that reads and one that writes."""

    def __init__(self, line: Any) -> None:
        self._line, self._buffer, self.said = line, bytearray(), ""  # what it wrote to stderr: its end
        self._ssh = getattr(line, "proc", None)
        if self._ssh:
            self._in, self._out = self._ssh.stdin.fileno(), self._ssh.stdout.fileno()
            for end in (self._in, self._out):
                os.set_blocking(end, False)
            self._send: Callable[[memoryview], int] = partial(os.write, self._in)
            self._receive: Callable[[int], bytes] = partial(os.read, self._out)
        else:
            self._socket: socket.socket = line if isinstance(line, socket.socket) else line._sock
            self._socket.setblocking(False)
            self._in = self._out = self._socket.fileno()
            self._send, self._receive = self._socket.send, self._socket.recv

    async def read(self) -> bytes:
        """What it wrote next to stdout; empty at its end. `OSError` if the line breaks."""
        while head := await self._exactly(_HEADER.size):
            output, length = _HEADER.unpack(head)
            piece = await self._exactly(length)
            if output == _STDOUT and piece:
                return piece
            self.said = (self.said + piece.decode(errors="replace"))[-SAID_BYTES_MAX:]
        return b""

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._buffer) < count:
            try:
                piece = self._receive(PIECE_BYTES_MAX)
            except (BlockingIOError, ssl.SSLWantReadError):
                await _ready(self._out, loop.add_reader, loop.remove_reader)
                continue
            if not piece:
                self._buffer.clear()  # a frame that was broken off is none
                return b""
            self._buffer += piece
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    async def write(self, content: bytes) -> None:
        """Give it all of this on its stdin; returns when the line has it. `OSError` if the line breaks."""
        loop, rest = asyncio.get_running_loop(), memoryview(content)
        while rest:
            try:
                rest = rest[self._send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await _ready(self._in, loop.add_writer, loop.remove_writer)

    def close(self) -> None:
        """Break the line, which ends its stdin. Nobody may be reading or writing."""
        if self._ssh:
            self._ssh.kill()
            self._ssh.wait()
            for end in (self._ssh.stdin, self._ssh.stdout):
                with contextlib.suppress(OSError):  # what was not written yet
                    end.close()
            socket.socket.close(self._line)  # docker's class has one that it never uses, and does not close
            return
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._line._response.close()
        self._socket.close()


async def _ready(
    end: int, watch: Callable[[int, Callable[[], object]], object], leave: Callable[[int], object]
) -> None:
    ready = asyncio.Event()
    watch(end, ready.set)
    try:
        await ready.wait()
    finally:
        leave(end)
