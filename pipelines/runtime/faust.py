"""A pipeline in an existing Faust app: `mount(app, press, site="plant1")`.

The app's worker starts and stops it. It has Kafka clients and a consumer group of its own, so its results are exactly-once
whatever processing guarantee the app has; more workers of the app share its partitions.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mode import Service

from pipelines import dimensions
from pipelines.dsl import Pipeline
from pipelines.ports import Surroundings
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.runner import CONDITIONS, Runner
from pipelines.runtime.serve import Health
from pipelines.task import STATE_BYTES_MAX


def mount(
    app: Any,
    pipeline: Pipeline,
    *,
    site: str,
    partitions: int = 4,
    state_bytes_max: int = STATE_BYTES_MAX,
    discard_state: str = "",
    folder: str = ".",
    secrets_dir: str = "/run/secrets",
) -> Health:
    """Let a `faust.App` host a pipeline; what it says of its health. Topics that are missing are created.

    The files of its dimensions and of schemas are found from `folder`, the secrets of registries in `secrets_dir`.
    An error that is for good, such as `StateError`, crashes the app's worker as an error in an agent's start would.
    """
    plan, health = pipeline.plan(), Health(dict.fromkeys(CONDITIONS, False))
    facts, around = dimensions.load(plan, Path(folder)), Surroundings(Path(folder), Path(secrets_dir))

    class Hosted(Service):
        _running: asyncio.Task[None] | None = None

        async def on_start(self) -> None:
            job = Job(plan, site, _brokers(app), partitions, state_bytes_max, discard_state, facts, around)
            job.decoders  # noqa: B018 - see `worker.job_of`
            await kafka.ensure(job.brokers, plan.topics(site, partitions))
            self._drain = asyncio.Event()
            self._running = asyncio.create_task(self._run(job))

        async def _run(self, job: Job) -> None:
            try:
                await Runner(job, health).run(self._drain)
            except Exception as e:
                await self.crash(e)

        async def on_stop(self) -> None:
            if self._running:  # or its start has failed
                self._drain.set()
                await self._running

    app.service(Hosted)
    return health


def _brokers(app: Any) -> str:
    """The app's brokers as `host:port,host:port`."""
    return ",".join(f"{url.host}:{url.port or 9092}" for url in app.conf.broker)
