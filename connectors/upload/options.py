"""What the upload service is told: its tables, from the plan, and its limits, from the options of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.parquet import Dataset
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.schema import Row
from pipelines.units import size_bytes

MEMORY_BYTES_MAX = "256MiB"
SPOOL_BYTES_MAX = "4GiB"


@dataclass(frozen=True, slots=True)
class Table:
    """One topic and the table that its rows go to."""

    topic: str
    row: Row
    sink: Dataset


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of frames held in memory, and of files held on disk, until the store has them."""

    memory_bytes_max: int
    spool_bytes_max: int


def limits_of(options: Mapping[str, str]) -> Limits:
    """Options `memory_bytes_max` and `spool_bytes_max`, sizes such as '4GiB'; `ConfigError` if one is wrong."""
    memory = _size(options, "memory_bytes_max", MEMORY_BYTES_MAX)
    spool = _size(options, "spool_bytes_max", SPOOL_BYTES_MAX)
    if not 0 < memory <= spool:
        raise ConfigError(
            f"option spool_bytes_max = {spool} bytes is less than memory_bytes_max = {memory} bytes, or both are 0: "
            "the spool must hold at least what the memory does"
        )
    return Limits(memory, spool)


def _size(options: Mapping[str, str], name: str, default: str) -> int:
    try:
        return size_bytes(options.get(name, default))
    except ConfigError as e:
        raise ConfigError(f"option {name}: {e}") from e


def tables_of(plan: Plan, site: str) -> dict[str, Table]:
    """Tables by topic; `ConfigError` if there is none, or two for one topic."""
    found: dict[str, Table] = {}
    for step, sink in plan.sinks_of("parquet"):
        topic = plan.topic(site, step.name)
        if topic in found:
            raise ConfigError(
                f"step {step.name} has two Parquet sinks, {found[topic].sink.table!r} and {sink.table!r}: leave one of them"
            )
        found[topic] = Table(topic, step.row, sink)
    if not found:
        raise ConfigError(f"pipeline {plan.pipeline}: nothing to upload: no step has a .to(parquet.dataset(…))")
    return found
