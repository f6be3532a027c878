"""Where the parties of a source go on after a restart, kept in a compacted topic of the site: the newest position of each.

A position is written when Kafka has all readings up to it, never before: a crash in between costs repetitions, not readings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from connectors.outlet import Outlet, Record
from pipelines import topics
from pipelines.runtime import kafka
from pipelines.runtime.account import newest


class KafkaPositions:
    """See `connectors.base.Positions`. Those of one source of one collector."""

    def __init__(
        self, brokers: str, outlet: Outlet, site: str, stream: str, collector: str, stop: asyncio.Event
    ) -> None:
        self._brokers, self._outlet, self._stop = brokers, outlet, stop
        self._topic, self._prefix = topics.positions(site), f"{stream}/{collector}/"

    async def load(self) -> dict[str, bytes]:
        """See `Positions.load`; waits for Kafka as long as it takes."""
        found = await kafka.once_up(lambda: newest(self._brokers, self._topic), self._stop) or {}
        named = {key.decode(): value for key, value in found.items()}
        return {name.removeprefix(self._prefix): at for name, at in named.items() if name.startswith(self._prefix)}

    async def save(self, positions: Mapping[str, bytes]) -> None:
        """See `Positions.save`; as `Outlet.send`."""
        named = ((f"{self._prefix}{name}".encode(), at) for name, at in positions.items())
        await self._outlet.send([Record(self._topic, 0, at, key=key) for key, at in named])
