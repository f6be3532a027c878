"""Settings of devices that cannot tell them are written, read and set back; real servers, real kills, `pipeline device twin`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asyncua import ua
from pymodbus.client import AsyncModbusTcpClient

from connectors.control import audit
from connectors.control.twin import State
from tests.bed import until
from tests.bed.opcua import OpcuaServer
from tests.control.plant import DEVICES, MakeSite, Site
from tests.control.test_devices import Drive, become
from tests.control.test_opcua import Mixer
from tests.control.test_twins import Cli, reaches

DRIVE = """
[profiles.drive]
devices = ["d1"]
modbus = "tcp://127.0.0.1:PORT"
settings_every = "1s"
[profiles.drive.verbs.step]
write = {to = "register", address = 5, value = 1}
[profiles.drive.settings]
speed_max = {type = "float", min = 0.0, max = 2.5, unit = "m/s", write = {to = "register", address = 4, scale = 0.1}}
at = {type = "int", write = {to = "register", address = 8, word = "i32"}}
eco = {type = "bool", write = {to = "coil", address = 2}}
stubborn = {type = "int", write = {to = "register", address = 6, within = "300ms"}}
gone = {type = "int", write = {to = "register", address = 70}}
"""
MIXER = """
[profiles.mixer]
devices = ["m*"]
settings_every = "1s"
opcua.server = "URL"
[profiles.mixer.settings]
speed_max = {type = "float", min = 0.0, max = 2.5, set = {node = "Objects/PLANT/{device}/Speed", type = "Float"}}
steps = {type = "int", set = {node = "Objects/PLANT/{device}/Step", type = "Int32"}}
stubborn = {type = "float", set = {node = "Objects/PLANT/{device}/Stubborn", type = "Double", within = "300ms"}}
nowhere = {type = "float", set = {node = "Objects/PLANT/{device}/Nowhere", type = "Double"}}
"""


@pytest.fixture
def site(make_site: MakeSite, tmp_path: Path, drive: Drive) -> Site:
    (tmp_path / "switch").mkdir()
    options = {"off_switch": str(tmp_path / "switch")}
    devices = DRIVE.replace("PORT", str(drive.port)) + DEVICES
    return make_site(devices=devices, options=options)


async def stand_before(drive: Drive, register: int, value: int) -> None:
    """Somebody changes a register at the device."""
    async with AsyncModbusTcpClient("127.0.0.1", port=drive.port) as hand:
        assert not (await hand.write_register(register, value, device_id=1)).isError()


async def said(site: Site, device: str, detail: str) -> bool:
    """Whether the audit has that of a twin."""
    return any(r.detail == detail for r in await audit.read(site.brokers, site.name, device))


async def test_settings_of_a_modbus_device_are_written_read_back_and_set_back(site: Site, drive: Drive) -> None:
    cli = Cli(site)
    async with site.control() as control:
        await control.ready()
        await cli("twin", "d1", "set", "speed_max=2.0", "at=-70000")
        refused = await cli("twin", "d1", "set", "at=3000000000", code=1)
        assert "at=3000000000 is 3000000000 as i32, and may be -2147483648 to 2147483647" in refused
        await reaches(site, State.PENDING, 1, "d1")
        async with drive.on():  # only now it is there
            await reaches(site, State.IN_SYNC, 1, "d1", speed_max=2.0, at=-70000, eco=False)
            assert drive.writes == [(6, 4), (16, 8)]
            await cli("twin", "d1", "set", "eco=true", "speed_max=2.02")  # of which the register can show two digits
            await reaches(site, State.IN_SYNC, 2, "d1", speed_max=2.02, eco=True)
            assert drive.writes == [(6, 4), (16, 8), (5, 2)]

            await stand_before(drive, 4, 7)
            await reaches(site, State.IN_SYNC, 2, "d1", speed_max=2.02)
            await until(lambda: said(site, "d1", "version 2, instead of speed_max=0.7"), 20)
            await until(lambda: len(drive.writes) == 5, 20)
            assert drive.writes[3:] == [(6, 4), (6, 4)]  # by hand, and back

            (site.folder / "switch" / "off").touch()
            await cli("twin", "d1", "set", "speed_max=1.0")
            step = await site.command("d1", id="step", verb="step")
            await asyncio.sleep(1.5)
            assert len(drive.writes) == 5
            (site.folder / "switch" / "off").unlink()
            await become(site, step, "SUCCEEDED")
            await reaches(site, State.IN_SYNC, 3, "d1", speed_max=1.0)
            assert sorted(drive.writes[5:]) == [(6, 4), (6, 5)]

            await cli("twin", "d1", "set", "stubborn=1", "gone=1")
            await reaches(site, State.DIFFERS, 4, "d1", stubborn=7)
            text = await cli("twin", "d1")
            assert "gone: register 70 cannot be read (code 2)" in text
            assert "stubborn: 1 was written, and register 6 reads 7 after 300ms" in text
        assert await control.stop() == 0
    assert "Traceback" not in site.log.read_text()


async def test_a_kill_after_the_write_of_a_setting_does_not_repeat_it(site: Site, drive: Drive) -> None:
    cli = Cli(site)
    async with drive.on():
        async with site.control("write-after") as control:
            await control.ready()
            await cli("twin", "d1", "set", "speed_max=2.0")
            assert await control.ended() == -9
        async with site.control():
            await reaches(site, State.IN_SYNC, 1, "d1", speed_max=2.0)
        assert drive.writes == [(6, 4)]


async def test_settings_of_an_opcua_device_are_written_read_back_and_set_back(
    make_site: MakeSite, opcua_server: OpcuaServer, mixer: Mixer, unique: str
) -> None:
    document = MIXER.replace("URL", opcua_server.url).replace("PLANT", unique)
    site = make_site(devices=document + DEVICES)
    cli = Cli(site)
    async with site.control() as control:
        await control.ready()
        assert "nothing is desired of it, and it has reported nothing" in await cli("twin", "m1")
        await cli("twin", "m1", "set", "speed_max=2.1", "steps=3")
        await reaches(site, State.IN_SYNC, 1, "m1", speed_max=2.1, steps=3, stubborn=0.0)
        assert mixer.writes == {"Speed": 1, "Step": 1}
        opcua_server.write(f"{unique}/m1/Step", 5, kind=ua.VariantType.Int32)
        await until(lambda: said(site, "m1", "version 1, instead of steps=5"), 20)
        await reaches(site, State.IN_SYNC, 1, "m1", steps=3)
        await cli("twin", "m1", "set", "stubborn=1")
        await reaches(site, State.DIFFERS, 2, "m1")
        text = await cli("twin", "m1")
        assert f"stubborn: 1 was written, and Objects/{unique}/m1/Stubborn reads 0 after 300ms" in text
        assert f"nowhere: Objects/{unique}/m1/Nowhere is no node of the server: is the path right?" in text
        assert await control.stop() == 0
    assert "Traceback" not in site.log.read_text()
