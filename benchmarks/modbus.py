"""`python -m benchmarks.modbus`: 5,000 tags a second over Modbus TCP: 50 devices with 100 registers each, asked once a second.

The devices are simulated in a process on the other core; the collector's own code runs from the sockets to encoded frames.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import BROKER_CORE, arguments, medians, pinned, report, run_alone, show
from connectors import modbus
from connectors.base import Context
from connectors.collector import Framer, Limits
from connectors.modbus.reader import ModbusReader
from pipelines import metrics
from pipelines.clock import SystemClock
from pipelines.quality import GOOD
from pipelines.schema import Col, Key, Schema

REGISTERS = 100
SCHEMA: type[Schema] = type(
    "Tags", (Schema,), {"device": Key[str](), **{f"t{n}": Col[float]() for n in range(REGISTERS)}}
)
SHAPES = {
    "tags_s": "{:,.0f} values/s",
    "cpu": "{:.1%} of a core",
    "rss_mb": "{:.0f} MB at most",
    "lost": "{:.0f} polls lost",
    "late_ms_p99": "{:.1f} ms from request to row, 99th percentile",
}


async def _serve(devices: int) -> None:
    """Answers any read of registers: the first is a counter of the device, the others their address."""
    servers = []
    for _ in range(devices):
        servers.append(await asyncio.start_server(_answer, "127.0.0.1", 0))
    print(" ".join(str(s.sockets[0].getsockname()[1]) for s in servers), flush=True)
    await asyncio.Event().wait()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked = 0
    while head := await _request(reader):
        transaction, _, _, unit, function, start, count = struct.unpack(">HHHBBHH", head)
        asked += 1
        words = np.arange(start, start + count, dtype=">u2")
        words[0] = asked % 65_536
        pdu = bytes([function, 2 * count]) + words.tobytes()
        writer.write(struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu)


async def _request(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readexactly(12)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _collect(ports: list[str], seconds: int) -> None:
    columns = SCHEMA.columns()
    source = modbus.source(
        SCHEMA,
        devices={f"device-{port}": f"modbus://127.0.0.1:{port}" for port in ports},
        registers={columns[f"t{n}"]: modbus.holding(n) for n in range(REGISTERS)},
        every="1s",
        jitter="900ms",
    )
    reader = ModbusReader(source, Context("bench", "1", Path("/nowhere"), SystemClock()))
    framer = Framer("bench", source.stream, "1", SCHEMA.measured(), 4, Limits().heartbeat_s)
    await reader.connect()
    rows = good = nbytes = 0
    late: list[float] = []
    counters: dict[str, list[float]] = {}
    start_s, cpu_s = time.monotonic(), _cpu_s()
    while (now_s := time.monotonic()) - start_s < seconds:
        got = await reader.read(rows_max=4096, linger_s=0.05)
        nbytes += sum(len(r.value) for r in framer.frames(got.batch, int(time.time() * 1e9), now_s))
        rows += len(got.batch)
        good += int((got.batch.columns["~quality"] == GOOD).sum())
        late += ((time.time_ns() - got.batch.time) / 1e6).tolist()
        for key, counter in zip(got.batch.keys, got.batch.columns["Tags.t0"].tolist(), strict=True):
            counters.setdefault(key, []).append(counter)
        await got.ack()
    used_s = _cpu_s() - cpu_s
    await reader.close()
    gaps = sum(int((np.diff(c) - 1).sum()) for c in counters.values())
    missed = metrics.collect_missed.labels("bench", source.stream)._value.get()
    lost = gaps + missed + (rows - good) + sum(1 for p in ports if f"device-{p}" not in counters)
    report(
        tags_s=good * REGISTERS / seconds,
        cpu=used_s / seconds,
        lost=float(lost),
        late_ms_p99=float(np.percentile(late, 99)),
        frame_bytes_s=nbytes / seconds,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run it; or, with hidden options, one of its processes."""
    parser = arguments("Values a second over Modbus TCP, and what they cost.")
    parser.add_argument("--devices", type=int, default=50, help="each with 100 registers, asked once a second")
    parser.add_argument("--seconds", type=int, default=20, help="of each run")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--collect", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(options.devices))
    elif options.collect:
        asyncio.run(_collect(options.collect.split(","), options.seconds))
    else:
        runs = [_run(options.devices, options.seconds) for _ in range(options.runs)]
        show(
            f"{options.devices} Modbus devices with {REGISTERS} registers each, once a second",
            medians(runs),
            SHAPES,
            options.json,
        )


def _run(devices: int, seconds: int) -> dict[str, float]:
    with pinned(BROKER_CORE):
        plant = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.modbus", "--serve", "--devices", str(devices)],
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        assert plant.stdout is not None
        ports = plant.stdout.readline().split()
        return dict(run_alone("benchmarks.modbus", ["--collect", ",".join(ports), "--seconds", str(seconds)]))
    finally:
        plant.kill()
        plant.wait()


if __name__ == "__main__":
    main()
