"""A site with firmware: a signed repository on a web server, the service in a child process, devices on MQTT."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from connectors.firmware import topics_of
from connectors.firmware.campaign import Campaign
from connectors.firmware.life import Entry, Timeouts
from connectors.firmware.manifest import Manifest
from connectors.firmware.options import ROOT_FILE
from connectors.firmware.status import SiteStatus, read
from containers.firmware.shelf import Shelf
from containers.repository.ring import Ring
from pipelines import topics
from pipelines.clock import SystemClock
from pipelines.runtime import kafka
from tests.bed import free_port, until

ROOT = Path(__file__).parents[2]
IMAGE = bytes(range(256)) * 4096  # 1 MiB
QUICK = Timeouts(answer_s=20, download_s=30, install_s=10, reboot_s=6, confirm_s=6)


class Web:
    """A static web server with ranges, which breaks off after `cut_after` bytes of a file so many times, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cut_after, self.cuts = folder, 0, 0
        self.asked: list[tuple[str, str]] = []
        self.instead: dict[str, bytes] = {}
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                web._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("0.0.0.0", 0), functools.partial(Handler, directory=str(folder)))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _answer(self, request: SimpleHTTPRequestHandler) -> None:
        path, ranged = request.path.lstrip("/"), request.headers.get("Range", "")
        self.asked.append((path, ranged))
        place = self.folder / path
        content = self.instead.get(path)
        if content is None and not place.is_file():
            request.send_error(404)
            return
        content = place.read_bytes() if content is None else content
        begin = int(ranged.removeprefix("bytes=").removesuffix("-") or 0)
        request.send_response(206 if ranged else 200)
        request.send_header("Content-Length", str(len(content) - begin))
        if ranged:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        content = content[begin:]
        if self.cuts and len(content) > self.cut_after > 0:
            self.cuts -= 1
            content = content[: self.cut_after]
        request.wfile.write(content)
        request.close_connection = True

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


def shelf_in(folder: Path, clock: Any = None) -> Shelf:
    """A repository with a model 'm'."""
    shelf = Shelf(folder / "repo", Ring(folder / "keys"), clock or SystemClock())
    shelf.keys.init()
    shelf.keys.add_model("m")
    return shelf


def publish(shelf: Shelf, folder: Path, version: str = "2.0", security: int = 1, content: bytes = IMAGE) -> str:
    """Sign an image of the model."""
    (folder / "fw.bin").write_bytes(content)
    manifest = Manifest(model="m", hardware=("A", "B"), version=version, security_version=security)
    return shelf.publish(folder / "fw.bin", manifest)


def plan(shelf: Shelf, path: str = "m/2.0/fw.bin", name: str = "c") -> None:
    """A campaign for an image."""
    made = Campaign(
        id=name, model=path.split("/")[0], path=path, version=path.split("/")[1], begun_s=1, quotas={"s": 1}
    )
    shelf.change_plan(lambda _: (made,))


def root_of(folder: Path) -> bytes:
    """The root that is trusted first."""
    return (folder / "repo/metadata/1.root.json").read_bytes()


@dataclass
class Site:
    """One site on shared brokers."""

    name: str
    brokers: str
    mqtt: str
    folder: Path
    shelf: Shelf
    web: Web
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        secrets = self.folder / "secrets"
        secrets.mkdir(exist_ok=True)
        shutil.copy(self.shelf.folder / "metadata" / "1.root.json", secrets / ROOT_FILE)
        self.port, self.log = free_port(), self.folder / "firmware.log"
        settings = {
            "site": self.name, "brokers": self.brokers, "pipeline": "", "data_dir": str(self.folder / "data"),
            "secrets_dir": str(secrets), "metrics_port": self.port,
            "options": {
                "repository": self.web.url, "mqtt": self.mqtt, "refresh": "1s", "jitter": "100ms", **self.options,
            },
        }  # fmt: skip
        (self.folder / "firmware.json").write_text(json.dumps(settings))

    @property
    def root(self) -> bytes:
        """What devices trust."""
        return (self.shelf.folder / "metadata" / "1.root.json").read_bytes()

    def campaign(self, name: str, path: str, quota: int, **changes: Any) -> Campaign:
        """Sign a campaign for all devices of this site."""
        version = path.split("/")[1]
        usual: dict[str, Any] = {
            "canary": (self.name,), "quotas": {self.name: quota}, "timeouts": QUICK, "begun_s": int(time.time()),
        }  # fmt: skip
        made = Campaign(id=name, model="m", path=path, version=version, **usual | changes)
        self.put(made)
        return made

    def put(self, campaign: Campaign) -> int:
        """Sign it; the counter of the plan."""
        return self.shelf.change_plan(lambda _: (campaign,)).counter

    def change(self, **changes: Any) -> int:
        """Sign the campaign with changes."""
        (campaign,) = self.shelf.plan().campaigns
        return self.put(msgspec.structs.replace(campaign, **changes))

    async def hint(self, counter: int) -> None:
        """Say that there is a newer plan."""
        await kafka.ensure(self.brokers, topics_of(self.name))
        producer = await kafka.producer(self.brokers)
        await producer.send_and_wait(
            topics.firmware_desired(self.name), json.dumps({"counter": counter}).encode(), key=b"plan"
        )
        await kafka.stopped(producer)

    @asynccontextmanager
    async def service(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The service."""
        words = [sys.executable, "-m", "connectors.firmware.service", "--config", str(self.folder / "firmware.json")]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *words, cwd=ROOT, stderr=log, stdout=log, env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    async def status(self) -> tuple[SiteStatus | None, list[Entry]]:
        """As the CLI sees it."""
        return await read(self.brokers, self.name)

    async def settled(self, want: Callable[[dict[str, str]], bool], timeout_s: float = 30) -> dict[str, Entry]:
        """Wait until the states of the devices are as wanted."""

        async def there() -> dict[str, Entry] | None:
            _, entries = await self.status()
            return {e.device: e for e in entries} if want({e.device: e.state.value for e in entries}) else None

        try:
            found: dict[str, Entry] = await until(there, timeout_s, "devices")
            return found
        except TimeoutError as e:
            raise AssertionError(f"{await self.status()}\n{self.log.read_text()[-6000:]}") from e
