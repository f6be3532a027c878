"""Ways to an engine other than its socket: with TLS, and by SSH."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh

from tests.bed.certificate import self_signed
from tests.bed.parts import find_part

SSH_CONFIG = """\
Host hall
    HostName 127.0.0.1
    IdentityFile {folder}/id
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
"""


@contextmanager
def behind_ssh(folder: Path, url: str) -> Iterator[str]:
    """The engine's address if it is reached by SSH, and a `folder` for PATH whose `ssh` knows the host and has a key."""
    folder.mkdir(exist_ok=True)
    of_host, mine = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (folder / "id").touch(0o600)
    mine.write_private_key(folder / "id")
    mine.write_public_key(folder / "authorized_keys")

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        env = {**os.environ, "DOCKER_HOST": url}
        child = await asyncio.create_subprocess_shell(process.command or "", stdin=-1, stdout=-1, stderr=-1, env=env)
        asked = asyncio.create_task(_pipe(process.stdin, child.stdin))
        await asyncio.gather(
            _pipe(child.stdout, process.stdout, close=False), _pipe(child.stderr, process.stderr, close=False)
        )
        process.exit(await child.wait())
        asked.cancel()  # whoever asks may keep its end open

    async def listening() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[of_host], authorized_client_keys=str(folder / "authorized_keys"),
            process_factory=run, encoding=None,
        )  # fmt: skip

    with _served(listening) as port:
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {of_host.export_public_key().decode()}")
        (folder / "config").write_text(SSH_CONFIG.format(folder=folder))
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {find_part("ssh")} -F {folder}/config "$@"\n')
        (folder / "ssh").chmod(0o755)
        yield f"ssh://plant@hall:{port}"


@contextmanager
def behind_tls(folder: Path, url: str) -> Iterator[str]:
    """The engine's address if it is reached by TLS; the files `ca.pem` and `key.pem` of a client are in `folder`."""
    certificate, key = self_signed("localhost")
    (folder / "ca.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        await asyncio.gather(_pipe(reader, engine[1]), _pipe(engine[0], writer))

    with _served(lambda: asyncio.start_server(serve, "localhost", 0, ssl=context)) as port:
        yield f"tcp://localhost:{port}"


async def _pipe(source: Any, target: Any, *, close: bool = True) -> None:
    with suppress(OSError, asyncssh.Error):
        while piece := await source.read(2**16):
            target.write(piece)
            await target.drain()
    if close:
        target.close()


@contextmanager
def _served(listening: Callable[[], Awaitable[asyncio.Server | asyncssh.SSHAcceptor]]) -> Iterator[int]:
    """The port of a server that runs meanwhile in a thread of its own."""
    started, end = threading.Event(), threading.Event()
    port = 0

    async def main() -> None:
        nonlocal port
        async with await listening() as server:
            port = server.sockets[0].getsockname()[1]
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    try:
        yield port
    finally:
        end.set()
        thread.join()
