"""People command devices over MQTT and Modbus, with real servers and real kills: signatures, approvals, switch, audit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from connectors.control import audit
from connectors.control.commands import Command
from tests.bed import free_port, until
from tests.control.plant import DEVICES, YOU, Device, MakeSite, Site

MODBUS = """
[profiles.drive]
devices = ["d1"]
modbus = "tcp://127.0.0.1:PORT"
[profiles.drive.verbs.set_speed]
idempotent = true
args.speed = {type = "float", min = -2.0, max = 2.5}
write = {to = "register", address = 4, arg = "speed", scale = 0.1, word = "i16"}
[profiles.drive.verbs.step]
write = {to = "register", address = 5, value = 1}
[profiles.drive.verbs.stubborn]
write = {to = "register", address = 6, value = 1, within = "300ms"}
[profiles.drive.verbs.start]
write = {to = "coil", address = 2, value = 1}
[profiles.drive.verbs.position]
args.at = {type = "int"}
write = {to = "register", address = 8, arg = "at", word = "i32"}
"""


@dataclass
class Drive:
    """A Modbus device that records its writes. Register 6 takes a value and keeps its own."""

    port: int = field(default_factory=free_port)
    writes: list[tuple[int, int]] = field(default_factory=list)  # (function code, address)

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[Drive]:
        registers = [SimData(a, values=0, datatype=DataType.REGISTERS) for a in range(12)]
        bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
        device = SimDevice(1, (bits, bits, registers, registers), action=self._asked)
        server = ModbusTcpServer([device], address=("127.0.0.1", self.port))
        await server.serve_forever(background=True)
        try:
            yield self
        finally:
            await server.shutdown()

    async def _asked(
        self, function: int, start: int, address: int, count: int, now: list[int], new: object
    ) -> ExcCodes | None:
        if new is not None and function in (5, 6, 15, 16):  # the server reads the value once more for its answer
            self.writes.append((function, address))
        if function == 3 and address == 6:
            now[address - start] = 7
        return None


@pytest.fixture
def site(make_site: MakeSite, tmp_path: Path, drive: Drive) -> Site:
    (tmp_path / "switch").mkdir()
    devices = (MODBUS + DEVICES).replace("PORT", str(drive.port))
    options = {"off_switch": str(tmp_path / "switch")}
    return make_site(devices=devices, options=options)


async def become(site: Site, command: Command, state: str) -> str:
    """Wait until a command is in that state; the detail."""

    async def there() -> list[str]:
        return [s.detail + " " for s in await site.states() if s.id == command.id and s.state == state]

    try:
        return str((await until(there, 30, f"{command.id} {state}"))[0]).strip()
    except TimeoutError as e:
        raise AssertionError(f"{await site.states()}\n{site.log.read_text()}") from e


async def test_people_command_by_signature_approval_and_switch(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device:
        await control.ready()
        forged = await site.command("p1", id="forged", key=YOU)
        assert await become(site, await site.command("p1", id="forged"), "SUCCEEDED") == "done"  # its id is not taken
        too_fast = await site.command("p1", id="fast", verb="set_speed", args={"speed": 9.0})
        assert await become(site, too_fast, "REJECTED") == "speed: 9 is more than 2.5 m/s"

        danger = await site.command("p1", id="danger", verb="open")
        await become(site, danger, "AWAITING_APPROVAL")
        mine = await site.command("p1", id="mine", verb="approve", args={"id": "danger"})
        assert "another person must approve it" in await become(site, mine, "REJECTED")
        await site.command("p1", id="yours", verb="approve", args={"id": "danger"}, issuer="you", key=YOU)
        await become(site, danger, "SUCCEEDED")

        await become(site, await site.command("site", id="off", verb="off"), "SUCCEEDED")
        waits = await site.command("p1", id="waits")
        await become(site, waits, "QUEUED")
        (site.folder / "switch" / "off").touch()
        await become(site, await site.command("site", id="on", verb="on"), "SUCCEEDED")
        assert await control.scrape("metrics", f'control_off{{site="{site.name}"}} 1.0')
        assert "waits" not in device.executions
        (site.folder / "switch" / "off").unlink()
        await become(site, waits, "SUCCEEDED")
        assert dict(device.executions) == {"forged": 1, "danger": 1, "waits": 1}

        records = await audit.read(site.brokers, site.name)
        of_danger = [(r.state, r.who) for r in records if r.command == "danger"]
        assert of_danger[:3] == [("AWAITING_APPROVAL", "me"), ("QUEUED", "you"), ("DELIVERED", "control")]
        assert of_danger[-1] == ("SUCCEEDED", "control")
        assert [r.detail for r in records if r.state == "REFUSED"] == ["it is not signed by me"]
        assert {r.command for r in await audit.read(site.brokers, site.name, "site")} == {"off", "on"}
        assert forged.id == "forged"


async def test_a_modbus_device_is_written_to_and_read_back(site: Site, drive: Drive) -> None:
    async with site.control() as control:
        await control.ready()
        waits = await site.command("d1", id="waits", verb="step")
        gone = await site.command("d1", id="gone", verb="step", expires_at_ns=waits.issued_at_ns + 4 * 10**9)
        await become(site, gone, "EXPIRED")  # the device is away: certainly nothing was sent
        async with drive.on():
            await become(site, waits, "SUCCEEDED")
            speed = await site.command("d1", id="speed", verb="set_speed", args={"speed": -1.5})
            assert await become(site, speed, "SUCCEEDED") == "register 4 reads -15"
            stubborn = await site.command("d1", id="stubborn", verb="stubborn")
            assert await become(site, stubborn, "FAILED") == "1 was written, and register 6 reads 7 after 300ms"
            start = await site.command("d1", id="start", verb="start")
            assert await become(site, start, "SUCCEEDED") == "coil 2 reads 1"
            there = await site.command("d1", id="there", verb="position", args={"at": -70_000})
            assert await become(site, there, "SUCCEEDED") == "register 8 reads -70000"
            assert drive.writes == [(6, 5), (6, 4), (6, 6), (5, 2), (16, 8)]
        assert await control.stop() == 0


@pytest.mark.parametrize(("crash", "verb", "state", "writes"), [
    ("write-before", "step", "UNKNOWN", 0), ("write-after", "step", "UNKNOWN", 1),
    ("write-before", "set_speed", "SUCCEEDED", 1), ("write-after", "set_speed", "SUCCEEDED", 2),
])  # fmt: skip
async def test_a_kill_around_a_modbus_write_repeats_only_what_may_be_repeated(
    site: Site, drive: Drive, crash: str, verb: str, state: str, writes: int
) -> None:
    async with drive.on():
        async with site.control(crash) as control:
            await control.ready()
            args = {"speed": 1.0} if verb == "set_speed" else {}
            command = await site.command("d1", id="c", verb=verb, args=args)
            assert await control.ended() == -9
        async with site.control():
            await become(site, command, state)
        assert len(drive.writes) == writes


@pytest.mark.parametrize(
    ("state", "moment", "ends"),
    [
        ("QUEUED", "after", ("SUCCEEDED",)),
        ("DELIVERED", "before", ("SUCCEEDED",)),
        ("DELIVERED", "after", ("UNKNOWN",)),  # nobody knows that it was not sent
        # the answer that control had in hand is gone, or comes again: if it is gone, the time-out settles it (test_ledger)
        ("ACCEPTED", "after", ("ACCEPTED", "SUCCEEDED")),
        ("SUCCEEDED", "before", ("ACCEPTED", "SUCCEEDED")),
    ],
)
async def test_a_kill_at_each_change_of_state_never_does_it_twice(
    site: Site, state: str, moment: str, ends: tuple[str, ...]
) -> None:
    async with Device().on(site) as device:
        async with site.control(f"{moment}-{state}") as control:
            await control.ready()
            command = await site.command("p1", id="c")
            assert await control.ended() == -9
        async with site.control() as control:
            await control.ready()

            async def settled() -> str:
                return next((s.state for s in await site.states() if s.state in ends), "")

            end = await until(settled, 30, "a state that stays")
            await asyncio.sleep(1)  # for a second delivery, were there one
        assert device.executions[command.id] == (end != "UNKNOWN")
