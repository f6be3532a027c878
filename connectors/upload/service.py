"""Puts the parts of the upload service together and ends them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from connectors.parquet.segment import log_id
from connectors.upload.hands import Hands
from connectors.upload.intake import Intake
from connectors.upload.options import Limits, Table, limits_of, tables_of
from connectors.upload.resume import unusable
from connectors.upload.segments import Segments
from connectors.upload.shipping import Shipping
from connectors.upload.spool import Journal, Spool
from connectors.upload.store import Store, open_store
from pipelines import metrics
from pipelines.clock import SystemClock
from pipelines.errors import Unavailable
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.runtime import kafka
from pipelines.runtime.serve import Health
from pipelines.settings import Settings

CONDITIONS = ("kafka", "spool")  # a store that does not answer is normal at the edge: the metric uplink_up tells
DRAIN_S_MAX = 15.0  # less than the service's own limit
log = logging.getLogger("upload")


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Upload until `stop` is set, then what is there.

    Options: `memory_bytes_max`, `spool_bytes_max`, and for S3 `s3_endpoint`, `s3_region`. Secrets: `s3_access_key`,
    `s3_secret_key`.
    """
    plan = load(settings.pipeline).plan()
    tables, limits, store = tables_of(plan, settings.site), limits_of(settings.options), open_store(settings)
    spool = await asyncio.to_thread(Spool, Path(settings.data_dir) / "spool")
    try:
        await Uploader(settings, plan, tables, limits, store, spool, health).run(stop)
    finally:
        spool.close()


class Uploader:
    """The service of one site."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        tables: dict[str, Table],
        limits: Limits,
        store: Store,
        spool: Spool,
        health: Health,
    ) -> None:
        self._settings, self._plan, self._health, self._spool = settings, plan, health, spool
        site, clock = settings.site, SystemClock()
        self._segments = Segments(tables, limits.memory_bytes_max)
        group = f"{site}.{plan.pipeline}.upload"
        self._intake = Intake(
            site, settings.brokers, group, tables, settings.partitions, self._segments, store, health, clock
        )
        hands = Hands(site, plan.pipeline, tables, spool, store, self._intake.commit, clock)
        self._shipping = Shipping(site, self._segments, hands, spool, limits.spool_bytes_max, health, self._intake.halt)

    async def run(self, stop: asyncio.Event) -> None:
        """Read, seal and send side by side until `stop` is set; then seal what is open and send what can be sent."""
        journal = await asyncio.to_thread(self._spool.recover)
        self._health.set(spool=True)
        self._shipping.resume(journal.sealed)
        read, sealed = asyncio.Event(), asyncio.Event()  # the last is done
        work: list[asyncio.Task[None]] = [
            asyncio.create_task(_then(self._read(journal, stop), read)),
            asyncio.create_task(_then(self._shipping.seal(stop, read), sealed)),
            asyncio.create_task(self._shipping.send(stop, sealed)),
        ]
        stopped = asyncio.create_task(_wait(stop))
        try:
            await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await asyncio.wait(work, timeout=DRAIN_S_MAX, return_when=asyncio.FIRST_EXCEPTION)
            for task in work:
                if task.done():
                    task.result()
        finally:
            for task in (*work, stopped):
                task.cancel()
            await asyncio.gather(*work, stopped, return_exceptions=True)
            await self._intake.close()
        if left := len(self._shipping.pending):
            log.warning("%d segments stay in %s until the next start", left, self._spool.folder)

    async def _read(self, journal: Journal, stop: asyncio.Event) -> None:
        cluster = await kafka.once_up(self._cluster, stop)
        if cluster is None:
            return
        for span in unusable(journal, log_id(cluster)):
            log.error("%s cannot be written any more: its Kafka cluster was replaced", span.name)
            metrics.errors.labels(self._settings.site, "upload", "cluster").inc()
            await asyncio.to_thread(self._spool.abandon, span)
        try:
            await self._intake.run(log_id(cluster), journal, self._shipping.halt, stop)
        except Unavailable as e:
            if not stop.is_set():
                raise
            log.warning("%s", e)
        self._segments.close_all()

    async def _cluster(self) -> str:
        """Make the topics; the id of Kafka's cluster."""
        settings = self._settings
        await kafka.ensure(settings.brokers, self._plan.topics(settings.site, settings.partitions))
        return await kafka.cluster_id(settings.brokers)


async def _then(work: Coroutine[Any, Any, None], done: asyncio.Event) -> None:
    await work
    done.set()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
