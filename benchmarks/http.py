"""`python -m benchmarks.http`: readings that are posted, and what of their cost is ours, beside a handler that only reads.

The posts come from a process on the other core. What is compared is processor time, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aiohttp import web

from benchmarks.measure import BROKER_CORE, arguments, medians, pinned, show
from connectors import http
from connectors.base import Context
from connectors.collector import Framer, Limits
from connectors.http.listener import PushReader
from connectors.secrets import secret
from pipelines.clock import SystemClock
from pipelines.schema import Col, Key, Schema

TOKEN = "0123456789abcdef"  # noqa: S105 - of nothing
CONNECTIONS = 32
SHAPES = {
    "posts_s": "{:,.0f} posts/s of processor time",
    "readings_s": "{:,.0f} readings/s of processor time",
    "plain_posts_s": "{:,.0f} posts/s that are only read",
    "ratio": "{:.2f} × the cost of only reading",
}


class Tags(Schema):
    """What is posted."""

    device = Key[str]()
    rms = Col[float]("mm/s")
    temperature = Col[float]("degC")


async def _ours(port: int) -> None:
    """Our own way from the socket to frames; Kafka is taken to answer at once."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t").write_text(TOKEN)
        source = http.push(Tags, path="/r", tokens=secret("t"), listen=f"127.0.0.1:{port}")
        reader = PushReader(source, Context("bench", "1", Path(folder), SystemClock()))
        framer = Framer("bench", source.stream, "1", Tags.measured(), 4, Limits().heartbeat_s)
        await reader.connect()
    print("ready", flush=True)
    while True:
        got = await reader.read(rows_max=4096, linger_s=0.002)
        framer.frames(got.batch, int(time.time() * 1e9), time.monotonic())
        await got.ack()


async def _plain(port: int) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=b'{"accepted": 1}', content_type="application/json")

    await asyncio.get_running_loop().create_server(web.Server(handler, access_log=None), "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _post(port: int, posts: int, readings: int) -> None:
    rows = [{"device": f"device-{i}", "rms": 1.5 + i, "temperature": 20.25} for i in range(readings)]
    body = json.dumps(rows).encode()
    head = f"POST /r HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    message = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def one(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(one(posts // CONNECTIONS) for _ in range(CONNECTIONS)))


def _cost_s(kind: str, port: int, posts: int, readings: int) -> float:
    """Processor time of the server for so many posts."""
    words = [sys.executable, "-m", "benchmarks.http", "--serve", kind, "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with pinned(BROKER_CORE):
            asyncio.run(_post(port, CONNECTIONS * 4, readings))  # warm
            before = _used_s(server.pid)
            asyncio.run(_post(port, posts, readings))
        return _used_s(server.pid) - before
    finally:
        server.kill()
        server.wait()


def _used_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # clock ticks


def main() -> None:
    """Run it; or, with hidden options, one of its servers."""
    parser = arguments("Readings that are posted over HTTP, and what they cost.")
    parser.add_argument("--posts", type=int, default=10_000, help="of each run")
    parser.add_argument("--readings", type=int, default=1, help="in each post")
    parser.add_argument("--port", type=int, default=19_470)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run({"ours": _ours, "plain": _plain}[options.serve](options.port))
        return
    runs = []
    for _ in range(options.runs):
        ours, plain = (_cost_s(kind, options.port, options.posts, options.readings) for kind in ("ours", "plain"))
        posts_s = options.posts / ours
        runs.append(
            {"posts_s": posts_s, "readings_s": posts_s * options.readings, "plain_posts_s": options.posts / plain,
             "ratio": ours / plain}
        )  # fmt: skip
    show(f"{options.readings} readings a post, {CONNECTIONS} connections", medians(runs), SHAPES, options.json)


if __name__ == "__main__":
    main()
