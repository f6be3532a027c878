"""Edge nodes that `collect` cannot read for want of a birth -> commands `rebirth`, of those that devices.toml has.

`collect` only says whose birth it lacks, again and again while it does. Whether a node is asked is decided here, and how
often by the desk, as of every command: who has taken over `collect` can have nodes of the file born again, no more often than
`rate`; nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from nacl.signing import SigningKey

from connectors.control.commands import Command, derived_id
from connectors.control.devices import REBIRTH, Devices
from connectors.control.signing import signed
from connectors.control.switch import Switch
from connectors.wish import Wish, decode
from pipelines import metrics, topics
from pipelines.clock import Clock
from pipelines.errors import BadData
from pipelines.runtime import kafka
from pipelines.runtime.tail import following
from pipelines.settings import Settings

log = logging.getLogger("control")
LOOK_S = 1.0
EXPIRES_NS = 30 * 10**9
STALE_NS = 60 * 10**9  # an older wish is repeated if it still holds
PACE_S = 0.1  # between two nodes: all births at once would choke the broker
NODES_MAX = 10_000  # asked since the start; who writes wishes must not fill the memory
HandIn = Callable[[Command], Awaitable[None]]
Admits = Callable[[Command], bool]


class Rebirths:
    """Reads wishes and hands commands in, signed as those of a pipeline. `admits` says whether one would be let in now."""

    def __init__(
        self,
        settings: Settings,
        devices: Devices,
        switch: Switch,
        own: SigningKey,
        hand_in: HandIn,
        admits: Admits,
        clock: Clock,
    ) -> None:
        self._settings, self._devices, self._switch, self._own = settings, devices, switch, own
        self._hand_in, self._admits, self._clock = hand_in, admits, clock
        self._asked: set[str] = set()
        self._wishes: dict[bytes, tuple[int, bytes]] = {}  # the newest of each collector: (when, record)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop. `Unavailable` if Kafka is lost."""
        topic = topics.rebirths(self._settings.site)
        async with following(self._settings.brokers, {topic: 0}) as read:
            while not stop.is_set():
                await read(self._take)
                for at_ns, raw in self._wishes.values():
                    if self._clock.now_ns() - at_ns < STALE_NS:
                        await self._grant(raw, stop)
                self._wishes.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await stop.wait()

    def _take(self, record: kafka.Record) -> None:
        self._wishes[record.key or b""] = record.timestamp * 10**6, record.value or b""

    async def _grant(self, raw: bytes, stop: asyncio.Event) -> None:
        try:
            wish = decode(raw)
        except BadData as e:
            metrics.errors.labels(self._settings.site, "control", e.reason).inc()
            log.warning("%s: %s", topics.rebirths(self._settings.site), e)
            return
        for node in wish.nodes:
            if stop.is_set() or self._switch.why_off():
                return
            command = self._command(node, wish)
            if self._may_ask(command):
                await self._hand_in(signed(command, self._settings.site, self._own))
                await self._clock.sleep(PACE_S)

    def _may_ask(self, command: Command) -> bool:
        """Whether its node is in the file, and the command would be let in."""
        node = command.device
        profile = self._devices.profile_of(node)
        if profile is None or not profile.sparkplug or not self._admits(command):
            return False
        if node not in self._asked and len(self._asked) >= NODES_MAX:
            log.warning("%s is not asked for its birth: %d nodes were since the start (NODES_MAX)", node, NODES_MAX)
            return False
        self._asked.add(node)
        return True

    def _command(self, node: str, wish: Wish) -> Command:
        now_ns = self._clock.now_ns()
        return Command(
            id=derived_id(self._settings.site, REBIRTH, node, str(now_ns)), device=node, verb=REBIRTH,
            issuer=f"collect/{wish.stream}", issued_at_ns=now_ns, expires_at_ns=now_ns + EXPIRES_NS,
        )  # fmt: skip
