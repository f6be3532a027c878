"""Simulated devices from the command line: `python -m connectors.simulator --broker mqtt://localhost:1883 --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from connectors.simulator.fleet import Device, Fleet, Reading, readings
from connectors.simulator.signal import wave
from connectors.simulator.weather import stations
from pipelines.clock import SystemClock
from pipelines.errors import SitestreamError
from pipelines.units import duration_ns

CHUNK_TICKS = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Publish until all readings are out, or until interrupted; print how many each device published."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        fleet = asyncio.run(_run(options))
    except SitestreamError as e:
        print(f"simulator: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for device in fleet.devices:
        print(
            f"{device.name}: {device.published} readings published, {sum(device.executions.values())} commands executed"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m connectors.simulator", description=__doc__)
    parser.add_argument(
        "--broker", default="mqtt://localhost:1883", help="URL of the MQTT broker (default: %(default)s)"
    )
    parser.add_argument(
        "--topic", default="press/{device}/vib", help="where each device publishes (default: %(default)s)"
    )
    parser.add_argument("--field", action="append", help="a field of the payload; may be repeated (default: rms)")
    parser.add_argument("--devices", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument(
        "--every", default="1s", help="event time between two readings of a device (default: %(default)s)"
    )
    parser.add_argument("--ticks", type=int, default=60, help="readings of each device (default: %(default)s)")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="event seconds in a second; 0: as fast as possible (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same values (default: %(default)s)"
    )
    parser.add_argument(
        "--weather", action="store_true", help="publish pvlib's two weather-station years instead of waves"
    )
    parser.add_argument("--stay", action="store_true", help="stay for commands after the last reading")
    return parser


async def _run(options: argparse.Namespace) -> Fleet:
    async with Fleet(
        options.broker, _weather(options) if options.weather else _waves(options), speed=options.speed
    ) as fleet:
        await fleet.done()
        if options.stay:
            await asyncio.Event().wait()
    return fleet


def _weather(options: argparse.Namespace) -> list[Device]:
    named = [(station.name.lower().replace(" ", "-"), station) for station in stations()]
    return [Device(name, options.topic.replace("{device}", name), readings(s.time, s.columns)) for name, s in named]


def _waves(options: argparse.Namespace) -> list[Device]:
    start_ns, every_ns = SystemClock().now_ns(), duration_ns(options.every)
    names = [f"device-{i + 1}" for i in range(options.devices)]
    fields = options.field or ["rms"]

    def signal(number: int) -> Iterator[Reading]:
        for first in range(0, options.ticks, CHUNK_TICKS):
            tick = np.arange(first, min(first + CHUNK_TICKS, options.ticks))
            device = np.full(len(tick), number, np.int32)
            yield from readings(
                start_ns + tick * every_ns, {f: wave(f, device, tick, options.seed).round(6) for f in fields}
            )

    return [Device(name, options.topic.replace("{device}", name), signal(i)) for i, name in enumerate(names)]


if __name__ == "__main__":
    sys.exit(main())
