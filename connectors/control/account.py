"""The ledger in Kafka: `{site}.control.ack`, compacted, keyed by command id. One owner writes it, others may read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

import msgspec

from connectors.control.ledger import Entry
from pipelines import topics
from pipelines.runtime import account

# While nothing else changes the ledger; gives what puts other records on record
Alone = Callable[[], AbstractAsyncContextManager[Callable[[Sequence[account.Beside]], Awaitable[None]]]]


class Account(account.Account):
    """The right to write the ledger of a site; see `pipelines.runtime.account`."""

    @classmethod
    async def of(cls, brokers: str, site: str) -> Self:
        """As `open`."""
        return await cls.open(brokers, topics.acks(site), f"{site}.control", f"control service of site {site}")

    async def keep(
        self, entries: Sequence[Entry], old: Sequence[Entry] = (), beside: Sequence[account.Beside] = ()
    ) -> None:
        """Put entries on record and take `old` ones off, with what is audited `beside` them, all or none; as `write`."""
        records = [(e.partition, e.command.id.encode(), msgspec.json.encode(e)) for e in entries]
        forgotten = [(e.partition, e.command.id.encode(), None) for e in old]
        await self.write([*records, *forgotten], beside)


async def read(brokers: str, site: str) -> list[Entry]:
    """Every entry on record; none if the site never had control. `StateError` if a record is no entry."""
    return await account.newest_as(brokers, topics.acks(site), Entry, "ledger entry")
