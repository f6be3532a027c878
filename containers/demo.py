"""The whole way on one machine: two recorded weather-station years, from MQTT devices to Parquet in a store.

Everything is real: a Kafka broker, an MQTT broker, and the very services that a site runs, each a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from connectors.simulator.fleet import Device, Fleet, readings
from connectors.simulator.weather import stations
from containers import proof
from containers.child import Child, free_port
from containers.embedded import EmbeddedKafka, EmbeddedMqtt
from containers.live import View
from containers.proof import Count, files, number
from containers.scrape import healthy
from pipelines.clock import SystemClock
from pipelines.errors import SitestreamError, Unavailable

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "examples" / "weather.py"
STATE = Path(".sitestream") / "demo"
SITE = "demo"
PUBLISH_S = 36.0  # the recorded year is played in this time
YEAR_S = 365 * 86_400
READINGS = 8760  # of each station: one an hour
SETTLE_S_MAX = 40.0  # after the last reading: windows close by heartbeat, files are rolled and uploaded
SERVICES = {"collect": "connectors.collect", "process": "pipelines.runtime.worker", "upload": "connectors.upload"}
REFRESH_S = 0.25


def main() -> int:
    """Run the demonstration; 0 if every reading arrived exactly once."""
    try:
        return _run()
    except SitestreamError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run() -> int:
    shutil.rmtree(STATE, ignore_errors=True)
    store = STATE / "store"
    store.mkdir(parents=True)
    devices = _devices()
    with ExitStack() as parts:
        _say("starting an MQTT broker and Apache Kafka …")
        mqtt = parts.enter_context(EmbeddedMqtt(STATE))
        kafka = parts.enter_context(EmbeddedKafka(STATE / "kafka"))
        ports = {name: free_port() for name in SERVICES}
        environment = {"MQTT": mqtt.url, "SPEED": str(YEAR_S / PUBLISH_S), "UPLOAD_EVERY": "3s"}
        _say("starting collect, process and upload …")
        services = {n: _service(n, parts, ports[n], kafka.bootstrap, store, environment) for n in SERVICES}
        published, collected = asyncio.run(_play(mqtt.url, devices, ports, services))
        for service in services.values():  # in the order of the flow: each finishes what the one before gave it
            service.stop(timeout_s=25)
    count = Count(published, collected, *_stored(store))
    _show(count, store)
    return 0 if count.lost == 0 and published == READINGS * len(devices) else 1


_DAYS = "SELECT station, window_start, coldest, mean, warmest FROM read_parquet('{}') ORDER BY station, window_start"
_SNAPS = "SELECT station, window_start, mean, usual FROM read_parquet('{}') ORDER BY z DESC LIMIT 3"


def _stored(store: Path) -> tuple[int, int]:
    """Readings that the day windows in the store say they hold, and rows of the raw table: counted by another reader."""
    days, rows = files(store, "weather/day"), files(store, "weather/reading")
    return number(f"SELECT sum(readings) FROM read_parquet('{days}')"), number(
        f"SELECT count(*) FROM read_parquet('{rows}')"
    )


def _devices() -> list[Device]:
    named = [(s.name.lower().replace(" ", "-"), s) for s in stations()]
    return [Device(name, f"weather/{name}/reading", readings(s.time, s.columns)) for name, s in named]


def _service(
    name: str, parts: ExitStack, port: int, brokers: str, store: Path, environment: Mapping[str, str]
) -> Child:
    """Start a service and wait until it is healthy."""
    config = STATE / f"{name}.json"
    data = STATE / name
    data.mkdir()
    config.write_text(json.dumps({
        "site": SITE, "brokers": brokers, "pipeline": str(PIPELINE), "partitions": 2, "metrics_port": port,
        "data_dir": str(data.resolve()), "store": f"file://{store.resolve()}", "secrets_dir": str(data.resolve()),
    }))  # fmt: skip
    child = Child(
        name, [sys.executable, "-m", SERVICES[name], "--config", str(config)], STATE / f"{name}.log", env=environment
    )
    parts.callback(child.stop)
    return child.start(lambda: healthy(port))


async def _play(
    broker: str, devices: list[Device], ports: Mapping[str, int], services: Mapping[str, Child]
) -> tuple[int, int]:
    """Publish all readings, wait until all are in the store or nothing moves any more; (published, collected)."""
    clock, total = SystemClock(), READINGS * len(devices)
    with View(ports, total, lambda: sum(d.published for d in devices)) as view:
        async with Fleet(broker, devices, speed=YEAR_S / PUBLISH_S) as fleet:
            publishing = asyncio.create_task(fleet.done())
            deadline_s = clock.monotonic_s() + PUBLISH_S + SETTLE_S_MAX
            while True:
                found = await asyncio.to_thread(view.refresh)
                for name, service in services.items():
                    if not service.running:
                        raise Unavailable(f"{name} has ended; see {service.log}")
                collected = int(found["collect"].total("source_records_total"))
                arrived = publishing.done() and min(_stored(STATE / "store")) >= total
                if arrived or clock.monotonic_s() > deadline_s:
                    return sum(d.published for d in devices), collected
                await clock.sleep(REFRESH_S)


def _show(count: Count, store: Path) -> None:
    """The one line that counts, a chart, and where to go from here."""
    days = proof.query(_DAYS.format(files(store, "weather/day")))
    chart = STATE / "temperature.png"
    if days:
        proof.draw(days, chart)
    width = max((len(d[0]) for d in days), default=0)
    for station in sorted({d[0] for d in days}):
        line = proof.sparkline([d[3] for d in days if d[0] == station], 52)
        print(f"  {station:<{width}} {line}  daily mean temperature, January to December")
    for station, start, mean, usual in proof.query(_SNAPS.format(files(store, "weather/cold-snap"))):
        print(f"  cold snap: {station}, {start:%d %B}: {mean:z.1f} °C, in the fortnight before {usual:z.1f} °C")
    print(f"demo: {count}")
    question = f"SELECT station, max(warmest) FROM '{files(store, 'weather/day')}' GROUP BY 1"
    print(f"""
  chart      {chart}
  the store  {store}/weather/{{reading,day,cold-snap}}   Parquet, by site and date
  the code   {os.path.relpath(PIPELINE)}   the whole pipeline, {len(PIPELINE.read_text().splitlines())} lines
  the logs   {STATE}/*.log

Next: change a window in {os.path.relpath(PIPELINE)} and run it again; ask your own question:
  .venv/bin/python -c "import duckdb; duckdb.sql('''{question}''').show()"
or put it on a site of your own: .venv/bin/pipeline --help""")


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
