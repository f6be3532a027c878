"""Pieces -> readings, slab of time by slab of time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.backfill.footer import TIME, UNITS_NS, Wanted, opened
from connectors.backfill.pieces import Piece, Share, Slab
from pipelines.batch import Batch, Codes, Times
from pipelines.errors import ConfigError, StateError
from pipelines.expr import Array
from pipelines.runtime.kafka import partition_of
from pipelines.schema import TEXT
from pipelines.wire import text

OTHER = -1  # code of keys of other shares
Held = tuple[int, int, Batch]  # number of file and row group, and readings of it that are not complete yet


class Keys:
    """Numbers the keys of a share as they appear."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._codes: dict[str, int] = {}
        self._names: list[str] = []

    def codes(self, keys: pa.DictionaryArray) -> tuple[Codes, bool]:
        """The number of each row's key, and whether all may be of the share."""
        rows = (keys.indices.fill_null(0) if keys.null_count else keys.indices).to_numpy()
        used = np.zeros(len(keys.dictionary), bool)  # a dictionary may have names that no row uses
        used[rows] = True
        codes = np.full(len(used), OTHER, np.int32)
        codes[used] = [self._code(name) for name in keys.dictionary.filter(pa.array(used)).to_pylist()]
        return codes[rows], bool((codes[used] != OTHER).all())

    def _code(self, name: str | None) -> int:
        code = self._codes.get(name or "")
        if code is None:
            code = OTHER
            if name and self._share.has(name):
                code = len(self._names)
                self._names.append(name)
                self._check_partition(name)
            self._codes[name or ""] = code
        return code

    def _check_partition(self, name: str) -> None:
        share = self._share
        if share.partition is not None and partition_of(name, share.partitions) != share.partition:
            raise StateError(
                f"key {name!r} is in partition {share.partition} of {share.partitions}, where it does not belong: the number of "
                "partitions has changed in this time. Backfill the times before and after it by themselves (--from, --to), "
                "or copy the files into a folder under names without partitions"
            )

    @property
    def names(self) -> pa.StringArray:
        """All so far."""
        return pa.array(self._names, pa.string())


class Reader:
    """Reads the share of one unit. `dropped` counts readings that cannot be used: without key, time or a value."""

    def __init__(self, wanted: Mapping[str, Wanted], share: Share) -> None:
        self._wanted = wanted
        self.keys = Keys(share)
        self.dropped = 0
        self._file: tuple[str, pq.ParquetFile] | None = None
        self._held: dict[str, list[Held]] = {stream: [] for stream in wanted}

    def slab(self, slab: Slab, since: int) -> Iterator[tuple[str, Batch]]:
        """The readings of each stream in `[since, slab.end)`, as they lie in the dataset."""
        for piece in sorted(slab.pieces, key=lambda p: (p.file, p.group)):
            if len(batch := self._read(piece, since)):
                self._held[piece.stream].append((piece.file, piece.group, batch))
        names = self.keys.names
        for stream, held in self._held.items():
            held.sort(key=lambda h: h[:2])
            ready, rest = _split(held, slab.end)
            self._held[stream] = rest
            yield stream, replace(_joined(ready, self._wanted[stream]), names=names)

    def _read(self, piece: Piece, since: int) -> Batch:
        wanted = self._wanted[piece.stream]
        table = self._open(piece.path, wanted).read_row_group(
            piece.group,
            columns=[wanted.key, TIME, *(h for _, h, _ in wanted.columns)],
            use_threads=False,
        )
        columns = {name: _whole(table.column(name)) for name in table.column_names}
        unusable = _nulls(columns, wanted)
        key, time = columns[wanted.key], _times(columns[TIME])
        codes, mine = self.keys.codes(key)
        values = {q: _values(columns, h, dtype, wanted, piece) for q, h, dtype in wanted.columns}
        batch = Batch(key.dictionary, codes, time, values)
        low = max(since, wanted.low)
        keep = None if mine else codes != OTHER
        if piece.low < low or piece.high >= wanted.high:
            inside = (time >= low) & (time < wanted.high)
            keep = inside if keep is None else keep & inside
        if unusable is not None:
            self.dropped += int((unusable if keep is None else keep & unusable).sum())
            keep = ~unusable if keep is None else keep & ~unusable
        return batch if keep is None else batch.take(keep)

    def _open(self, path: str, wanted: Wanted) -> pq.ParquetFile:
        if self._file is None or self._file[0] != path:
            if self._file is not None:
                self._file[1].close()
            self._file = path, opened(path, wanted)
        return self._file[1]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _nulls(columns: Mapping[str, pa.Array], wanted: Wanted) -> Array | None:
    """Rows that lack what nothing stands for."""
    lacks = [c for name, c in columns.items() if c.null_count and name not in wanted.absent]
    if not lacks:
        return None
    found: Array = np.any([c.is_null().to_numpy(zero_copy_only=False) for c in lacks], axis=0)
    return found


def _times(column: pa.Array) -> Times:
    stored = column.cast(pa.int64())
    values = (stored.fill_null(0) if stored.null_count else stored).to_numpy()
    scale = UNITS_NS[column.type.unit]
    ns: Times = values if scale == 1 else values * scale
    return ns


def _values(columns: Mapping[str, pa.Array], header: str, dtype: str, wanted: Wanted, piece: Piece) -> Array:
    column = columns.get(header)
    if column is None:  # an older file
        return np.full(len(columns[wanted.key]), wanted.absent[header], dtype)
    if dtype == TEXT:
        return _text(column, wanted.absent.get(header, ""))
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    if column.type != kind:
        try:
            column = column.cast(kind)
        except pa.ArrowInvalid as e:
            raise ConfigError(f"{piece.path}: column {header!r} does not fit {dtype}: {e}: change the schema") from e
    if column.null_count:
        column = column.fill_null(pa.scalar(wanted.absent.get(header, 0), kind))
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _text(column: pa.DictionaryArray, absent: str) -> Array:
    values = np.append(text(column.dictionary), absent) if len(column.dictionary) else np.array([absent], TEXT)
    codes = column.indices.fill_null(len(values) - 1).to_numpy()
    coded: Array = values.astype(TEXT)[codes]
    return coded


def _split(held: Sequence[Held], end: int) -> tuple[list[Batch], list[Held]]:
    """Rows before `end`, and the others."""
    ready: list[Batch] = []
    rest: list[Held] = []
    for file, group, batch in held:
        before = batch.time < end
        if before.all():
            ready.append(batch)
            continue
        rest.append((file, group, batch.take(~before)))
        if before.any():
            ready.append(batch.take(before))
    return ready, rest


def _joined(batches: list[Batch], wanted: Wanted) -> Batch:
    if not batches:
        return wanted.nothing
    if len(batches) == 1:
        return batches[0]
    codes, time = (np.concatenate([getattr(b, n) for b in batches]) for n in ("codes", "time"))
    columns = {q: np.concatenate([b.columns[q] for b in batches]) for q, _, _ in wanted.columns}
    return Batch(batches[0].names, codes, time, columns)
