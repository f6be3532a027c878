"""Takes connections in, so many and no more; those count, too, that are still at the handshake of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl

from aiohttp import web

CONNECTIONS_MAX = 1_000  # at once; more are told to come later
CONNECTIONS_TLS_MAX = 250  # each takes 275 KiB, asyncio's buffers for the most part, of the 256 MiB that collect has
HANDSHAKE_S_MAX = 10.0  # of TLS
BACKLOG = 128
PAUSE_S = 1.0  # when the system has no file left for a connection
FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
log = logging.getLogger("collect")


class Gate:
    """Between a listening socket and a server of aiohttp."""

    def __init__(self, address: tuple[str, int], http: web.Server, tls: ssl.SSLContext | None) -> None:
        """`OSError` if the address cannot be had."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._http, self._tls = http, tls
        self._greeted: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    @property
    def _full(self) -> bool:
        most = CONNECTIONS_MAX if self._tls is None else CONNECTIONS_TLS_MAX
        return len(self._greeted) + len(self._http.connections) >= most

    async def close(self) -> None:
        """Take no more in, and give up those at the handshake."""
        tasks = [self._accepting, *self._greeted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                made, _ = await loop.sock_accept(self._socket)
            except OSError as e:
                log.warning("http push: no connection can be taken in: %s", e)
                await asyncio.sleep(PAUSE_S)
                continue
            if self._full:
                self._turn_away(made)
                continue
            task = asyncio.create_task(self._greet(made))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    def _turn_away(self, made: socket.socket) -> None:
        with contextlib.suppress(OSError), made:
            if self._tls is None:
                made.send(FULL)
                made.shutdown(socket.SHUT_WR)

    async def _greet(self, made: socket.socket) -> None:
        handshake_s = None if self._tls is None else HANDSHAKE_S_MAX
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._http, made, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:  # no TLS, or a stranger who left; among them are ssl.SSLError and TimeoutError
            made.close()
