"""The `process` service: `python -m pipelines.runtime.worker --config FILE` runs a pipeline on a site."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pipelines import dimensions, metrics
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.ports import Surroundings
from pipelines.runtime import kafka
from pipelines.runtime.job import Job
from pipelines.runtime.runner import CONDITIONS, Runner
from pipelines.runtime.serve import Health
from pipelines.runtime.service import run_service
from pipelines.settings import Settings
from pipelines.task import STATE_BYTES_MAX


async def main(settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Run the pipeline until `stop` is set.

    Options: `state_bytes_max` (of one partition), `discard_state` (see the error that asks for it).
    """
    job = job_of(settings)
    metrics.pipeline_info.labels(job.site, job.plan.pipeline, job.plan.fingerprint).set(1)
    if await kafka.ready(job.brokers, job.plan.topics(job.site, settings.partitions), stop):
        await Runner(job, health).run(stop)


def job_of(settings: Settings) -> Job:
    """What the settings ask for; `ConfigError` or `PlanError` if they, the pipeline file or those beside it are wrong."""
    limit = settings.options.get("state_bytes_max", str(STATE_BYTES_MAX))
    if not limit.isdecimal():
        raise ConfigError(f"option state_bytes_max = {limit!r}: write a number of bytes, such as {STATE_BYTES_MAX}")
    plan = load(settings.pipeline).plan()
    folder = dimensions.folder_of(settings.pipeline)
    facts, around = dimensions.load(plan, folder), Surroundings(folder, Path(settings.secrets_dir))
    discard = settings.options.get("discard_state", "")
    job = Job(plan, settings.site, settings.brokers, settings.partitions, int(limit), discard, facts, around)
    job.decoders  # noqa: B018 - made now: what is wrong with one is no news of its first message
    return job


if __name__ == "__main__":
    sys.exit(run_service("process", main, conditions=CONDITIONS))
