"""Ways to an engine other than its socket: with TLS, and by an `ssh` that goes nowhere but does there what a real one would."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bed.certificate import self_signed

SSH = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift 2
exec env DOCKER_HOST={url} $1
"""


def fake_ssh(folder: Path, url: str) -> Path:
    """A folder for PATH whose `ssh` runs what it is told on this machine, which has the engine at `url`."""
    folder.mkdir(exist_ok=True)
    program = folder / "ssh"
    program.write_text(SSH.format(url=url))
    program.chmod(0o755)
    return folder


@contextmanager
def behind_tls(folder: Path, url: str) -> Iterator[str]:
    """The engine's address if it is reached by TLS; the files `ca.pem` and `key.pem` of a client are in `folder`."""
    certificate, key = self_signed("localhost")
    (folder / "ca.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    started, end = threading.Event(), threading.Event()
    port = 0

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(2**16):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        await asyncio.gather(pipe(reader, engine[1]), pipe(engine[0], writer))

    async def main() -> None:
        nonlocal port
        async with await asyncio.start_server(serve, "localhost", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    try:
        yield f"tcp://localhost:{port}"
    finally:
        end.set()
        thread.join()
