"""How much collecting OPC UA tags takes: CPU, memory, loss. `python -m benchmarks.opcua [--tags N] [--seconds S] [--json FILE]`.

A real server (asyncua) in a process of its own has N tags of float, each of which changes every second, with a number that counts
up. The reader runs here; what it reads must be every number of every tag, in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import time
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from connectors import opcua
from connectors.base import Context
from connectors.opcua import link
from connectors.opcua.reader import OpcuaReader
from containers.child import free_port
from pipelines import Col, Key, Schema
from pipelines.clock import SystemClock
from pipelines.expr import Array

START_S_MAX = 600
HALL = 50  # tags in a folder; the server's time to add one grows with their number


class Tag(Schema):
    """A tag."""

    tag = Key[str]()
    value = Col[float]()


@dataclass(frozen=True)
class Result:
    """What was measured while the server ran at its rate; the start is left out."""

    tags: int
    seconds: float
    readings: int
    lost: int
    rate: float  # readings a second; a server that is short of CPU does not reach one for each tag
    cpu_percent: float  # of one core
    cpu_us: float  # for a reading
    rss_mb: float
    rss_before_mb: float  # with everything imported, before the first connection
    start_s: float  # from connecting until every node is monitored


async def _serve(port: int, tags: int, ready: Event, go: Event, stop: Event) -> None:
    import logging

    from asyncua import Server, ua
    from asyncua.server.monitored_item_service import MonitoredItemValues

    def keep(self: Any, value: Any) -> None:
        self.old_dvalue, self.current_dvalue = self.current_dvalue, value

    setattr(MonitoredItemValues, "set_current_datavalue", keep)  # noqa: B010 - it copies each value, and so is too slow
    logging.disable(logging.CRITICAL)
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    plant = await server.nodes.objects.add_object(2, "Plant")
    nodes = []
    for n in range(tags):
        if n % HALL == 0:
            hall = await plant.add_object(2, f"hall-{n // HALL}")
        nodes.append((await hall.add_variable(2, f"tag-{n}", 0.0)).nodeid)
    async with server:
        ready.set()
        await asyncio.to_thread(go.wait)
        count = 0
        while not stop.is_set():
            count, began = count + 1, time.monotonic()
            for n, node in enumerate(nodes):
                now: Any = _now()
                data = ua.DataValue(ua.Variant(float(count), ua.VariantType.Double), ua.StatusCode(), now, now)
                await server.write_attribute_value(node, data)
                if n % 250 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC)


def _server(port: int, tags: int, ready: Event, go: Event, stop: Event) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(port, tags, ready, go, stop))


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def _read(port: int, tags: int, seconds: float, go: Event) -> Result:
    described = opcua.source(
        Tag,
        server=f"opc.tcp://127.0.0.1:{port}/plant",
        nodes={Tag.value: "Objects/Plant/*/{tag}"},
        every="1s",
        sampling="1s",
    )
    link.LATE_S_MAX = START_S_MAX  # the server may be short of CPU
    before = _rss_mb()
    reader = OpcuaReader(described, Context("bench", "1", Path("/nowhere"), SystemClock()))
    start = time.monotonic()
    await reader.connect()
    start_s = time.monotonic() - start
    go.set()
    seen = np.zeros(tags)  # the last number of each tag
    first = np.zeros(tags)
    readings = lost = 0
    began = cpu = 0.0
    while not began or time.monotonic() - began < seconds:
        got = await reader.read(rows_max=4_096, linger_s=0.05)
        new, missing = _count(got.batch.codes, got.batch.columns["Tag.value"], seen, first)
        readings, lost = readings + new, lost + missing
        await got.ack()
        if not began and first.all():  # every tag has spoken: from here on it counts
            began, cpu, readings = time.monotonic(), time.process_time(), 0
    spent = time.process_time() - cpu
    rss = _rss_mb()
    await reader.close()
    rate = readings / seconds
    return Result(
        tags, seconds, readings, lost, rate, 100 * spent / seconds, 1e6 * spent / readings, rss, before, start_s
    )


def _count(codes: Array, values: Array, seen: Array, first: Array) -> tuple[int, int]:
    """(readings, numbers that were left out) of a batch whose tags' readings are in order."""
    order = np.argsort(codes, kind="stable")
    tag, value = codes[order], values[order]
    starts = np.diff(tag, prepend=-1) != 0
    previous = np.where(starts, np.where(first[tag] > 0, seen[tag], value - 1), np.roll(value, 1))
    known = value > 0
    missing = int((value - previous - 1)[known].sum())
    seen[tag] = value
    np.maximum.at(first, tag, value)
    return len(codes), missing


def measure(tags: int, seconds: float) -> Result:
    """Run both and compare."""
    context = multiprocessing.get_context("spawn")
    ready, go, stop, port = context.Event(), context.Event(), context.Event(), free_port()
    server = context.Process(target=_server, args=(port, tags, ready, go, stop), daemon=True)
    server.start()
    try:
        if not ready.wait(START_S_MAX):
            raise TimeoutError(f"the server did not start within {START_S_MAX} s")
        return asyncio.run(_read(port, tags, seconds, go))
    finally:
        stop.set()
        server.join(15)
        if server.is_alive():
            server.kill()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    result = measure(options.tags, options.seconds)
    print(json.dumps(asdict(result), indent=2))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
