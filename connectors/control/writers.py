"""The ways to devices behind one interface: is it reachable, carry this out."""

from __future__ import annotations

from connectors.control.commands import Command
from connectors.control.guard import Guard
from connectors.control.ledger import Event
from connectors.control.modbus import Modbus, Outcome
from connectors.link import Link
from pipelines.errors import NotConnected


class Writers:
    """MQTT, and Modbus for the devices whose profile says so."""

    def __init__(self, guard: Guard, link: Link | None, modbus: Modbus | None) -> None:
        self._guard, self._link, self._modbus = guard, link, modbus

    def reachable(self, command: Command) -> bool:
        """Whether the command could be sent now."""
        if self._modbus and self._guard.modbus(command):
            return self._modbus.reachable(command.device)
        return self._link is not None and self._link.connected

    async def deliver(self, command: Command) -> Outcome | None:
        """Send it. SUCCEED, FAIL, RETURN (certainly not sent) or LOSE (nobody knows); None if the device will answer."""
        if self._modbus and self._guard.modbus(command):
            return await self._modbus.deliver(command)
        if self._link is None or not self._link.connected:
            return Event.RETURN, "the MQTT link is down"
        try:
            await self._link.publish(command.topic, command.for_device())
        except NotConnected as e:
            return Event.LOSE, str(e)
        return None
