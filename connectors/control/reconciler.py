"""Twins of devices that cannot tell their settings: control reads them, writes what is not as desired, and reads that back.

    read ──as desired──────────────────────────> what was read is what the device "reports"
      └─otherwise─> on record ─> write, one by one ─> read again ──┘

What is read is compared before anything is written, so what a process that was killed had written is not written again. A device
has one pass or one command at a time; a pass ends before its next write if a command waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from connectors.control import audit
from connectors.control.account import Alone
from connectors.control.devices import Devices, Profile
from connectors.control.ledger import Event
from connectors.control.rounds import Rounds
from connectors.control.switch import Switch
from connectors.control.twin import Desired, Report, Twins
from connectors.control.writers import Writer
from pipelines.clock import Clock
from pipelines.errors import NotConnected
from pipelines.runtime.account import Beside
from pipelines.units import duration_s

log = logging.getLogger("control.twins")
PASSES_MAX = 32
Line = Callable[[Desired, audit.Values, str], Beside]


class Reconciler:
    """Runs the passes. `line` is the audit's line of what is about to be written; `allowed` says whether it may be."""

    def __init__(
        self,
        devices: Devices | None,
        writers: Mapping[str, Writer],
        twins: Twins,
        switch: Switch,
        clock: Clock,
        line: Line,
        allowed: Callable[[Desired], bool],
        said: Callable[[str, Report], None],
        seed: int | None = None,
    ) -> None:
        self._devices, self._writers, self._twins, self._switch, self._clock = devices, writers, twins, switch, clock
        self._line, self._allowed, self._said = line, allowed, said
        self._rounds = Rounds(seed)
        self._rounds.begin([d for d in sorted({*_named(devices), *twins.devices}) if self.owns(d)], clock.monotonic_s())
        self._passes: dict[str, asyncio.Task[None]] = {}
        self._yielding: set[str] = set()  # a command waits for the end of the pass
        self._why: dict[str, dict[str, str]] = {}  # what came of the last write, by device and setting
        self._ending = False

    def owns(self, device: str) -> bool:
        """Whether a device is one that control itself writes to and reads."""
        profile = self._devices.profile_of(device) if self._devices else None
        return profile is not None and profile.way in self._writers and bool(profile.settings)

    def changed(self, device: str) -> None:
        """Something else is desired."""
        self._rounds.changed(device, self._clock.monotonic_s())

    def yields(self, device: str) -> bool:
        """Whether a command may go to a device now; if not, soon."""
        if device in self._passes:
            self._yielding.add(device)
        return device not in self._passes

    async def begin(self, alone: Alone, in_flight: Callable[[str], bool]) -> None:
        """Begin the passes that are due. Raises what has ended one before its time: `Unavailable` if Kafka is lost."""
        for task in [t for t in self._passes.values() if t.done()]:
            task.result()
        now = self._now()
        due = [d for d in self._rounds.due(now, PASSES_MAX) if d not in self._passes][: PASSES_MAX - len(self._passes)]
        if not due or self._switch.why_off():
            return
        async with alone():  # no command is put on its way meanwhile
            for device in due:
                self._rounds.started(device)
                if in_flight(device):
                    self._rounds.put_off(device, now)
                elif not self._of(device)[1].reachable(device):
                    self._silent(device, "there is no connection to it")
                else:
                    self._passes[device] = asyncio.create_task(self._pass(device, alone))

    async def settled(self) -> None:
        """Wait until the passes under way have ended; as `begin`."""
        await asyncio.gather(*self._passes.values())

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Afterwards nothing more is written, and no pass is left behind."""
        try:
            yield
            self._ending = True
            await self.settled()
        finally:
            for task in self._passes.values():
                task.cancel()
            await asyncio.gather(*self._passes.values(), return_exceptions=True)

    def _now(self) -> float:
        return self._clock.monotonic_s()

    def _of(self, device: str) -> tuple[Profile, Writer]:
        profile = self._devices.profile_of(device) if self._devices else None
        assert profile is not None  # it is one that we own
        return profile, self._writers[profile.way]

    def _silent(self, device: str, why: str) -> None:
        if self._rounds.silent(device, self._now()):
            log.warning("%s: its settings cannot be read: %s", device, why)

    async def _pass(self, device: str, alone: Alone) -> None:
        try:
            await self._reconcile(device, alone)
        except NotConnected as e:
            self._silent(device, str(e))
        self._yielding.discard(device)
        del self._passes[device]  # of one that raised something else `begin` must hear

    async def _reconcile(self, device: str, alone: Alone) -> None:
        """`NotConnected` if the device does not answer."""
        profile, writer = self._of(device)
        twin = self._twins[device]
        desired = twin.desired if twin.desired and self._allowed(twin.desired) else None
        want = desired.values if desired else {}
        found = await writer.read(device, want)
        heard = twin.reported.applied if twin.reported else 0
        wrong = {n: want[n] for n in found.wrong}
        if desired and not wrong:
            heard = desired.version
        elif desired and self._rounds.may_write(device, desired.version, self._now()):
            if not await self._write(desired, wrong, found.values, writer, alone):
                self._rounds.put_off(device, self._now())
                return
            found, heard = await writer.read(device, want), desired.version
        why = self._why[device] = {
            n: w for n, w in self._why.get(device, {}).items() if n in found.wrong
        } | found.faults
        self._said(device, Report(heard, found.values, "; ".join(f"{n}: {w}" for n, w in sorted(why.items()))))
        self._rounds.ended(device, self._now(), duration_s(profile.settings_every), agrees=not found.wrong)

    async def _write(
        self, desired: Desired, values: audit.Values, old: audit.Values, writer: Writer, alone: Alone
    ) -> bool:
        """Write settings; whether that was tried with all. It is on record before, as only who owns the record can put it."""
        if not self._goes_on(desired):
            return False
        async with alone() as put:
            await put([self._line(desired, values, "instead of " + ", ".join(f"{n}={old[n]}" for n in values))])
        why = self._why[desired.device] = {}
        for name, value in values.items():
            if not self._goes_on(desired):
                return False
            event, detail = await writer.write(desired.device, name, value)
            if event is not Event.SUCCEED:
                why[name] = detail
            if event in (Event.RETURN, Event.LOSE):
                break
        self._rounds.wrote(desired.device, desired.version, self._now())
        return True

    def _goes_on(self, desired: Desired) -> bool:
        overtaken = desired.device in self._yielding or self._twins[desired.device].desired is not desired
        return not (self._ending or overtaken or self._switch.why_off())


def _named(devices: Devices | None) -> list[str]:
    """Devices that are named in full, so that their settings can be read before anything is desired of them."""
    return [p.devices[0] for p in devices.profiles.values() if p.one_device] if devices else []
