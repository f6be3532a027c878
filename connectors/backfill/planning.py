"""From a job to its units: list the files, read their footers, and share out the keys."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from connectors.backfill import dataset, footer
from connectors.backfill.dataset import Found
from connectors.backfill.footer import Wanted
from connectors.backfill.job import SITE, Job
from connectors.backfill.pieces import Piece, Share, Unit, cut_keys, held_max, in_order, slabs
from connectors.backfill.record import Record
from connectors.backfill.stage import Staging
from connectors.backfill.work import Order, wanted_of
from connectors.parquet.segment import log_id
from pipelines.errors import ConfigError
from pipelines.runtime.kafka import partition_of

FOOTERS_AT_ONCE = 16
SAMPLES_MAX = 64  # row groups whose keys are looked at to share them out evenly


def orders(job: Job, jobs: int) -> list[Order]:
    """What is to be done, and goes on record; of a backfill that was broken off, the very same units as then."""
    job.check()
    program = job.program
    wanted = wanted_of(job, program)
    listed = {stream: dataset.files(path) for stream, path in job.datasets}
    record = Record(job.out)
    facts = {**job.describe(), "files": _digest(listed)}
    known = record.check(facts)
    staging = Staging(record.folder / "staged" / str(facts["files"]), program.plan)
    ready = {stream: staging.ready(stream, found) for stream, found in listed.items()}
    by_site = _sites([p for s, found in ready.items() for p in _pieces(found, wanted[s])])
    if not by_site:
        raise ConfigError("there are no readings between --from and --to in the dataset: look at its times")
    units = known or list(_units(job, by_site, wanted, jobs))
    if not known:
        record.begin(facts, units)
    log = log_id(repr(sorted(facts.items())))
    return [Order(job, u, tuple(p for p in by_site[u.site] if u.share.may_have(p)), log) for u in units]


def _digest(listed: Mapping[str, Sequence[Found]]) -> str:
    text = repr([(s, f.path, f.bytes) for s, found in sorted(listed.items()) for f in found])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pieces(found: Sequence[Found], wanted: Wanted) -> list[Piece]:
    numbered = [(f, i) for i, f in enumerate(found) if f.low < wanted.high and f.high >= wanted.low]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        many = pool.map(lambda one: footer.pieces(one[0], one[1], wanted), numbered)
        return [p for some in many for p in some]


def _sites(pieces: Sequence[Piece]) -> dict[str, list[Piece]]:
    """Pieces by site. What names no site belongs to each, if there are any."""
    sites = sorted({p.site for p in pieces if p.site}) or ([SITE] if pieces else [])
    return {site: [p for p in pieces if p.site in ("", site)] for site in sites}


def _units(job: Job, by_site: Mapping[str, list[Piece]], wanted: Mapping[str, Wanted], jobs: int) -> Iterator[Unit]:
    number = 0
    for site, pieces in by_site.items():
        for share in _shares(job, pieces, wanted, max(1, -(-jobs // len(by_site)))):
            yield Unit(number, site, share)
            number += 1


def _shares(job: Job, pieces: Sequence[Piece], wanted: Mapping[str, Wanted], least: int) -> Iterator[Share]:
    """At least so many shares, and as many as it takes to hold the rows of one in memory.

    Where rows go to other keys on the way there is one share, whose task has all keys of the site.
    """
    if job.program.plan.exchanges:
        yield Share()
        return
    partitions = _partitions(pieces)
    for partition in range(partitions) if partitions else [None]:
        mine = [p for p in pieces if p.partition == partition] if partitions else list(pieces)
        row_bytes = max(wanted[p.stream].row_bytes for p in mine) if mine else 0
        held = held_max(slabs(mine, job.end, job.limits.slab_rows)) * row_bytes
        count = max(-(-least // max(partitions, 1)), -(-held // job.limits.held_bytes_max))
        for share in _cut(mine, wanted, count):
            yield Share(share.first, share.last, partition, partitions)


def _partitions(pieces: Sequence[Piece]) -> int:
    """How many partitions the files come from; 0 if that is not known of all, or they were not always as many."""
    if any(p.partition is None for p in pieces):
        return 0
    count = 1 + max(p.partition for p in pieces if p.partition is not None)
    keys = {(k, p.partition) for p in pieces for k in (p.first, p.last) if k}
    return count if all(partition_of(k, count) == p for k, p in keys) else 0


def _cut(pieces: Sequence[Piece], wanted: Mapping[str, Wanted], count: int) -> list[Share]:
    if count <= 1:
        return [Share()]
    ordered = in_order(pieces)
    sample = ordered[:: -(-len(ordered) // SAMPLES_MAX)]
    weights: Counter[str] = Counter()
    for piece in sample:
        weights.update(_weights(piece, wanted[piece.stream]))
    keys = sorted(weights)
    return list(cut_keys(keys, [weights[k] for k in keys], count))


def _weights(piece: Piece, wanted: Wanted) -> dict[str, int]:
    with footer.opened(piece.path, wanted) as file:
        column = file.read_row_group(piece.group, columns=[wanted.key], use_threads=False).column(0)
    counts = column.value_counts()
    keys = counts.field("values")
    keys = keys.dictionary_decode() if pa.types.is_dictionary(keys.type) else keys
    return {k: n for k, n in zip(keys.to_pylist(), counts.field("counts").to_pylist(), strict=True) if k}
