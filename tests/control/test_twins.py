"""Settings reach a device and stay what is desired, with a real Kafka, a real Mosquitto and real kills; shown by `pipeline`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import msgspec
import pytest
from click.testing import CliRunner

from connectors.control import audit
from connectors.control.twin import Desired, State, Twin, Twins
from connectors.control.twins import line_of, read
from containers.cli import main
from containers.embedded import EmbeddedKafka
from pipelines import topics
from pipelines.runtime import kafka as access
from tests.bed import beside, until
from tests.control.plant import DEVICES, Device, MakeSite, Site

SETTINGS = """
[profiles.press.settings]
speed_max = {type = "float", min = 0.0, max = 2.5, unit = "m/s"}
mode = {type = "text", values = ["eco", "full"]}
"""


@dataclass
class Settable:
    """A machine that takes settings as docs/control.md wants it; it is at 1.0 m/s when it comes from the factory."""

    values: dict[str, Any] = field(default_factory=lambda: {"speed_max": 1.0})
    version: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)
    stubborn: bool = False

    @asynccontextmanager
    async def on(self, site: Site, name: str = "p1") -> AsyncIterator[Settable]:
        """Listen, and say how the settings are: at first, and after all that it hears."""
        url = urlsplit(site.mqtt)
        async with aiomqtt.Client(str(url.hostname), url.port or 1883, identifier=f"{site.name}-{name}-set") as client:
            await client.subscribe(f"{site.name}/{name}/desired", qos=1)
            self.client, self.topic = client, f"{site.name}/{name}/reported"
            await self.say()
            async with beside(self._listen()):
                yield self

    async def say(self, **changes: Any) -> None:
        """Publish a report."""
        said = {"version": self.version, "values": self.values} | changes
        await self.client.publish(self.topic, json.dumps(said), qos=1)

    async def _listen(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            told = json.loads(message.payload)
            self.heard.append(told)
            if told["version"] >= self.version:
                self.version = told["version"]
                if not self.stubborn:
                    self.values |= told["values"]
            await self.say(detail="it is locked" if self.stubborn else "")


@dataclass
class Cli:
    """`pipeline device` on a site."""

    site: Site

    def __post_init__(self) -> None:
        for name, key in (("me", b"m" * 32), ("you", b"y" * 32)):
            (self.site.folder / f"{name}.key").write_text(key.hex())
        self.file = self.site.folder / "site.toml"
        self.file.write_text(
            f'site = "{self.site.name}"\npipeline = "press.py"\nbrokers = "{self.site.brokers}"\npartitions = 2\n'
        )

    async def __call__(self, *words: str, key: str = "me", code: int = 0) -> str:
        """What it says."""
        words = (*words, "--site", str(self.file))
        env = {"SITESTREAM_DEVICE_KEY": str(self.site.folder / f"{key}.key")}
        done = await asyncio.to_thread(CliRunner().invoke, main, ["device", *words], env=env)
        assert done.exit_code == code, done.output
        return done.output


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site of its own for each test."""
    return make_site(devices=DEVICES + SETTINGS)


async def twin_of(site: Site, device: str = "p1") -> Twin:
    return Twins(await read(site.brokers, site.name))[device]


async def reaches(site: Site, state: State, version: int, device: str = "p1", **values: Any) -> Twin:
    """Wait until the twin is so."""

    async def there() -> Twin | None:
        twin = await twin_of(site, device)
        have = twin.reported.values if twin.reported else {}
        return twin if (twin.state, twin.version) == (state, version) and values.items() <= have.items() else None

    try:
        found: Twin = await until(there, 20, f"{state} at {version}")
        return found
    except TimeoutError as e:
        raise AssertionError(f"{await twin_of(site, device)}\n{site.log.read_text()}") from e


async def test_settings_go_to_the_device_until_it_has_them(site: Site) -> None:
    cli = Cli(site)
    async with site.control() as control:
        await control.ready()
        assert "nothing is desired of it" in await cli("twin", "p1")
        said = await cli("twin", "p1", "set", "speed_max=2.0", "mode=eco", "--expect", "0")
        assert said == "p1: version 1 is desired now\n"
        assert "version 1 is as it says" in await cli("twin", "p1", "set", "mode=eco")
        assert await control.scrape("metrics", f'sitestream_twins_different{{site="{site.name}"}} 1.0')
        async with Settable().on(site) as machine:  # only now it is there
            await reaches(site, State.IN_SYNC, 1, speed_max=2.0, mode="eco")
            for words, why in {
                ("set", "speed_max=9"): "speed_max: 9 is more than 2.5 m/s",
                ("set", "colour=red"): "the profile has no setting 'colour'",
                ("set", "mode=eco", "--expect", "7"): "the twin of p1 is at version 1, not 7",
            }.items():
                assert f"error: control refuses it: {why}" in await cli("twin", "p1", *words, code=1)
            refused = await cli("twin", "p1", "set", "speed_max=1", key="you", code=1)
            assert "you may not twin" in refused
            assert "no profile is for the device 'x1'" in await cli("twin", "x1", "set", "a=1", code=1)
            await machine.say(values={"speed_max": 0.2})  # somebody changed it at the machine
            await until(lambda: machine.heard[-1]["version"] == 1 and len(machine.heard) >= 2, 20)
            await reaches(site, State.IN_SYNC, 1, speed_max=2.0)
            machine.version, machine.values = 9, {"speed_max": 1.0}  # and it was at another site
            await machine.say()
            await reaches(site, State.IN_SYNC, 10, speed_max=2.0)
            machine.stubborn = True
            await cli("twin", "p1", "set", "speed_max=2.25")
            await reaches(site, State.DIFFERS, 11, speed_max=2.0)
            text = await cli("twin", "p1")
            assert "p1: DIFFERS for" in text
            assert "it says: it is locked" in text
            assert ["speed_max", "2.25", "2.0", "differs"] in [line.split() for line in text.splitlines()]
            value = json.loads(await cli("twin", "p1", "-o", "json"))
            assert value["difference"] == {"speed_max": {"desired": 2.25, "reported": 2.0}}
            await cli("twin", "p1", "unset", "speed_max")
            await reaches(site, State.IN_SYNC, 12)
            assert machine.heard[-1] == {"version": 12, "values": {"mode": "eco"}}
        assert await control.stop() == 0
    trail = await audit.read(site.brokers, site.name, "p1")
    lines = [(r.who, r.state) for r in trail if r.verb == "twin"]
    assert lines[0] == ("me", "SUCCEEDED")
    for line in (("control", "DELIVERED"), ("control", "IN_SYNC"), ("control", "RENUMBERED"), ("control", "DIFFERS")):
        assert line in lines
    assert ("you", "REJECTED") in lines or ("control", "REJECTED") in lines
    assert "Traceback" not in site.log.read_text()


