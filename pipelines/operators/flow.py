"""What passes between the operators of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipelines.batch import TIME_MIN, Batch, Times
from pipelines.expr import Array
from pipelines.state import State

NO_NAMES = pa.array([], pa.string())  # inside a task `codes` are slots of the task's key index


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows and the watermark after them.

    `seen` is the watermark that was in force when each row arrived, shape `(rows,)`; it decides which rows are late, however
    frames are grouped. None: none is late.
    """

    batch: Batch
    watermark: int = TIME_MIN
    seen: Times | None = None

    def take(self, rows: Array | slice) -> Flow:
        """Only some rows; the watermark stays."""
        return replace(self, batch=self.batch.take(rows), seen=None if self.seen is None else self.seen[rows])

    def with_columns(self, columns: Mapping[str, Array]) -> Flow:
        """The same rows with other columns."""
        return replace(self, batch=replace(self.batch, columns=columns))


@dataclass(frozen=True, slots=True)
class Env:
    """What a task lends its operators."""

    keys: Callable[[], int]  # number of slots in use; codes of all flows are below it
    bytes_max: int  # of the state of the whole task
    names: Callable[[], pa.StringArray]  # the keys, by slot
    dimensions: Mapping[str, Batch]  # content of each dimension, by step


class Operator(Protocol):
    """One step at work. Given new rows of each input it returns what follows; deterministic, no clock, no I/O.

    Results must not depend on how frames are grouped into calls: what counts is the order of rows and `Flow.seen`. An operator
    that cannot promise this has `by_frame = True`; the task then gives frames one at a time.
    """

    by_frame: bool

    def process(self, *inputs: Flow) -> Flow:
        """Take new rows and watermarks in."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory held by the state."""
        ...

    def save(self) -> State:
        """State as plain values."""
        ...

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        ...


class Stateless:
    """Base of operators without state."""

    by_frame = False
    nbytes = 0

    def save(self) -> State:
        """See `Operator.save`."""
        return {}

    def load(self, state: State) -> None:
        """See `Operator.load`."""


class Late:
    """Mixin of operators that refuse rows: `late` holds those of the newest call, `late_rows` counts.

    A join of two streams has those of its left side there, and those of the right in `late_right`.
    """

    late: Flow | None = None
    late_right: Flow | None = None
    late_rows = 0


def empty(dtypes: Mapping[str, str]) -> Batch:
    """No rows, with the columns of a step (`Step.dtypes`)."""
    columns = {n: np.empty(0, d) for n, d in dtypes.items()}
    return Batch(NO_NAMES, np.empty(0, np.int32), np.empty(0, np.int64), columns)


def join_rows(batches: list[Batch]) -> Batch:
    """Batches of one layout, all coded by slots, one after the other."""
    if len(batches) == 1:
        return batches[0]
    columns = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    codes, time = np.concatenate([b.codes for b in batches]), np.concatenate([b.time for b in batches])
    return Batch(NO_NAMES, codes, time, columns)


def rows_bytes(batch: Batch) -> int:
    """Memory of rows that an operator holds."""
    return int(batch.codes.nbytes + batch.time.nbytes + sum(c.nbytes for c in batch.columns.values()))


def save_rows(batch: Batch) -> State:
    """Held rows as plain values."""
    return {"codes": batch.codes, "time": batch.time, "columns": dict(batch.columns)}


def load_rows(state: State) -> Batch:
    """Inverse of `save_rows`."""
    return Batch(NO_NAMES, state["codes"], state["time"], state["columns"])
