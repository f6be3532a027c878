"""The firmware service: `python -m connectors.firmware.service --config FILE`. One per site."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets as random_secrets
import sys
from pathlib import Path

import msgspec

from connectors.backoff import Backoff
from connectors.firmware import SERVICE, topics_of
from connectors.firmware.delivery import Store
from connectors.firmware.desk import Desk
from connectors.firmware.manifest import Image
from connectors.firmware.mirror import Mirror, Signed, Untrusted, trusted_root
from connectors.firmware.options import CA, HTTP_PORT, PASSWORD, ROOT_FILE, Options
from connectors.firmware.protocol import topic
from connectors.firmware.status import read
from connectors.firmware.windows import parse
from connectors.link import Broker, Link
from connectors.secrets import secret
from pipelines import metrics, topics
from pipelines.clock import SystemClock
from pipelines.errors import BadData, ConfigError, LimitExceeded, Unavailable
from pipelines.runtime import kafka
from pipelines.runtime.account import Account
from pipelines.runtime.serve import Health, serve_app
from pipelines.runtime.service import run_service
from pipelines.settings import Settings
from pipelines.units import duration_s, size_bytes

log = logging.getLogger(SERVICE)
CONDITIONS = ("connected", "mqtt", "trusted")  # to Kafka; to the devices; what is signed is known and counts
POLL_MS = 200
KEY_BYTES = 32


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Update devices until told to stop."""
    options, site, folder = Options.of(settings), settings.site, Path(settings.data_dir)
    windows, root = parse(options.window), trusted_root(Path(settings.secrets_dir) / ROOT_FILE)
    broker = _broker(options, Path(settings.secrets_dir))
    mirror = Mirror(options.repository, root, folder, size_bytes(options.images_max))
    store = Store(_key(folder), metrics.firmware_bytes.labels(site, "http").inc)
    if not await kafka.ready(settings.brokers, topics_of(site), stop):
        return
    async with contextlib.AsyncExitStack() as ending:
        ending.callback(mirror.close)
        status = topics.firmware_status(site)
        account = await Account.open(settings.brokers, status, f"{site}.{SERVICE}", f"{SERVICE} service of site {site}")
        ending.push_async_callback(account.close)
        known, entries = await read(settings.brokers, site)
        if options.http_url:
            ending.callback(serve_app(HTTP_PORT, store, "http").stop)
        link = Link(broker, f"{site}-{SERVICE}", [topic("+", "report")], health)
        desk = Desk(site, known, entries, account, link, store, options.http_url, windows, SystemClock(), health)
        fetcher = Fetcher(site, mirror, desk, options, health)
        parts = (
            desk.run(stop), link.run(desk.hear, desk.connected), fetcher.run(stop),
            _hints(settings.brokers, site, desk, fetcher),
        )  # fmt: skip
        await _first([asyncio.ensure_future(part) for part in parts])


def _broker(options: Options, secrets_dir: Path) -> Broker:
    password, ca = (secret(name) if (secrets_dir / name).exists() else None for name in (PASSWORD, CA))
    return Broker.of(options.mqtt, secrets_dir, username=options.mqtt_username or None, password=password, ca=ca)


async def _first(tasks: list[asyncio.Future[None]]) -> None:
    """Until the first is done, or fails; then end the others."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Fetcher:
    """Keeps the site's copy of what is signed up to date."""

    def __init__(self, site: str, mirror: Mirror, desk: Desk, options: Options, health: Health) -> None:
        self._site, self._mirror, self._desk, self._health = site, mirror, desk, health
        self._refresh_s, self._jitter_s = duration_s(options.refresh), duration_s(options.jitter)
        self.now = asyncio.Event()  # look at once
        self._here: dict[str, Path] = {}
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        backoff = Backoff()
        while not stop.is_set():
            self.now.clear()
            wait_s = self._refresh_s * self._random.uniform(0.5, 1)
            try:
                await self._look()
                self._desk.refuse("")
                backoff.reset()
            except (BadData, Unavailable, LimitExceeded) as e:
                log.warning("%s", e)
                metrics.errors.labels(self._site, SERVICE, getattr(e, "reason", "repository")).inc()
                if isinstance(e, BadData):
                    self._desk.refuse(str(e))
                if isinstance(e, Untrusted):
                    self._health.set(trusted=False)
                wait_s = min(wait_s, backoff.delay_s())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.now.wait()

    async def _look(self) -> None:
        signed = await asyncio.to_thread(self._mirror.refresh)
        metrics.firmware_expiry.labels(self._site).set(signed.expires_ns / 1e9)
        self._health.set(trusted=True)
        self._desk.plan(signed, self._here)
        wanted = [c for c in signed.plan.newest().values() if c.share(self._site) and c.state != "aborted"]
        images = {c.id: signed.images[c.id] for c in wanted if c.id in signed.images}
        for campaign in wanted:
            image = images.get(campaign.id)
            if image is None:
                log.warning("campaign %s: nobody has signed %s", campaign.id, campaign.path)
            elif image.sha256 not in self._here and not await self._fetched(
                signed, image, list(images.values()), campaign.emergency
            ):
                return

    async def _fetched(self, signed: Signed, image: Image, keep: list[Image], at_once: bool) -> bool:
        """Whether the image is here; False if something newer is signed meanwhile, perhaps."""
        if not await asyncio.to_thread(self._mirror.verified, image) and not at_once:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._jitter_s * self._random.random()):
                    await self.now.wait()
                return False
        counted = metrics.firmware_bytes.labels(self._site, "mirror").inc
        place = await asyncio.to_thread(self._mirror.fetch, image, keep, counted)
        self._here = {i.sha256: self._here[i.sha256] for i in keep if i.sha256 in self._here} | {image.sha256: place}
        self._desk.plan(signed, self._here)
        return True


async def _hints(brokers: str, site: str, desk: Desk, fetcher: Fetcher) -> None:
    """Read that there is a newer plan. Whoever writes there can hold updates back, and cannot begin any."""
    at = topics.firmware_desired(site)
    consumer = await kafka.consumer(brokers, at)
    try:
        while True:
            for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                for record in records:
                    _take(record, desk, at)
                fetcher.now.set()
    except kafka.KafkaError as e:
        kafka.raise_refusal(e)
        raise Unavailable(f"{at} could not be read: {e!r}") from e
    finally:
        await kafka.stopped(consumer)


class Hint(msgspec.Struct, frozen=True):
    """A record of `{site}.fw.desired`."""

    counter: int


def _take(record: kafka.Record, desk: Desk, at: str) -> None:
    try:
        desk.hint(msgspec.json.decode(record.value or b"", type=Hint).counter)
    except msgspec.DecodeError as e:
        log.warning("%s@%d is no hint of a plan (%s)", at, record.offset, e)


def _key(folder: Path) -> bytes:
    """With which tokens for downloads are made: of this site alone, and of no use elsewhere."""
    place = folder / "token.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not place.exists() or place.stat().st_size != KEY_BYTES:  # a power cut may have left an empty one
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(random_secrets.token_bytes(KEY_BYTES))
        return place.read_bytes()
    except OSError as e:
        raise ConfigError(f"data_dir {folder} cannot be written to: {e.strerror}") from e


if __name__ == "__main__":
    sys.exit(run_service(SERVICE, main, conditions=CONDITIONS))
