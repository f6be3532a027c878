"""Polls the devices behind one connection, one request at a time, each when it is due. A connection that fails is made anew."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connectors.backoff import Backoff
from connectors.modbus import wire
from connectors.modbus.address import Endpoint
from connectors.modbus.device import Device, Plan, Sample
from connectors.modbus.link import Link, Silent
from pipelines.clock import Clock
from pipelines.errors import NotConnected

DEAD_AFTER = (
    3  # questions without an answer, of all devices in a row: a TCP connection is made anew, it may be half open
)


@dataclass(slots=True)
class _Turn:
    """A poll of a device and when it is due (s, monotonic)."""

    device: Device
    poll: int
    phase_s: float
    first_s: float = 0.0
    due_s: float = 0.0


class Line:
    """One connection and the devices behind it."""

    def __init__(
        self, endpoint: Endpoint, devices: Sequence[Device], plan: Plan, clock: Clock, *, give: Callable[[Sample], None],
        changed: Callable[[], None], missed: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self._devices, self._plan, self._clock = devices, plan, clock
        self._give, self._changed, self._missed = give, changed, missed
        self._turns = [_Turn(d, p, _phase(d, p, plan)) for d in devices for p in _slow_first(plan)]
        self._link: Link | None = None
        self._backoff = Backoff()
        self._unanswered = 0
        self.error: Exception | None = None  # why it is not connected
        self.stale = 0  # answers that came too late, over all connections

    @property
    def up(self) -> bool:
        """Whether it is connected."""
        return self._link is not None

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                try:
                    await self._poll_all()
                except NotConnected as e:
                    self._down(e)
                    await self._clock.sleep(self._backoff.delay_s())
        finally:
            self._hang_up()

    async def _poll_all(self) -> None:
        self._link = await Link.open(self.endpoint, self._clock)
        self.error, self._unanswered = None, 0
        self._changed()
        self._begin()
        while True:
            turn = min(self._turns, key=lambda t: t.due_s)
            await self._clock.sleep(max(0.0, turn.due_s - self._clock.monotonic_s()))
            await self._poll(self._link, turn)
            self._next(turn)

    def _begin(self) -> None:
        """All is due anew: the rows' poll at its phase, the others before it, so that the first row is whole."""
        now_s = self._clock.monotonic_s()
        for turn in self._turns:
            turn.first_s = now_s + turn.phase_s
            turn.due_s = turn.first_s if turn.poll == self._plan.fastest else now_s

    def _next(self, turn: _Turn) -> None:
        now_s, every_s = self._clock.monotonic_s(), self._plan.timings[turn.poll].every
        if turn.device.away_s:
            until_s = now_s + turn.device.away_s * random.uniform(0.75, 1)  # noqa: S311 - spreads load, guards nothing
            for t in self._turns:
                if t.device is turn.device:
                    t.due_s = until_s if t.poll == self._plan.fastest else max(t.due_s, until_s + every_s / 2)
            return
        ticks = int((now_s - turn.first_s) // every_s) + 1 if now_s >= turn.first_s else 0
        due_s = turn.first_s + ticks * every_s
        if (late := round((due_s - turn.due_s) / every_s) - 1) > 0 and turn.due_s >= turn.first_s:
            self._missed(late)
        turn.due_s = due_s

    async def _poll(self, link: Link, turn: _Turn) -> None:
        """Ask for all of a poll, and give a row if it is the one that makes them."""
        device, rows = turn.device, turn.poll == self._plan.fastest
        begin_ns = self._clock.now_ns()
        try:
            await self._ask_all(link, turn)
        except Silent:
            await link.quiet()
            self._unheard(device)
            if rows:
                self._give(device.nothing((begin_ns + self._clock.now_ns()) // 2))
            if self._unanswered >= max(DEAD_AFTER, len(self._devices) + 1) and self.endpoint.kind != "serial":
                raise NotConnected(f"Modbus at {self.endpoint} has not answered {self._unanswered} times") from None
            return
        except wire.Refused as e:  # the gateway does not reach it
            device.silent(e.reason, f"{self.endpoint} does not reach unit {device.unit}: {e}")
            if rows:
                self._give(device.nothing((begin_ns + self._clock.now_ns()) // 2))
            return
        device.heard()
        if rows:
            self._give(device.row((begin_ns + self._clock.now_ns()) // 2, self._clock.monotonic_s()))

    async def _ask_all(self, link: Link, turn: _Turn) -> None:
        """Ask for the blocks of a poll. `Silent` or `Refused` (by a gateway) if the device is not there."""
        device = turn.device
        blocks = deque(device.blocks(turn.poll, self._clock.monotonic_s()))
        while blocks:
            block = blocks.popleft()
            pdu = await link.ask(device.unit, wire.request(block.function, block.start, block.count), device.timeout_s)
            self._unanswered = 0
            self._backoff.reset()
            try:
                device.got(block, wire.answer(block.function, block.count, pdu), self._clock.monotonic_s())
            except wire.Malformed:
                device.failed(turn.poll, block, "malformed")
            except wire.Refused as e:
                if e.code in (wire.NO_PATH, wire.NO_TARGET):
                    raise
                if e.code in (wire.ILLEGAL_FUNCTION, wire.ILLEGAL_ADDRESS, wire.ILLEGAL_VALUE):
                    blocks.extendleft(reversed(device.refused(turn.poll, block, e, self._clock.monotonic_s())))
                else:
                    device.failed(turn.poll, block, e.reason)

    def _unheard(self, device: Device) -> None:
        self._unanswered += 1
        device.silent("timeout", f"no answer from unit {device.unit} of {self.endpoint} within {device.timeout_s:g} s")

    def _down(self, error: NotConnected) -> None:
        """Every device behind it gives a bad reading for each attempt that fails."""
        self._hang_up()
        self.error = error
        for device in self._devices:
            device.silent("not_connected", str(error))
            self._give(device.nothing(self._clock.now_ns()))
        self._changed()

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.stale += link.stale
            link.close()


def _slow_first(plan: Plan) -> list[int]:
    polls = range(len(plan.polls))
    return [*(p for p in polls if p != plan.fastest), plan.fastest]


def _phase(device: Device, poll: int, plan: Plan) -> float:
    """Fixed for a device and a poll."""
    timing = plan.timings[poll]
    spread = random.Random(f"{device.name}/{poll}").random()  # noqa: S311 - spreads load, guards nothing
    return timing.offset + spread * timing.jitter
