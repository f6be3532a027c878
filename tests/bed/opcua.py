"""A real OPC UA server (asyncua) on a thread of its own, with a plant that tests build."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncua import Server, ua

from containers.child import free_port

T = TypeVar("T")


class OpcuaServer:
    """Starts in a second or two; nodes are made as they are first written to."""

    def __init__(self, port: int | None = None, *, security: Any = None) -> None:
        self.port = port or free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}/plant"
        self._security = security  # async (Server) -> None, before the start
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.nodes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
        self._thread.start()
        self.do(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(20)

    async def _start(self) -> None:
        self.server = Server()
        await self.server.init()
        self.server.set_endpoint(self.url)
        if self._security is not None:
            await self._security(self.server)
        await self.server.start()

    async def _stop(self) -> None:
        await self.server.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def node(self, path: str, value: Any = 0.0, kind: Any = ua.VariantType.Double) -> Any:
        """The variable 'Plant/a/RMS' below Objects; made, and what it hangs below, if it is not there."""
        if path not in self.nodes:
            *folders, name = path.split("/")
            at, below = "", self.server.nodes.objects
            for folder in folders:
                at = f"{at}/{folder}"
                if at not in self.nodes:
                    self.nodes[at] = await below.add_object(2, folder)
                below = self.nodes[at]
            self.nodes[path] = await below.add_variable(2, name, value, kind)
        return self.nodes[path]

    def variable(self, path: str, value: Any = 0.0, kind: Any = ua.VariantType.Double) -> Any:
        """See `node`; from another thread."""
        return self.do(self.node(path, value, kind))

    def write(
        self, path: str, value: Any, time: datetime | None = None, *, status: int = 0, kind: Any = ua.VariantType.Double,
        server_time: Any = None, stamped: bool = True,
    ) -> None:  # fmt: skip
        """Set a value, as a device would: with its source timestamp (by default now), status and type."""
        self.do(self.writing(path, value, time, status=status, kind=kind, server_time=server_time, stamped=stamped))

    async def writing(
        self, path: str, value: Any, time: datetime | None = None, *, status: int = 0, kind: Any = ua.VariantType.Double,
        server_time: Any = None, stamped: bool = True,
    ) -> None:  # fmt: skip
        """See `write`; on the server's loop."""
        node = await self.node(path)
        source: Any = time or (datetime.now(UTC) if stamped else None)
        held = ua.Variant(value, kind) if value is not None else ua.Variant()
        data = ua.DataValue(held, ua.StatusCode(ua.UInt32(status)), source, server_time)
        await self.server.write_attribute_value(node.nodeid, data)

    def remove(self, path: str) -> None:
        """Delete a node."""
        self.do(self.server.delete_nodes([self.nodes.pop(path)]))

    def forget(self) -> None:
        """Drop every session and subscription of clients, as a server does that has restarted inside."""

        async def drop() -> None:
            iserver = self.server.iserver
            for session in list(iserver._external_sessions.values()):
                await session.close_session(True)

        self.do(drop())

    def subscriptions(self) -> int:
        """How many subscriptions the server has."""
        return len(self.server.iserver.subscription_service.subscriptions)
