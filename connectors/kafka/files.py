"""Files beside the pipeline file that hold the schemas of foreign topics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from connectors.columns import Layout
from connectors.kafka import KafkaSource
from connectors.kafka.wanted import Problem
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.ports import Surroundings
from pipelines.runtime.decoders import decoder_of

BYTES_MAX = 4 * 2**20


def files(plan: Plan, folder: Path) -> dict[str, bytes]:
    """Those of a plan's sources, by path; `ConfigError` if one cannot be read or is too large."""
    return {source.file: read(folder / source.file, stream) for stream, source in sources(plan) if source.file}


def check(plan: Plan, folder: Path) -> None:
    """`ConfigError` if a file is no schema, or lacks what the pipeline reads of it. Asks no registry."""
    for _, source in sources(plan):
        if source.file:
            decoder_of(source, Surroundings(folder=folder))


def sources(plan: Plan) -> list[tuple[str, KafkaSource[Any]]]:
    """The foreign topics that a plan reads, by stream."""
    found: dict[str, Any] = dict(plan.sources)
    return [(stream, source) for stream, source in found.items() if isinstance(source, KafkaSource)]


def read(path: Path, stream: str) -> bytes:
    """A file's content; `ConfigError` if it cannot be read or is too large."""
    try:
        size = path.stat().st_size
        if size <= BYTES_MAX:
            return path.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"stream {stream}: the schema {path} cannot be read ({e.strerror}): put it beside the pipeline file"
        ) from e
    raise ConfigError(
        f"stream {stream}: {path}: {size:,} bytes, and a schema may have {BYTES_MAX:,}: is it the right file?"
    )


def refuse(source: KafkaSource[Any], problems: list[Problem]) -> None:
    """`ConfigError` for the first problem of a file that is one: a column may be missing if it has absent=."""
    absent = Layout.of(source.schema).absent
    for text, name in problems:
        if name is None or name not in absent:
            hint = ", or time=None if the time of the record counts" if name and name == source.time else ""
            raise ConfigError(f"stream {source.stream}: {text}: correct fields=, key= or time={hint}")
