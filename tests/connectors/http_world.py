"""Devices that post and insist, and a server that is polled: the outside world of the HTTP source."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from connectors.base import Context
from connectors.http import PushSource, push
from connectors.http.listener import PushReader
from connectors.secrets import secret
from containers.child import free_port
from pipelines.clock import Clock, SystemClock
from tests.bed import until
from tests.connectors.schemas import Vibration

TOKEN = "0123456789abcdef-first"
OTHER = "0123456789abcdef-second"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def context(folder: Path, clock: Clock | None = None) -> Context:
    return Context("s", "1", folder, clock or SystemClock())


def push_source(folder: Path, path: str = "/r/{device}", **options: Any) -> PushSource[Any]:
    """With two tokens."""
    (folder / "tokens").write_text(f"# devices\n{TOKEN}\n\n{OTHER}\n")
    given: dict[str, Any] = {"listen": f"127.0.0.1:{free_port()}", "tokens": secret("tokens")} | options
    return push(Vibration, path=path, **given)


class Gateway:
    """Posts readings one after the other without waiting for answers, and again, in their order, what was not accepted."""

    def __init__(self, url: str, reader: Callable[[], PushReader | None]) -> None:
        self._url, self._reader = url, reader
        self._owed: list[tuple[str, bytes]] = []
        self._sent: list[tuple[tuple[str, bytes], asyncio.Task[int]]] = []
        self._more = asyncio.Event()

    async def post(self, path: str, body: bytes) -> None:
        """Post it as often as it takes; returns when it has arrived, or if nobody is there yet."""
        self._owed.append((path, body))
        self._more.set()
        await self.settled()

    async def settled(self) -> None:
        """Wait until all that is owed has arrived, if somebody listens."""
        await until(lambda: self._reader() is None or self._arrived() >= len(self._owed), 10, "posts to arrive")

    def _arrived(self) -> int:
        reader = self._reader()
        return 0 if reader is None else reader.waiting

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            while True:
                if any(task.done() for _, task in self._sent):
                    await self._look()
                if len(self._sent) < len(self._owed) and self._reader() is not None:
                    waiting = self._arrived()
                    path, body = item = self._owed[len(self._sent)]
                    self._sent.append((item, asyncio.create_task(self._once(session, path, body))))
                    await self._in(self._sent[-1][1], waiting)
                await asyncio.sleep(0.001)

    async def _in(self, posting: asyncio.Task[int], waiting: int) -> None:
        await until(lambda: self._arrived() != waiting or posting.done(), 10, "a post to arrive")

    async def _look(self) -> None:
        """Strike what was answered for good; if something was sent away, all that is left begins anew, in its order."""
        tried = [(item, task.result()) for item, task in self._sent if task.done()]
        done = {id(item) for item, status in tried if status in (200, 400)}
        if any(status not in (200, 400) for _, status in tried):
            await asyncio.gather(*(task for _, task in self._sent))
            done |= {id(item) for item, task in self._sent if task.result() in (200, 400)}
            self._sent.clear()
        self._owed = [item for item in self._owed if id(item) not in done]
        self._sent = [(item, task) for item, task in self._sent if id(item) not in done]

    async def _once(self, session: aiohttp.ClientSession, path: str, body: bytes) -> int:
        with contextlib.suppress(aiohttp.ClientError):
            headers = {"Content-Type": "application/json"}
            async with session.post(self._url + path, data=body, headers=headers) as answer:
                return answer.status
        return 0


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    """A server that answers every GET so; its URL."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
