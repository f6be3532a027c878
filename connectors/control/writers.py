"""The ways to devices behind one interface: is it reachable, carry this out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from connectors.control import sparkplug
from connectors.control.commands import Command, Value
from connectors.control.devices import Devices
from connectors.control.found import Found
from connectors.control.guard import Guard
from connectors.control.ledger import Event
from connectors.control.modbus import Modbus
from connectors.link import Link
from pipelines.clock import Clock
from pipelines.errors import NotConnected
from pipelines.runtime.entries import made

Outcome = tuple[Event, str]


class Writer(Protocol):
    """What writes to devices itself and so knows what has become of it."""

    def reachable(self, device: str) -> bool:
        """Whether something could be sent to a device now."""
        ...

    async def deliver(self, command: Command) -> Outcome:
        """Carry a command out: SUCCEED, FAIL, REJECT, RETURN (certainly not sent) or LOSE (nobody knows)."""
        ...

    async def read(self, device: str, want: Mapping[str, Value]) -> Found:
        """The settings that its profile has, and which are not as wanted. `NotConnected` if it does not answer."""
        ...

    async def write(self, device: str, setting: str, value: Value) -> Outcome:
        """Write a setting and read it back; as `deliver`."""
        ...

    async def close(self) -> None:
        """Close all links."""
        ...


def writers_for(devices: Devices | None, site: str, secrets_dir: Path, clock: Clock) -> dict[str, Writer]:
    """Those that a document needs, by way (`Profile.way`); `ConfigError` if a library or a secret is missing."""
    found: dict[str, Writer] = {}
    if devices is None:
        return found
    if any(p.modbus for p in devices.profiles.values()):
        found["modbus"] = Modbus(devices, clock)
    for named in devices.writers:
        module = named.partition(":")[0]
        found[module.rpartition(".")[2]] = made(named, f"devices.toml: {module}", devices, site, secrets_dir, clock)
    return found


class Writers:
    """MQTT, and for the devices whose profile says so one that writes directly."""

    def __init__(self, guard: Guard, link: Link | None, direct: Mapping[str, Writer]) -> None:
        self._guard, self._link, self._direct = guard, link, direct

    def reachable(self, command: Command) -> bool:
        """Whether the command could be sent now."""
        if writer := self._direct.get(self._guard.way(command.device)):
            return writer.reachable(command.device)
        return self._link is not None and self._link.connected

    async def deliver(self, command: Command) -> Outcome | None:
        """Send it; as `Writer.deliver`. None if the device will answer."""
        way = self._guard.way(command.device)
        if writer := self._direct.get(way):
            return await writer.deliver(command)
        if self._link is None or not self._link.connected:
            return Event.RETURN, "the MQTT link is down"
        try:
            if way == "sparkplug":
                await self._link.publish(command.topic, sparkplug.rebirth(command.issued_at_ns), sparkplug.QOS)
            else:
                await self._link.publish(command.topic, command.for_device())
        except NotConnected as e:
            return Event.LOSE, str(e)
        return None
