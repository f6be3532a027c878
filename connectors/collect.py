"""The collect service: every source of a pipeline, from its devices to Kafka. `python -m connectors.collect --config FILE`.

It can only listen: towards devices there are subscriptions and acknowledgements, and no function that writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectors.base import Context, Readable, Reader
from connectors.collector import ROWS_MAX, Collector, Framer, Limits
from connectors.outlet import Outlet
from connectors.positions import KafkaPositions
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.runtime import kafka
from pipelines.runtime.entries import made
from pipelines.runtime.serve import Health
from pipelines.runtime.service import run_service
from pipelines.settings import Settings
from pipelines.topics import valid_name
from pipelines.units import duration_s

HEALTH_EVERY_S = 0.5
log = logging.getLogger("collect")


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Collect until `stop` is set. Sources that end leave the service idle: a new start would read them again."""
    plan = load(settings.pipeline).plan()
    limits, clock = limits_of(settings), SystemClock()
    readable: list[Any] = [source for source in plan.sources.values() if getattr(source, "reader", None)]
    collectors = [_collector(source, settings, limits, clock, stop) for source in readable]
    await kafka.ready(settings.brokers, plan.topics(settings.site, settings.partitions), stop)
    async with asyncio.TaskGroup() as tasks:
        for collector in collectors:
            tasks.create_task(collector.run(stop))
        tasks.create_task(_report_health(collectors, health, stop))


def _collector(
    source: Readable[Any], settings: Settings, limits: Limits, clock: Clock, stop: asyncio.Event
) -> Collector:
    name = valid_name("collector", settings.options.get("collector", "1"))
    outlet = Outlet(settings.brokers, stop)
    positions = KafkaPositions(settings.brokers, outlet, settings.site, source.stream, name, stop)
    context = Context(settings.site, name, Path(settings.secrets_dir), clock, positions)
    framer = Framer(
        settings.site, source.stream, name, source.schema.measured(), settings.partitions, limits.heartbeat_s
    )
    return Collector(source, open_reader(source, context), outlet, framer, settings.site, clock, limits)


def open_reader(source: Readable[Any], context: Context) -> Reader:
    """The reader that a source names; its client library is loaded now. `ConfigError` if that is not installed."""
    reader: Reader = made(source.reader, f"stream {source.stream}: its reader {source.reader}", source, context)
    return reader


def limits_of(settings: Settings) -> Limits:
    """`Limits` from `options` of the settings; `ConfigError` if one is wrong."""
    options = settings.options
    try:
        rows_max = int(options.get("rows_max", ROWS_MAX))
    except ValueError as e:
        raise ConfigError(f"options.rows_max {options['rows_max']!r} is not a whole number") from e
    if rows_max < 1:
        raise ConfigError(f"options.rows_max is {rows_max}: at least 1 is needed")
    return Limits(rows_max, duration_s(options.get("linger", "50ms")), duration_s(options.get("heartbeat", "1s")))


async def _report_health(collectors: Sequence[Collector], health: Health, stop: asyncio.Event) -> None:
    while not stop.is_set():
        health.set(kafka=all(c.kafka_up for c in collectors), sources=all(c.connected or c.ended for c in collectors))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEALTH_EVERY_S):
                await stop.wait()


if __name__ == "__main__":
    sys.exit(run_service("collect", main, conditions=("kafka", "sources")))
