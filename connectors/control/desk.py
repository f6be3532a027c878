"""Where commands, answers and time meet the ledger: each change is on record in Kafka before anything is done about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from connectors.control import DeviceTopic
from connectors.control.account import Account
from connectors.control.commands import Command, decode, decode_ack
from connectors.control.ledger import Entry, Event, Ledger, State
from connectors.link import Link
from pipelines import metrics
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.errors import BadData, LimitExceeded, NotConnected, Unavailable

log = logging.getLogger("control")
LOOK_S = 0.25  # how often time is looked at
FORGET_S = 60.0
Bury = Callable[[DeadLetter], Awaitable[None]]


class Desk:
    """The owner of the ledger. One change at a time; deliveries go on beside it, one for each device."""

    def __init__(
        self,
        site: str,
        topics: Sequence[DeviceTopic],
        entries: Iterable[Entry],
        account: Account,
        link: Link,
        bury: Bury,
        clock: Clock,
    ) -> None:
        self._site, self._topics, self._account, self._link = site, topics, account, link
        self._bury, self._clock = bury, clock
        self._ledger = Ledger(entries)
        self._changing = asyncio.Lock()
        self._news = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._failure: Unavailable | None = None

    async def receive(self, raw: bytes | None, key: bytes | None, partition: int, origin: str) -> None:
        """Take in a record of the command topic. `Unavailable` if it is not on record, and must be read again."""
        metrics.consumed.labels(self._site, "control", "data").inc()
        try:
            command = self._addressed(decode(raw, key))
            async with self._changing:
                entry = self._ledger.submit(command, partition, self._clock.now_ns())
                if entry is None:
                    log.info("command %s is known already: dropped", command.id)
                else:
                    await self._keep([entry])
        except (BadData, LimitExceeded) as e:
            reason = e.reason if isinstance(e, BadData) else "limit"
            await self._bury(DeadLetter(raw or b"", reason, str(e), origin))
        self._news.set()

    def _addressed(self, command: Command) -> Command:
        """The command with its topic, which must be one that the pipeline's sinks write to."""
        at = [t.at(command.device) for t in self._topics]
        if not command.topic and len(at) == 1:
            return msgspec.structs.replace(command, topic=at[0])
        if command.topic not in at:
            raise BadData(
                f"command {command.id!r}: topic {command.topic!r} is not a command topic here: {', '.join(at)}",
                reason="topic",
            )
        return command

    async def hear(self, topic: str, payload: bytes) -> None:
        """Take in what a device answered. `Unavailable` if it is not on record."""
        try:
            ack = decode_ack(payload)
            async with self._changing:
                known = self._ledger.entries.get(ack.id)
                if known is None or topic not in self._answers_to(known.command):
                    raise BadData(f"answer to command {ack.id!r}, which was not sent to this device", reason="ack")
                entry = self._ledger.hear(ack, self._clock.now_ns())
                await self._keep([entry] if entry else [])
        except BadData as e:
            metrics.errors.labels(self._site, "control", e.reason).inc()
            log.warning("MQTT topic %s: %s", topic, e)
        self._news.set()

    def _answers_to(self, command: Command) -> list[str]:
        return [t.ack_at(command.device) for t in self._topics if t.at(command.device) == command.topic]

    async def connected(self) -> None:
        """The devices can be reached. `Unavailable` if another process owns the ledger by now (it may have cut us off)."""
        async with self._changing:
            await self._on_record(self._account.touch())
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver, repeat and expire until told to stop; then wait for deliveries under way. `Unavailable` if Kafka is lost."""
        async with self._changing:
            await self._keep(self._ledger.interrupted(self._clock.now_ns()))
        forget_at_s = 0.0
        while not stop.is_set():
            self._news.clear()
            while await self._look():
                pass
            if self._clock.monotonic_s() >= forget_at_s:
                await self._forget()
                forget_at_s = self._clock.monotonic_s() + FORGET_S
            await _first((self._news.wait(), stop.wait()), LOOK_S)
            if self._failure is not None:
                raise self._failure
        await asyncio.gather(*self._deliveries)

    async def _look(self) -> bool:
        """Make the changes that are due; whether there were any."""
        async with self._changing:
            changes = self._ledger.due(self._clock.now_ns(), reachable=self._link.connected)
            await self._keep(changes)
        for entry in changes:
            if entry.state is State.DELIVERED:
                task = asyncio.create_task(self._deliver(entry))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
        return bool(changes)

    async def _deliver(self, entry: Entry) -> None:
        """Actuate. The entry is on record."""
        command, why = entry.command, ""
        if self._clock.now_ns() < command.expires_at_ns:  # putting it on record may have taken long
            try:
                await self._link.publish(command.topic, command.for_device())
                return
            except NotConnected as e:
                why = str(e)
        async with self._changing:
            if self._ledger.entries.get(command.id) is not entry:
                return  # the device has answered meanwhile
            now = self._clock.now_ns()
            never_sent = not why and entry.attempts == 1
            after = (
                entry.after(Event.EXPIRE, now, "it expired before it was sent")
                if never_sent
                else self._ledger.lost(command.id, now, why)
            )
            await self._keep([after] if after else [])
        self._news.set()

    async def _forget(self) -> None:
        async with self._changing:
            old = self._ledger.forgettable(self._clock.now_ns())
            if old:
                await self._on_record(self._account.keep([], old))
                for entry in old:
                    self._ledger.forget(entry)

    async def _keep(self, entries: Sequence[Entry]) -> None:
        """Put entries on record, then note them."""
        if not entries:
            return
        await self._on_record(self._account.keep(entries))
        for entry in entries:
            self._ledger.record(entry)
            metrics.commands.labels(self._site, entry.state.value).inc()
            c = entry.command
            log.info(
                "%s %s %s: %s%s", c.device, c.verb, c.id, entry.state, f" ({entry.detail})" if entry.detail else ""
            )

    async def _on_record(self, writing: Awaitable[None]) -> None:
        """Await a write; after one that failed nothing is written, and so nothing done, any more."""
        if self._failure is not None:
            raise self._failure
        try:
            await writing
        except Unavailable as e:
            self._failure = e
            self._news.set()
            raise


async def _first(waits: Sequence[Awaitable[object]], timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(w) for w in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
