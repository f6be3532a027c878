"""Reads what is posted. A post is answered when its readings are acknowledged; until then whoever posted it has them still."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from connectors.base import Context, Read
from connectors.http import PushSource
from connectors.http.codec import Codec, Pieces, Verdict
from connectors.http.door import Door, Tls, door
from connectors.http.guard import Guard
from connectors.http.route import Post, Route
from connectors.progress import DeviceClock
from pipelines.errors import NotConnected
from pipelines.units import duration_ns


class PushReader:
    """See `connectors.base.Reader`. What is not acknowledged when the link ends is answered with 503, and posted again."""

    def __init__(self, source: PushSource[Any], context: Context) -> None:
        self._source, self._context = source, context
        self._codec = Codec(source)
        self._device_clock = DeviceClock(source.speed, duration_ns(source.future_max))
        self._nothing = self._codec.decode([], latest_ns=0)
        self._door: Door | None = None
        self._route: Route | None = None
        self._pieces = Pieces(self._nothing)
        self._posts: Sequence[Post] = ()
        self._verdicts: Sequence[Verdict] = ()

    @property
    def open(self) -> bool:
        """Whether it listens."""
        return self._route is not None

    @property
    def waiting(self) -> int:
        """Posts that are here and not answered."""
        return 0 if self._route is None else self._route.waiting

    async def connect(self) -> None:
        """See `Reader.connect`; also `ConfigError` if a secret is missing. Secrets are read each time."""
        source, where = self._source, self._context.secrets_dir
        guard = Guard.of(*(s.read(where) if s else None for s in (source.tokens, source.users)))
        tls: Tls = None
        if source.certificate is not None and source.private_key is not None:
            tls = source.certificate.file(where), source.private_key.file(where)
        route, at = Route(source, guard, self._context), door(source.address)
        await at.add(route, tls)
        self._door, self._route = at, route

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if self._route is None:
            raise NotConnected("not connected yet: the server is not open")
        if not self._pieces.left:
            await self._decode(self._route, rows_max, linger_s)
        batch, letters, complete = self._pieces.next(rows_max)
        done = [(self._posts[i], self._verdicts[i]) for i in complete]
        return Read(batch, letters, partial(_ack, done))

    async def _decode(self, route: Route, requests_max: int, linger_s: float) -> None:
        self._posts = await route.take(requests_max, linger_s)
        latest_ns = self._device_clock.latest(self._context.clock.now_ns())
        decoded = (
            self._codec.decode([p.body for p in self._posts], latest_ns=latest_ns) if self._posts else self._nothing
        )
        self._pieces, self._verdicts = Pieces(decoded), decoded.verdicts

    async def close(self) -> None:
        """See `Reader.close`."""
        at, route = self._door, self._route
        self._door = self._route = None
        self._pieces = Pieces(self._nothing)
        if at is not None and route is not None:
            route.close()
            await at.remove(route)


async def _ack(done: Sequence[tuple[Post, Verdict]]) -> None:
    for post, verdict in done:
        post.settle(verdict)
