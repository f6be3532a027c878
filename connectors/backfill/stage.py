"""CSV files -> Parquet files in the record's folder, once: they then have statistics and can be read in shares."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from connectors import replay
from connectors.backfill.dataset import Found
from connectors.columns import fill
from connectors.parquet.writer import Part, Rows
from connectors.replay import FolderSource, ReplaySource
from connectors.replay.files import Block, blocks
from connectors.upload.disk import Disk
from pipelines.batch import Batch
from pipelines.plan import Plan

FILE_ROWS = 2**20
SHOWN_MAX = 5  # lines that cannot be used, shown of each file
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Staging:
    """Makes the Parquet files, or finds those made before."""

    folder: Path
    plan: Plan

    def ready(self, stream: str, found: Sequence[Found]) -> list[Found]:
        """The same files, CSV files replaced by what was made of them."""
        return [g for i, f in enumerate(found) for g in (self._made(stream, i, f) if f.is_csv else [f])]

    def _made(self, stream: str, number: int, found: Found) -> list[Found]:
        folder = self.folder / stream / f"{number:05d}"
        whole = folder / "whole"
        if not whole.exists():
            folder.mkdir(parents=True, exist_ok=True)
            source = self._source(stream, found.path)
            for i, batches in enumerate(_batches(source)):
                _write(folder, i, Rows(source.schema.measured(), batches))
            Disk().write(whole, lambda file: None)
            Disk().publish(whole)
            Disk().sync(folder)
        made = sorted(folder.glob("*.parquet"))
        return [replace(found, path=str(p), bytes=p.stat().st_size) for p in made]

    def _source(self, stream: str, path: str) -> ReplaySource[Any]:
        """How the file is read: as the pipeline says if it replays files, else by the names of the schema."""
        source = self.plan.sources[stream]
        if isinstance(source, ReplaySource):
            return replace(source, path=glob.escape(path))
        if isinstance(source, FolderSource):
            return ReplaySource(source.schema, source.stream, glob.escape(path), 0.0, source.form)
        return replay.source(source.schema, glob.escape(path), speed=0)


def _batches(source: ReplaySource[Any]) -> Iterator[list[Batch]]:
    held: list[Batch] = []
    rejects = 0
    for block in blocks(source.path, source.form):
        rejects += _complain(block, rejects)
        held += [fill(block.batch, source.schema, block.batch.time)] if len(block.batch) else []
        if sum(map(len, held)) >= FILE_ROWS:
            yield held
            held = []
    if rejects > SHOWN_MAX:
        log.warning("%s: %d readings in all cannot be used", source.path, rejects)
    if held:
        yield held


def _complain(block: Block, before: int) -> int:
    for letter in block.rejects[: max(0, SHOWN_MAX - before)]:
        log.warning("left out: %s", letter.message)
    return len(block.rejects)


def _write(folder: Path, number: int, rows: Rows) -> None:
    for i, part in enumerate(rows.parts()):
        path = folder / f"{number:05d}-{i:03d}.parquet"

        def fill(file: BinaryIO, part: Part = part) -> None:
            rows.write(part, file, "compact", {})

        Disk().write(path, fill)
        Disk().publish(path)
