"""Where commands, answers and time meet the ledger: each change is on record in Kafka before anything is done about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from connectors.control import DeviceTopic, audit
from connectors.control.account import Account
from connectors.control.commands import Command, decode, decode_ack
from connectors.control.devices import APPROVE, OFF, OWN, REBIRTH, TWIN
from connectors.control.guard import Guard
from connectors.control.ledger import Entry, Event, Ledger, State
from connectors.control.switch import Switch
from connectors.control.twin import Desired
from connectors.control.twins import TwinDesk, line_of
from connectors.control.writers import Writers
from pipelines import metrics
from pipelines.clock import Clock
from pipelines.dead import DeadLetter
from pipelines.errors import BadData, LimitExceeded, Unavailable
from pipelines.runtime.account import Beside

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
        guard: Guard,
        switch: Switch,
        writers: Writers,
        twins: TwinDesk,
        bury: Bury,
        clock: Clock,
    ) -> None:
        self._site, self._topics, self._account = site, topics, account
        self._guard, self._switch, self._writers = guard, switch, writers
        self._twins = twins
        self._bury, self._clock = bury, clock
        self._ledger = Ledger(entries)
        self._changing = asyncio.Lock()
        self._news = asyncio.Event()
        self._changed = asyncio.Event()  # another after each change
        self._deliveries: set[asyncio.Task[None]] = set()
        self._failure: Unavailable | None = None

    async def receive(self, raw: bytes | None, key: bytes | None, partition: int, origin: str, time_ns: int) -> None:
        """Take in a record of the command topic, and when Kafka did. `Unavailable` if it must be read again."""
        metrics.consumed.labels(self._site, "control", "data").inc()
        self._guard.saw(time_ns)
        try:
            command = decode(raw, key)
            async with self._changing:
                await self._take(command, partition, self._clock.now_ns())
        except (BadData, LimitExceeded) as e:
            reason = e.reason if isinstance(e, BadData) else "limit"
            await self._bury(DeadLetter(raw or b"", reason, str(e), origin))
        self._news.set()

    async def _take(self, command: Command, partition: int, now_ns: int) -> None:
        if await self._forged(command, now_ns):
            return
        if command.id in self._ledger.entries:
            log.info("command %s is known already: dropped", command.id)
            return
        verdict = self._guard.judge(command, self._ledger, now_ns)
        refusal = verdict.refusal or self._twins.unexpected(command)
        new = self._ledger.submit(verdict.command, partition, now_ns, refusal=refusal, signers=verdict.signers)
        if new and new.state is State.QUEUED and command.verb == TWIN:
            await self._set(new, now_ns)
        elif new and new.state is State.QUEUED and new.command.verb in OWN:
            await self._keep(self._by_itself(new, now_ns))
        elif new:
            await self._keep([new])

    async def _forged(self, command: Command, now_ns: int) -> str:
        if why := self._guard.forged(command):
            log.warning("%s %s %s: %s: %s", command.device, command.verb, command.id, audit.REFUSED, why)
            metrics.errors.labels(self._site, "control", "forged").inc()
            await self._on_record(self._account.keep([], beside=[audit.refused(self._site, command, now_ns, why)]))
        return why

    async def forged(self, command: Command) -> str:
        """Why a command is not from whom it says, which is on record then; empty if it is. `Unavailable` if Kafka is lost."""
        async with self._changing:
            return await self._forged(command, self._clock.now_ns())

    def entry(self, command_id: str) -> Entry | None:
        """A command as it stands; None if it is not on record."""
        return self._ledger.entries.get(command_id)

    def entries(self) -> list[Entry]:
        """All commands on record."""
        return list(self._ledger.entries.values())

    def admits(self, command: Command) -> bool:
        """Whether a command that is not forged would be let in now."""
        return not self._guard.judge(command, self._ledger, self._clock.now_ns()).refusal

    def in_flight(self, device: str) -> bool:
        """Whether a device has a command."""
        return bool(self._ledger.in_flight(device))

    async def change(self) -> None:
        """Return at the next change of a command."""
        await self._changed.wait()

    async def _set(self, new: Entry, now_ns: int) -> None:
        """Change what is desired of a device; on record together with the command that wants it."""
        c = new.command
        desired = self._twins.set(c, now_ns)
        version = desired.version if desired else self._twins.version(c.device)
        detail = f"version {version} is desired now" if desired else f"nothing changes: version {version} is as it says"
        done = new.after(Event.SUCCEED, now_ns, detail)
        assert done is not None  # it was QUEUED
        await self._keep([msgspec.structs.replace(done, by=c.issuer)], [desired] if desired else [])

    def _by_itself(self, new: Entry, now_ns: int) -> list[Entry]:
        """What becomes of a command that control itself carries out."""
        c = new.command
        changed: list[Entry] = []
        why = ""
        if c.verb == APPROVE:
            changed, why = self._approved(c, now_ns)
        else:
            try:
                self._switch.turn(off=c.verb == OFF)
            except OSError as e:
                why = f"the switch cannot be turned: {e}"
        event = Event.REJECT if why else Event.SUCCEED
        done = new.after(event, now_ns, why or self._switch.why_off())
        return [*changed, *([msgspec.structs.replace(done, by=c.issuer)] if done else [])]

    def _approved(self, approval: Command, now_ns: int) -> tuple[list[Entry], str]:
        entry = self._ledger.entries.get(str(approval.args.get("id")))
        if entry is None or entry.command.device != approval.device:
            return [], f"no command {approval.args.get('id')!r} of {approval.device} is on record"
        after = entry.approved(approval.issuer, now_ns)
        return ([], after) if isinstance(after, str) else ([after], "")

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

    async def born(self, device: str) -> None:
        """An edge node is born: if it was asked to be, that is done. `Unavailable` if it is not on record."""
        if not self.in_flight(device):
            return  # as most: nobody else waits for it
        async with self._changing:
            asked = [e for e in self._ledger.in_flight(device) if e.command.verb == REBIRTH]
            now_ns = self._clock.now_ns()
            await self._keep(list(filter(None, (e.after(Event.SUCCEED, now_ns, "it was born again") for e in asked))))
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
            now_ns = self._clock.now_ns()
            off = bool(self._switch.why_off())
            metrics.control_off.labels(self._site).set(off)
            changes = self._ledger.due(now_ns, ready=lambda c: not off and self._ready(c, now_ns))
            await self._keep(changes)
        for entry in changes:
            if entry.state is State.DELIVERED:
                task = asyncio.create_task(self._deliver(entry))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
        return bool(changes)

    def _ready(self, command: Command, now_ns: int) -> bool:
        may = self._guard.may_deliver(command, self._ledger, now_ns) and self._writers.reachable(command)
        return may and self._twins.yields(command.device)

    async def _deliver(self, entry: Entry) -> None:
        """Actuate. The entry is on record."""
        command = entry.command
        event, why = Event.RETURN, "it expired before it was sent"
        if self._switch.why_off():
            why = "it was switched off before it was sent"
        elif entry.attempts == 1 and (unexpected := self._twins.unexpected(command)):
            event, why = Event.REJECT, unexpected
        elif self._clock.now_ns() < command.expires_at_ns:  # putting it on record may have taken long
            outcome = await self._writers.deliver(command)
            if outcome is None:
                return
            event, why = outcome
        async with self._changing:
            if self._ledger.entries.get(command.id) is not entry:
                return  # the device has answered meanwhile
            now = self._clock.now_ns()
            lost = event is Event.LOSE
            after = self._ledger.lost(command.id, now, why) if lost else entry.after(event, now, why)
            await self._keep([after] if after else [])
        self._news.set()

    async def _forget(self) -> None:
        async with self._changing:
            old = self._ledger.forgettable(self._clock.now_ns())
            if old:
                await self._on_record(self._account.keep([], old))
                for entry in old:
                    self._ledger.forget(entry)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[[Sequence[Beside]], Awaitable[None]]]:
        """While nothing else changes; gives what puts records on record that are no commands'. `Unavailable` if it cannot."""
        async with self._changing:
            yield lambda lines: self._on_record(self._account.keep([], beside=lines))

    async def _keep(self, entries: Sequence[Entry], desired: Sequence[Desired] = ()) -> None:
        """Put entries on record, and what is desired of devices with them; then note both."""
        if not entries:
            return
        beside = [*(line_of(self._site, d) for d in desired), *(audit.of(self._site, e) for e in entries)]
        await self._on_record(self._account.keep(entries, beside=beside))
        self._twins.record(*desired)
        for entry in entries:
            self._ledger.record(entry)
            self._guard.saw(entry.updated_at_ns)
            metrics.commands.labels(self._site, entry.state.value).inc()
            c = entry.command
            log.info(
                "%s %s %s: %s%s", c.device, c.verb, c.id, entry.state, f" ({entry.detail})" if entry.detail else ""
            )
        self._changed.set()
        self._changed = asyncio.Event()

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
