"""The control service: `python -m connectors.control.service --config FILE`. One per site."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faust
from faust.exceptions import FaustError

from connectors.control import DeviceTopic, api, destination, sparkplug
from connectors.control.account import Account, read
from connectors.control.app import app_of
from connectors.control.bridge import Bridge, origins, topics_of
from connectors.control.commands import Command
from connectors.control.desk import Desk
from connectors.control.devices import Devices, parse
from connectors.control.guard import Guard
from connectors.control.rebirths import Rebirths
from connectors.control.signing import own
from connectors.control.switch import Switch
from connectors.control.twins import TwinDesk, filters
from connectors.control.twins import read as read_twins
from connectors.control.writers import Writers, writers_for
from connectors.link import Broker, Link
from pipelines import metrics, topics
from pipelines.clock import SystemClock
from pipelines.dead import DeadLetter
from pipelines.errors import ConfigError, Unavailable
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.runtime import kafka
from pipelines.runtime.serve import Health
from pipelines.runtime.service import run_service
from pipelines.settings import Settings

END_S_MAX = 10.0  # shorter than the drain time of `run_service`
Job = Coroutine[None, None, None]
CONDITIONS = ("connected", "commands", "mqtt")  # to Kafka; assigned the command topic; to the devices


def broker_of(settings: Settings, plan: Plan) -> Broker:
    """Where commands go; see `connectors.control.destination`."""
    url, who = destination(plan, settings.options.get("mqtt"))
    return Broker.of(
        url, Path(settings.secrets_dir), username=getattr(who, "username", None), password=getattr(who, "password", None),
        ca=getattr(who, "ca", None),
    )  # fmt: skip


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Carry commands until told to stop."""
    plan = load(settings.pipeline).plan()
    sources = origins(plan, settings.site)
    devices = parse(settings.devices, "devices.toml") if settings.devices else None
    if not sources and devices is None:
        raise ConfigError(
            f"{settings.pipeline}: nothing to control: no stream has a .to(control.command(…)), and the site no devices.toml"
        )
    patterns = patterns_of(plan, devices)
    births = sparkplug.filters(devices)
    broker = broker_of(settings, plan) if patterns or births else None
    key = own(Path(settings.data_dir))
    if not await kafka.ready(settings.brokers, topics_of(plan, settings.site, settings.partitions), stop):
        return
    quiet()
    producer = await kafka.producer(settings.brokers)

    async def bury(letter: DeadLetter) -> None:
        metrics.dead_letters.labels(settings.site, "control", letter.reason).inc()
        logging.getLogger("control").warning("dead letter from %s: %s", letter.origin, letter.message)
        try:
            await producer.send_and_wait(topics.dead(settings.site), letter.payload, headers=letter.headers("control"))
        except kafka.KafkaError as e:
            kafka.raise_refusal(e)
            raise Unavailable(f"Kafka did not take a dead letter: {e!r}") from e

    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(kafka.stopped, producer)
        account = await Account.of(settings.brokers, settings.site)
        ending.push_async_callback(account.close)
        entries = await read(settings.brokers, settings.site)  # after the account is open: nobody else adds to them
        clock = SystemClock()
        newest_ns = max((e.updated_at_ns for e in entries), default=0)
        guard = Guard(settings.site, devices, patterns, key, newest_ns)
        heard = [*sorted({t.ack_filter for t in patterns}), *filters(devices), *births]
        link = Link(broker, f"{settings.site}-control", heard, health) if broker else None
        if link is None:
            health.set(mqtt=True)  # there is nothing to be connected to
        direct = writers_for(devices, settings.site, Path(settings.secrets_dir), clock)
        for writer in direct.values():
            ending.push_async_callback(writer.close)
        local = settings.options.get("off_switch")
        switch = Switch(Path(settings.data_dir), Path(local) if local else None)
        sides = await read_twins(settings.brokers, settings.site)
        twins = TwinDesk(settings.site, devices, sides, link, direct, switch, clock)
        writers = Writers(guard, link, direct)
        desk = Desk(settings.site, patterns, entries, account, guard, switch, writers, twins, bury, clock)
        bridge = Bridge(settings, sources, producer, bury, health, key)
        hand_in = partial(_hand_in, producer, settings.site)
        await ending.enter_async_context(api.serving(settings, desk, hand_in, clock))
        work = [desk.run(stop), bridge.run(stop), twins.run(desk.alone, desk.in_flight, stop)]
        if devices and births and plan.needs_births:
            work.append(Rebirths(settings, devices, switch, key, hand_in, desk.admits, clock).run(stop))
        await _run(app_of(settings, desk, health), desk, twins, link, work, stop)


async def _hand_in(producer: kafka.Client, site: str, command: Command) -> None:
    """Put a command on the command topic, as whoever sends one does."""
    try:
        await producer.send_and_wait(topics.commands(site), command.encode(), key=command.device.encode())
    except kafka.KafkaError as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"Kafka did not take command {command.id}: {e!r}") from e


def patterns_of(plan: Plan, devices: Devices | None) -> list[DeviceTopic]:
    """The MQTT topics on which commands go out, of the sinks and of the profiles."""
    sinks = [sink.topic for _, sink in plan.sinks_of("control")]
    profiles = [DeviceTopic.of(p.topic) for p in devices.profiles.values() if p.topic] if devices else []
    return list({t.text: t for t in (*sinks, *profiles)}.values())


async def _run(
    app: faust.App, desk: Desk, twins: TwinDesk, link: Link | None, jobs: Sequence[Job], stop: asyncio.Event
) -> None:
    """Run the parts side by side; when one fails or `stop` is set, end all in order."""

    async def hear(topic: str, payload: bytes) -> None:
        if twins.owns(topic):
            twins.hear(topic, payload)
        elif node := sparkplug.born(topic):
            await desk.born(node)
        else:
            await desk.hear(topic, payload)

    async def connected() -> None:
        await desk.connected()
        twins.connected()

    work = [asyncio.create_task(job) for job in jobs]
    answers = [link.run(hear, connected)] if link else []
    parts = [*work, *(asyncio.create_task(c) for c in (*answers, _host(app), stop.wait()))]
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            if part.done():
                part.result()
        await asyncio.gather(*work)
    finally:
        _end_in_time(sys.exception())
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await app.stop()


def _end_in_time(error: BaseException | None) -> None:
    """End the process, with its error, if it has not ended by itself: without Kafka neither Faust nor aiokafka is sure to."""

    def end() -> None:
        print(
            f"control: {error or f'Kafka is away: not all parts stopped within {END_S_MAX:.0f} s'}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(END_S_MAX, end)
    timer.daemon = True
    timer.start()


async def _host(app: faust.App) -> None:
    """Run the Faust app; raises what ended it."""
    await app.start()
    await app.wait_until_stopped()
    reason = app.crash_reason
    if reason is not None:
        kafka.raise_refusal(reason)
    if reason is None or isinstance(reason, (kafka.KafkaError, FaustError)):
        raise Unavailable(f"Faust ended: {reason!r}") from reason
    raise reason


def quiet() -> None:
    """Faust and mode say nothing: what ends the app is raised here, and the rest is noise (tables, traces)."""
    for name in ("faust", "mode", "connectors.control.app"):  # the last is what mode calls the classes there
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(_left_behind)


def _left_behind(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """aiokafka leaves failed futures behind that nobody awaits; what matters it raises as well."""
    if not isinstance(context.get("exception"), kafka.KafkaError):
        loop.default_exception_handler(context)


if __name__ == "__main__":
    sys.exit(run_service("control", main, conditions=CONDITIONS))
