"""Reads an OPC UA source. It looks and listens: whatever else its library could send is held back by `connectors.opcua.guard`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.base import Context, Read, quality_column
from connectors.buffer import Buffer
from connectors.columns import Layout
from connectors.opcua import OpcuaSource, link, session
from connectors.opcua.browse import Found, Limits
from connectors.opcua.channel import Channel
from connectors.opcua.identity import Identity
from connectors.opcua.link import Events, Link, Subscription
from connectors.opcua.rows import Item, Joined, Joiner
from connectors.opcua.wire import Notifications
from pipelines import metrics
from pipelines.batch import Batch
from pipelines.errors import NotConnected, SitestreamError
from pipelines.schema import arrival_of
from pipelines.units import duration_ns, duration_s

TOLD_EVERY_S = 60.0
ROW_BYTES = 64  # of a row in the buffer, besides its columns
log = logging.getLogger("collect")


class OpcuaReader:
    """See `connectors.base.Reader`. What was read and not acknowledged is given again after the next `connect`."""

    def __init__(self, source: OpcuaSource[Any], context: Context) -> None:
        self._source, self._context = source, context
        row = source.schema.sent()
        self._joiner = Joiner(row, Layout.of(source.schema), quality_column(source.schema), arrival_of(source.schema))
        self._handles: dict[tuple[str, str], int] = {}  # by device and column
        self._buffer: Buffer[Joined] = Buffer(context.site, source.stream, context.clock)
        self._ready: deque[Joined] = deque()  # taken out of the buffer, not given yet
        self._given: deque[Joined] = deque()  # not acknowledged yet
        self._subscription: Subscription | None = None
        self._link: Link | None = None
        self._browser: asyncio.Task[None] | None = None
        self._labels = {"site": context.site, "stream": source.stream}
        self._told_s: dict[str, float] = {}

    # Reader

    async def connect(self) -> None:
        """See `Reader.connect`; also `ConfigError` if a secret is missing or wrong, or the server is not the one it should be."""
        source = self._source
        identity = Identity.of(source.security, source.username, source.password, self._context.secrets_dir)
        channel = await session.reach(identity, source.server, self._context.clock)
        try:
            await self._attach(channel, identity)
        except BaseException:
            await channel.drop()
            raise
        self._ready.extendleft(reversed(self._given))
        self._given.clear()

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        if self._link is None:
            raise NotConnected("not connected to the OPC UA server yet")
        if not self._ready:
            self._ready.extend(await self._buffer.get(rows_max, linger_s))
        if not self._ready:
            self._link.check()
            return Read(self._joiner.nothing(), (), _nothing_to_ack)
        taken = _up_to(self._ready, rows_max)
        self._given.append(taken)
        return Read(taken.batch, taken.rejects, partial(self._ack, taken))

    async def close(self) -> None:
        """See `Reader.close`. The server keeps the session and its queues for `keep`, for the next `connect`."""
        browser, self._browser = self._browser, None
        if browser is not None:
            browser.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await browser
        ended, self._link = self._link, None
        if ended is not None:
            await ended.close()

    async def _ack(self, taken: Joined) -> None:
        with contextlib.suppress(ValueError):  # it was given again meanwhile
            self._given.remove(taken)

    # the way to the server

    async def _attach(self, channel: Channel, identity: Identity) -> None:
        """Take the old subscription up, or make a new one."""
        source, clock = self._source, self._context.clock
        keep_s = duration_s(source.keep)
        name = f"sitestream-{self._context.site}-{source.stream}-{self._context.collector}"
        old, owner = self._subscription, None
        if old is not None and old.id:
            owner = await link.resume(channel, identity, source.server, name, keep_s, old)
        resumed = owner is not None
        if owner is None:
            fresh = old.session if old is not None and old.id else None
            owner = fresh or await session.create(channel, identity, source.server, name, keep_s)
            self._subscription = await link.create(channel, owner, duration_s(source.every), keep_s)
        assert self._subscription is not None
        events = Events(self._took, self._missed, self._buffer.wake)
        made = Link(channel, source, self._subscription, await Limits.of(channel), events, clock)
        if not resumed:
            await self._look(made)
        made.listen()
        self._link = made
        self._browser = asyncio.create_task(self._look_now_and_then(made, at_once=resumed))

    # nodes

    async def _look_now_and_then(self, where: Link, *, at_once: bool) -> None:
        every_s = duration_s(self._source.rebrowse)
        while True:
            if not at_once:
                await self._context.clock.sleep(every_s)
            at_once = False
            try:
                await self._look(where)
            except SitestreamError as e:
                log.warning("%s: nodes could not be looked for: %s", self._source.stream, e)
            except Exception:  # a bug; values come all the same
                log.exception("%s: nodes could not be looked for", self._source.stream)

    async def _look(self, where: Link) -> None:
        """Find nodes; have new ones monitored and those that are gone no longer."""
        found = await where.find()
        monitored = where.subscription.items
        gone = [node for node in monitored if node not in set(found)]
        new = [node for node in found if node not in monitored]
        if gone:
            await where.unsubscribe(gone)
        if new:
            await self._monitor(where, new)
        still = {(node.device, node.column) for node in where.subscription.items}
        absent = [place for place in self._handles if place not in still]
        self._joiner.lost([self._handles[place] for place in absent])
        if new or gone or not found:
            self._tell_nodes(found, len(new), len(gone))

    async def _monitor(self, where: Link, new: Sequence[Found]) -> None:
        unknown = [node for node in new if (node.device, node.column) not in self._handles]
        handles = self._joiner.add([Item(node.device, node.column, node.path) for node in unknown])
        self._handles |= {(node.device, node.column): handle for node, handle in zip(unknown, handles, strict=True)}
        mine = [self._handles[node.device, node.column] for node in new]
        self._joiner.renew(mine)
        await where.subscribe(new, mine)

    def _tell_nodes(self, found: Sequence[Found], new: int, gone: int) -> None:
        stream = self._source.stream
        if not found:
            log.warning("%s: no node of %s is where `nodes=` says: are the paths right?", stream, self._source.server)
            return
        devices = {node.device for node in found}
        log.info("%s: %d nodes of %d devices (%d new, %d gone)", stream, len(found), len(devices), new, gone)
        for column in self._source.columns:
            lacking = devices - {node.device for node in found if node.column == column.name}
            if lacking:
                log.warning(
                    "%s: %d devices, such as %s, have no node for %s: without absent= all their readings are bad",
                    stream, len(lacking), min(lacking), column.name,
                )  # fmt: skip

    # values

    def _took(self, got: Notifications) -> None:
        now_ns = self._context.clock.now_ns()
        joined = self._joiner.join(got, now_ns, now_ns + duration_ns(self._source.future_max))
        if got.overflows:
            metrics.collect_dropped.labels(**self._labels, reason="overflow").inc(got.overflows)
            self._tell("overflow", "the server's queues were too short: raise queue=, or sampling=")
        if joined.mistyped:
            metrics.source_errors.labels(**self._labels, reason="type").inc(len(joined.mistyped))
            self._tell("type", joined.mistyped[0])
        rows = len(joined.batch) + len(joined.rejects)
        if rows:
            size = sum(column.nbytes for column in joined.batch.columns.values())
            self._buffer.put(joined, rows=rows, nbytes=size + ROW_BYTES * rows)

    def _missed(self, messages: int) -> None:
        metrics.collect_dropped.labels(**self._labels, reason="missed").inc(messages)
        self._tell(
            "missed", f"{messages} messages were lost on a broken link: the server no longer had them; raise keep="
        )

    def _tell(self, kind: str, text: str) -> None:
        """Log it, at most once a minute."""
        now_s = self._context.clock.monotonic_s()
        if now_s - self._told_s.get(kind, -TOLD_EVERY_S) >= TOLD_EVERY_S:
            self._told_s[kind] = now_s
            log.warning("%s: %s", self._source.stream, text)


async def _nothing_to_ack() -> None: ...


def _up_to(ready: deque[Joined], rows_max: int) -> Joined:
    """Take out up to `rows_max` rows; dead letters go with the rows that they came with."""
    taken: list[Joined] = [ready.popleft()]
    rows = len(taken[0].batch)
    while ready and rows + len(ready[0].batch) <= rows_max:
        taken.append(ready.popleft())
        rows += len(taken[-1].batch)
    whole = taken[0] if len(taken) == 1 else _joined(taken)
    if rows > rows_max:
        ready.appendleft(Joined(whole.batch.take(slice(rows_max, None)), whole.rejects))
        whole = Joined(whole.batch.take(slice(0, rows_max)))
    return whole


def _joined(parts: Sequence[Joined]) -> Joined:
    """Several as one. Names only ever grow, so the last ones are right for all."""
    batches = [p.batch for p in parts]
    names: pa.StringArray = batches[-1].names
    columns = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    codes, time = (np.concatenate([getattr(b, n) for b in batches]) for n in ("codes", "time"))
    return Joined(Batch(names, codes, time, columns), tuple(r for p in parts for r in p.rejects))
