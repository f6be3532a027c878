"""Alarms become commands that a device carries out once, or not at all; with a real Kafka, a real Mosquitto and real kills."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from connectors.control.signing import signed
from containers.embedded import EmbeddedKafka
from pipelines import topics
from tests.bed import free_port, until
from tests.bed.mosquitto import Mosquitto
from tests.bed.topics import consume_all
from tests.control.plant import ME, Device, MakeSite, Site


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site of its own for each test."""
    return make_site()


async def test_an_alarm_becomes_a_command_that_the_device_carries_out(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device, site.alarms() as alarms:
        await control.ready()
        await alarms.write("p1", 5.0)
        (done,) = await site.settled("SUCCEEDED")
        assert (done.device, done.verb, done.detail, done.issuer) == ("p1", "set_speed", "done", "press/alarm")
        assert device.heard[0]["args"] == {"speed": 0.5, "why": 5.0}
        assert device.heard[0]["id"] == done.id
        assert await control.scrape("metrics", f'sitestream_commands_total{{site="{site.name}",state="SUCCEEDED"}} 1.0')
        assert await control.stop() == 0
    assert "Traceback" not in site.log.read_text()


async def test_alarms_reach_the_device_within_a_second_one_after_the_other(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device, site.alarms() as alarms:
        await control.ready()
        raised = []
        for n in range(1, 6):
            raised.append(time.time())
            await alarms.write("p1", 5.0)
            await until(lambda n=n: len(device.heard) == n)  # type: ignore[misc]  # a lambda's default
        assert (
            sorted(heard - at for heard, at in zip(device.heard_at, raised, strict=True))[2] < 1.0
        )  # the machine may be busy
        await site.settled(*["SUCCEEDED"] * 5)
        assert max(device.executions.values()) == 1


async def test_a_repeated_command_is_dropped_and_an_expired_one_is_refused(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device:
        await control.ready()
        command = await site.command("p1", id="once")
        await site.command("p1", command.encode(), command.encode())
        now = time.time_ns()
        await site.command("p1", id="late", issued_at_ns=now - 2 * 10**9, expires_at_ns=now - 10**9)
        late, once = await site.settled("EXPIRED", "SUCCEEDED")
        assert (late.id, once.id) == ("late", "once")
        assert dict(device.executions) == {"once": 1}


async def test_rows_of_long_ago_move_nothing(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device, site.alarms() as alarms:
        await control.ready()
        await alarms.write("p1", 5.0, time_ns=time.time_ns() - 31 * 10**9)
        await site.settled("EXPIRED")
        assert not device.heard


async def test_an_aborted_alarm_never_actuates(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device, site.alarms() as alarms:
        await control.ready()
        now = time.time_ns()
        await alarms.write("p1", 5.0, time_ns=now, commit=False)
        await alarms.write("p1", 7.0, time_ns=now + 10**9)
        await site.settled("SUCCEEDED")
        assert [c["args"] for c in device.heard] == [{"speed": 0.5, "why": 7.0}]


async def test_an_aborted_command_never_actuates(site: Site) -> None:
    async with site.control() as control, Device().on(site) as device, site.alarms("sender") as sender:
        await control.ready()
        command = await site.command("p1", id="good")
        bad = signed(msgspec.structs.replace(command, id="bad"), site.name, ME)
        await sender.client.begin_transaction()
        await sender.client.send_and_wait(topics.commands(site.name), bad.encode(), key=b"p1")
        await sender.client.abort_transaction()
        await site.command("p1", id="good-2")
        await site.settled("SUCCEEDED", "SUCCEEDED")
        assert set(device.executions) == {"good", "good-2"}


async def test_what_is_no_command_is_dead_lettered_with_its_reason(site: Site, kafka: EmbeddedKafka) -> None:
    async with site.control() as control, Device().on(site) as device:
        await control.ready()
        good = await site.command("p1", id="good")
        other = msgspec.structs.replace(good, device="p2").encode()
        await site.command("p1", b"{", b'{"id": 1}', other)
        await until(lambda: control.scrape("metrics", 'reason="key",service="control"'), 10)
        assert await consume_all(kafka.bootstrap, topics.dead(site.name)) == [
            b"{", b'{"id": 1}', other,
        ]  # fmt: skip
        await site.settled("SUCCEEDED")
        assert set(device.executions) == {"good"}
    log = site.log.read_text()
    assert "is b'p1', not its device 'p2'" in log


@pytest.mark.parametrize(("crash", "deliveries"), [("before", 0), ("after", 1)])
async def test_after_a_crash_a_command_that_may_have_been_done_is_unknown(
    site: Site, crash: str, deliveries: int
) -> None:
    async with Device(mute=True).on(site) as device, site.alarms() as alarms:
        async with site.control(crash) as control:
            await control.ready()
            await alarms.write("p1", 5.0)
            assert await control.ended() == -9
        async with site.control():
            (unknown,) = await site.settled("UNKNOWN")
            assert "interrupted" in unknown.detail
        assert device.executions[unknown.id] == deliveries


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_after_a_crash_an_idempotent_command_is_repeated(make_site: MakeSite, crash: str) -> None:
    site = make_site(idempotent=True)
    async with Device(mute=True).on(site) as device, site.alarms() as alarms:
        async with site.control(crash) as control:
            await control.ready()
            await alarms.write("p1", 5.0)
            assert await control.ended() == -9
        device.mute = False
        async with site.control():
            (done,) = await site.settled("SUCCEEDED")
        assert done.attempts == 2
        assert device.executions[done.id] == (2 if crash == "after" else 1)


async def test_an_answer_that_comes_while_control_is_away_settles_what_is_unknown(site: Site) -> None:
    async with Device().on(site) as device, site.alarms() as alarms:
        async with site.control("after") as control:
            await control.ready()
            await alarms.write("p1", 5.0)
            assert await control.ended() == -9
        async with site.control():
            await site.settled("SUCCEEDED")
        assert max(device.executions.values()) == 1


async def test_a_command_waits_for_the_mqtt_broker_and_goes_on(site: Site, mosquitto: Mosquitto) -> None:
    device = Device()
    async with site.control() as control:
        await control.ready()
        async with device.on(site, kept=True):
            pass  # from here on the broker knows what it listens to: control may be back before it
        mosquitto.stop()
        await until(lambda: control.scrape("healthz", '"mqtt": false'), 10)
        await site.command("p1", id="waits")
        await site.settled("QUEUED")
        mosquitto.start()
        async with device.on(site, kept=True):
            await site.settled("SUCCEEDED")


async def test_a_frozen_control_that_was_replaced_can_do_nothing_when_it_wakes_up(site: Site, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new_site = Site(site.name, site.brokers, site.mqtt, tmp_path / "new")
    async with site.control() as old, Device(mute=True).on(site) as device:
        await old.ready()
        await site.command("p1", id="a")
        await site.command("p1", id="b")
        await site.settled("DELIVERED", "QUEUED")  # one in flight per device
        old.freeze()
        device.mute = False
        async with new_site.control() as new:
            await site.settled("UNKNOWN", "SUCCEEDED")
            old.thaw()
            assert await old.ended() == 1
            assert await new.scrape("healthz", '"mqtt": true')
            await site.settled("UNKNOWN", "SUCCEEDED")
        assert dict(device.executions) == {"a": 1, "b": 1}
    assert site.log.read_text().endswith(
        f"control: another control service of site {site.name} took over: run one a site\n"
    )


async def test_without_kafka_it_says_so_and_waits(site: Site, tmp_path: Path) -> None:
    nowhere = Site(site.name, f"127.0.0.1:{free_port()}", site.mqtt, tmp_path)
    async with nowhere.control() as control:
        await until(lambda: f"no Kafka broker answers at {nowhere.brokers}" in nowhere.log.read_text(), 20)
        assert await control.stop() == 0


async def test_a_site_that_never_had_control_has_no_commands(site: Site) -> None:
    assert await site.states() == []
