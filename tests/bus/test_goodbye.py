"""A client of a broker with TLS is gone only when all of its connections are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from containers.acls import bearer
from pipelines.runtime import kafka
from tests.bus.fleet import Fleet

DELAY_S = 1.0  # much longer than all else takes


class SlowWayBack:
    """Passes TCP on to a broker at once, and what the broker says after a while."""

    def __init__(self, broker: str) -> None:
        self._broker = broker.split(":")
        self.connections = self.on_the_way = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.connections += 1
        back, forth = await asyncio.open_connection(*self._broker)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pass_on(reader, forth, 0))
            both.create_task(self._pass_on(back, writer, DELAY_S))

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, delay_s: float) -> None:
        while data := await source.read(2**16):
            self.on_the_way += delay_s > 0
            await asyncio.sleep(delay_s)
            target.write(data)
            self.on_the_way -= delay_s > 0
        target.close()


async def test_the_first_connection_says_goodbye_too(fleet: Fleet, tmp_path: Path) -> None:
    fleet.become(bearer("s", "admin"), tmp_path / "me")
    way = SlowWayBack(fleet.kafka.tls_bootstrap)
    server = await asyncio.start_server(way.connected, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        await kafka.cluster_id(f"{host}:{port}")  # only what it begins with goes this way: the broker names itself then
        assert (way.connections, way.on_the_way) == (1, 0)
