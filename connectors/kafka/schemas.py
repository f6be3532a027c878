"""Readers of schemas by the id that messages begin with: each is fetched once, by whoever drives the decoder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from connectors.kafka.registry import Client, Registered
from pipelines.clock import Clock, SystemClock
from pipelines.errors import BadData
from pipelines.ports import Lacking

T = TypeVar("T", covariant=True)
UNKNOWN_S = 30.0  # for so long an id that the registry does not know is not asked for again
SECOND_LOOK_S = 1.0  # a registry of several machines learns of a schema on one of them first
UNKNOWN_MAX = 10_000


class Schemas(Protocol[T]):
    """Readers by id."""

    def get(self, ids: Iterable[int]) -> Mapping[int, T | BadData]:
        """Of each id its reader, or why there is none; `Lacking` if some must be fetched first."""
        ...


class One(Generic[T]):
    """The same for all messages."""

    def __init__(self, reader: T) -> None:
        self._reader = reader

    def get(self, ids: Iterable[int]) -> Mapping[int, T | BadData]:
        """See `Schemas.get`."""
        return dict.fromkeys(ids, self._reader)


class Fetched(Generic[T]):
    """Those that a registry has."""

    def __init__(self, client: Client, make: Callable[[int, Registered], T], clock: Clock | None = None) -> None:
        """`make`: a reader of what was registered; `BadData` if it cannot be read."""
        self._client, self._make, self._clock = client, make, clock or SystemClock()
        self._known: dict[int, T | BadData] = {}
        self._unknown: dict[int, float] = {}  # until when
        self._one_at_a_time = asyncio.Lock()

    def get(self, ids: Iterable[int]) -> Mapping[int, T | BadData]:
        """See `Schemas.get`."""
        wanted, now = list(ids), self._clock.monotonic_s()
        if lacking := [i for i in wanted if i not in self._known or self._unknown.get(i, now) < now]:
            raise Lacking(lambda: self._fetch(lacking))
        return {i: self._known[i] for i in wanted}

    async def _fetch(self, ids: list[int]) -> None:
        """`Unavailable` if the registry is not to be had; those that came are kept."""
        async with self._one_at_a_time:
            self._forget_some()
            await self._ask(ids)
            if unknown := [i for i in ids if i in self._unknown]:
                await self._clock.sleep(SECOND_LOOK_S)
                await self._ask(unknown)
            until_s = self._clock.monotonic_s() + UNKNOWN_S  # of all alike: to ask for many may take longer than that
            self._unknown |= {i: until_s for i in ids if i in self._unknown}

    async def _ask(self, ids: list[int]) -> None:
        for number in ids:
            if number in self._known and number not in self._unknown:
                continue  # somebody else asked meanwhile
            try:
                registered = await asyncio.to_thread(self._client.schema, number)
                self._known[number] = self._make(number, registered)
                self._unknown.pop(number, None)
            except BadData as e:
                self._known[number] = e.with_traceback(None)
                if e.reason == "unknown_schema":
                    self._unknown[number] = self._clock.monotonic_s() + UNKNOWN_S

    def _forget_some(self) -> None:
        """Whoever sends rubbish can make up as many ids as they like."""
        if len(self._unknown) >= UNKNOWN_MAX:
            for number in self._unknown:
                self._known.pop(number)
            self._unknown.clear()