async def test_nothing_is_told_while_it_is_switched_off_and_a_killed_control_goes_on(site: Site) -> None:
    cli = Cli(site)
    async with Settable().on(site) as machine:
        async with site.control() as control:
            await control.ready()
            await cli("off")
            await site.settled("SUCCEEDED")
            await cli("twin", "p1", "set", "speed_max=2.0")
            await cli("twin", "p1", "set", "speed_max=1.5")
            await asyncio.sleep(1)
            assert machine.heard == []
            await control.kill()
        async with site.control() as control:
            await control.ready()
            assert machine.heard == []
            await cli("on")
            await reaches(site, State.IN_SYNC, 2, speed_max=1.5)
            assert {told["version"] for told in machine.heard} == {2}
            for n, speed in enumerate((1.25, 0.75)):
                await cli("twin", "p1", "set", f"speed_max={speed}")
                await control.kill()
                control = await site.control().__aenter__()
                await control.ready()
                await reaches(site, State.IN_SYNC, 3 + n, speed_max=speed)
            await control.kill()
    versions = [told["version"] for told in machine.heard]
    assert versions == sorted(versions)


async def test_a_command_that_names_a_version_of_the_twin_is_refused_at_another(site: Site) -> None:
    cli = Cli(site)
    async with site.control() as control, Device().on(site) as device:
        await control.ready()
        await cli("twin", "p1", "set", "speed_max=2.0")
        await site.command("p1", id="meant", expected_twin_version=1)
        await site.command("p1", id="late", expected_twin_version=0)
        await until(lambda: ended(site, "meant", "SUCCEEDED"), 20)
        device.mute = True  # while one waits for its turn the twin changes
        await site.command("p1", id="first")
        await until(lambda: "first" in device.executions)
        await site.command("p1", id="waits", expected_twin_version=1)
        await cli("twin", "p1", "set", "speed_max=1.0")
        await device_says(site, "first")
        await until(lambda: ended(site, "waits", "REJECTED"), 20)
    found = {s.id: (s.state, s.detail) for s in await site.states()}
    assert found["meant"][0] == "SUCCEEDED"
    assert found["late"][0] == "REJECTED"
    assert "is at version 1, not 0" in found["late"][1]
    assert "is at version 2, not 1" in found["waits"][1]
    assert set(device.executions) == {"meant", "first"}


async def ended(site: Site, command: str, state: str) -> bool:
    return {s.id: s.state for s in await site.states()}.get(command) == state


async def device_says(site: Site, command: str) -> None:
    url = urlsplit(site.mqtt)
    async with aiomqtt.Client(str(url.hostname), url.port or 1883) as client:
        await client.publish(f"{site.name}/p1/ack", json.dumps({"id": command, "state": "SUCCEEDED"}), qos=1)


async def test_what_the_profile_no_longer_allows_is_not_told(site: Site, kafka: EmbeddedKafka) -> None:
    """What is on record may be older than devices.toml."""
    desired = Desired(
        device="p1", version=3, values={"speed_max": 99.0}, at_ns=time.time_ns(), by="me", command="c", since_ns=1
    )
    line = line_of(site.name, desired)
    await access.ensure(site.brokers, [topics.compacted(line.topic, 1)])
    producer = await access.producer(site.brokers)
    await producer.send_and_wait(line.topic, line.value, key=line.key, partition=0)
    await access.stopped(producer)
    async with Settable().on(site) as machine, site.control() as control:
        await control.ready()

        async def blocked() -> list[audit.Record]:
            return [r for r in await audit.read(site.brokers, site.name) if r.state == "BLOCKED"]

        (record,) = await until(blocked, 20)
        assert "speed_max: 99 is more than 2.5 m/s" in record.detail
        assert machine.heard == []
        metric = f'sitestream_twin_oldest_difference_timestamp_seconds{{site="{site.name}"}} 1e-09'
        assert await control.scrape("metrics", metric)
        await machine.client.publish(machine.topic, b"{", qos=1)
        await until(lambda: control.scrape("metrics", 'reason="report",service="control"'), 10)
    assert msgspec.json.decode(line.value, type=Desired) == desired
