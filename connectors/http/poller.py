"""Reads what is fetched: a task for each URL polls into a bounded buffer; while that is full nothing is asked for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from connectors import columns
from connectors.base import Context, Read, quality_column
from connectors.buffer import BYTES_MAX, ROWS_MAX, Buffer
from connectors.columns import Layout
from connectors.http import URLS_MAX, PollSource
from connectors.http.client import PAGE_BYTES_MAX, Client
from connectors.http.codec import Codec, Decoded
from connectors.http.target import Position, Target
from connectors.pollers import Pollers
from connectors.progress import DeviceClock
from connectors.shape import READINGS_MAX
from pipelines import metrics
from pipelines.batch import Batch
from pipelines.dead import DeadLetter
from pipelines.quality import BAD, GOOD
from pipelines.units import duration_ns

PIECE_ROWS_MAX = 1_000
log = logging.getLogger("collect")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some readings of a page, with the quality of each; or what is wrong with it; or how far a URL has come with all that."""

    batch: Batch
    letters: tuple[DeadLetter, ...] = ()
    reached: Mapping[str, bytes] = field(default_factory=dict)  # position by name

    @property
    def rows(self) -> int:
        """Readings and dead letters."""
        return len(self.batch) + len(self.letters)


class PollReader:
    """See `connectors.base.Reader`.

    What was read and not acknowledged is given again after `connect`, as long as the process lives. A new process goes on from
    the positions behind what was acknowledged.
    """

    def __init__(self, source: PollSource[Any], context: Context) -> None:
        self._source, self._context = source, context
        self._labels = {"site": context.site, "stream": source.stream}
        self._quality = quality_column(source.schema)
        self._layout = Layout.of(source.schema)
        self._codec = Codec(source, bytes_max=PAGE_BYTES_MAX)
        self._empty = self._graded(self._codec.decode([], latest_ns=0).batch)
        self._device_clock = DeviceClock(source.speed, duration_ns(source.future_max))
        self._buffer: Buffer[Piece] = Buffer(context.site, source.stream, context.clock)
        self._pollers = Pollers(self._buffer, "the URLs", "URLs answers", lambda piece: piece.rows)
        self._client: Client | None = None
        self._targets = {key or "": self._target(key, url) for key, url in source.urls}
        self._resumed = False

    def _target(self, key: str | None, url: str) -> Target:
        clock, missed = self._context.clock, metrics.collect_missed.labels(**self._labels)
        return Target(
            self._source, key, url, self._codec, clock, give=self._give, fail=self._fail, room=self._room, missed=missed.inc,
            latest=lambda: self._device_clock.latest(clock.now_ns()), changed=self._pollers.changed.set,
            reached=partial(self._reached, key or ""),
        )  # fmt: skip

    async def connect(self) -> None:
        """See `Reader.connect`. One URL that answers is enough; the others go on trying."""
        await self._resume()
        self._client = client = Client(self._source, self._context)
        targets = list(self._targets.values())
        await self._pollers.connect(targets, [target.run(client) for target in targets])

    async def _resume(self) -> None:
        if self._resumed or not self._source.keeps_positions:
            return
        saved = await self._context.positions.load()
        for name in saved.keys() & self._targets.keys():
            target = self._targets[name]
            try:
                target.resume(msgspec.json.decode(saved[name], type=Position))
            except ValueError as e:
                log.warning(
                    "%s: %s begins anew: what is on record is no position: %s", self._source.stream, target.url, e
                )
        self._resumed = True

    async def read(self, *, rows_max: int, linger_s: float) -> Read:
        """See `Reader.read`."""
        pieces, ack = await self._pollers.get(rows_max, linger_s)
        letters = tuple(letter for p in pieces for letter in p.letters)
        reached = {name: at for p in pieces for name, at in p.reached.items()}
        return Read(joined([p.batch for p in pieces], self._empty), letters, partial(self._ack, reached, ack))

    async def _ack(self, reached: Mapping[str, bytes], ack: Callable[[], Awaitable[None]]) -> None:
        if reached:
            await self._context.positions.save(reached)
        await ack()

    async def close(self) -> None:
        """See `Reader.close`. What was read stays."""
        await self._pollers.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _give(self, decoded: Decoded) -> None:
        batch = self._graded(decoded.batch)
        if decoded.letters:
            self._put(Piece(batch.take(slice(0, 0)), decoded.letters))
        for start in range(0, len(batch), PIECE_ROWS_MAX):
            self._put(Piece(batch.take(slice(start, start + PIECE_ROWS_MAX))))

    def _reached(self, name: str, at: Position) -> None:
        self._put(Piece(self._empty, reached={name: msgspec.json.encode(at)}))

    def _fail(self, key: str | None, reason: str) -> None:
        """A device that was asked in vain has a bad reading."""
        metrics.source_errors.labels(**self._labels, reason=reason).inc()
        if key is None:
            return
        values = {f.qualified: np.zeros(1, f.dtype) for f in self._layout.row.fields}
        now = np.array([self._context.clock.now_ns()], np.int64)
        batch = Batch(pa.array([key], pa.string()), np.zeros(1, np.int32), now, values)
        self._put(Piece(columns.fill(self._graded(batch, BAD), self._source.schema, now)))

    def _put(self, piece: Piece) -> None:
        nbytes = 200 + sum(c.nbytes for c in piece.batch.columns.values()) + sum(len(d.payload) for d in piece.letters)
        self._buffer.put(piece, rows=piece.rows, nbytes=nbytes)

    def _room(self) -> bool:
        """Whether one more page fits into the buffer, and a bad reading of each URL: it drops nothing."""
        return (
            self._buffer.rows <= ROWS_MAX - READINGS_MAX - URLS_MAX
            and self._buffer.nbytes <= BYTES_MAX - 4 * PAGE_BYTES_MAX
        )

    def _graded(self, batch: Batch, quality: int = GOOD) -> Batch:
        return Batch(
            batch.names,
            batch.codes,
            batch.time,
            {**batch.columns, self._quality: np.full(len(batch), quality, np.int8)},
        )


def joined(batches: Sequence[Batch], empty: Batch) -> Batch:
    """One after the other, with the distinct names of all."""
    if len(batches) < 2:
        return batches[0] if batches else empty
    names = pa.concat_arrays([b.names for b in batches]).dictionary_encode()
    new = names.indices.to_numpy()
    offsets = np.cumsum([0, *(len(b.names) for b in batches[:-1])])
    codes = np.concatenate([new[b.codes + offset] for b, offset in zip(batches, offsets.tolist(), strict=True)])
    values_ = {n: np.concatenate([b.columns[n] for b in batches]) for n in empty.columns}
    return Batch(names.dictionary, codes.astype(np.int32), np.concatenate([b.time for b in batches]), values_)
