"""Notifications of single nodes -> rows of devices. Pure.

A row stands for a device and a source timestamp. It has the values that changed then, and of the other columns the last known
ones; its quality is that of its worst column. What a node says twice for the same time makes two rows: nothing is lost. A
device's first row is made once each of its nodes has spoken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columns as judge
from connectors.columns import Faults, Layout, Raw
from connectors.opcua import wire
from connectors.opcua.wire import Notifications
from pipelines.batch import Batch, Times
from pipelines.dead import DeadLetter
from pipelines.expr import Array
from pipelines.quality import BAD, GOOD, UNCERTAIN
from pipelines.schema import TEXT, Field, Row

WAITING = 0x80320000  # BadWaitingForInitialData: the node has nothing to say yet
_OF_SEVERITY = np.array([GOOD, UNCERTAIN, BAD, BAD], np.int8)


@dataclass(frozen=True, slots=True)
class Item:
    """What a handle stands for."""

    device: str
    column: str
    path: str


@dataclass(frozen=True, slots=True)
class Joined:
    """What notifications came to."""

    batch: Batch
    rejects: tuple[DeadLetter, ...] = ()
    mistyped: tuple[str, ...] = ()  # what is wrong with values that are not of their column's type


class Joiner:
    """The last known values of all devices of one source, and the rows that come of new ones."""

    def __init__(self, row: Row, layout: Layout, quality: str, arrival: str | None) -> None:
        """`row`: the columns that nodes send; `quality`, `arrival`: qualified names of the columns for these."""
        self._row, self._layout, self._quality, self._arrival = row, layout, quality, arrival
        self._items: list[Item] = []
        self._devices: dict[str, int] = {}
        self._columns = {f.name: i for i, f in enumerate(row.fields)}
        self._device_of = np.empty(0, np.int64)  # by handle, as the next two
        self._column_of = np.empty(0, np.int64)
        self._fresh = np.empty(0, np.bool_)  # since the node was subscribed to, it has said nothing
        width = len(row.fields)
        self._values = [np.full(0, _nothing(f, layout), f.dtype) for f in row.fields]  # by device
        self._classes = np.empty((0, width), np.int8)  # quality by device and column
        self._times = np.empty((0, width), np.int64)
        self._awaited = np.empty((0, width), np.bool_)  # there is a node, and it has said nothing yet
        self._names = pa.array([], pa.string())

    @property
    def items(self) -> Sequence[Item]:
        """What each handle stands for."""
        return self._items

    def nothing(self) -> Batch:
        """A batch without rows."""
        return self._batch(np.empty(0, np.int32), np.empty(0, np.int64), {}, np.empty(0, np.int8), 0)

    def add(self, items: Sequence[Item]) -> range:
        """Handles for new nodes."""
        first = len(self._items)
        self._items += items
        for item in items:
            self._devices.setdefault(item.device, len(self._devices))
        devices = np.array([self._devices[i.device] for i in items], np.int64)
        columns = np.array([self._columns[i.column] for i in items], np.int64)
        self._device_of = np.concatenate([self._device_of, devices])
        self._column_of = np.concatenate([self._column_of, columns])
        self._fresh = np.concatenate([self._fresh, np.ones(len(items), np.bool_)])
        self._grow(len(self._devices))
        self._awaited[devices, columns] = True
        return range(first, len(self._items))

    def _grow(self, count: int) -> None:
        more = count - len(self._times)
        if more > 0:
            self._names = pa.array(list(self._devices), pa.string())
            width = len(self._row.fields)
            fields = zip(self._values, self._row.fields, strict=True)
            self._values = [np.concatenate([v, np.full(more, _nothing(f, self._layout), f.dtype)]) for v, f in fields]
            absent = [GOOD if f.name in self._layout.absent else BAD for f in self._row.fields]
            self._classes = np.concatenate([self._classes, np.tile(np.array(absent, np.int8), (more, 1))])
            self._times = np.concatenate([self._times, np.zeros((more, width), np.int64)])
            self._awaited = np.concatenate([self._awaited, np.zeros((more, width), np.bool_)])

    def renew(self, handles: Sequence[int]) -> None:
        """These nodes are subscribed to anew: the first that each says may be known already."""
        self._fresh[list(handles)] = True

    def lost(self, handles: Sequence[int]) -> None:
        """These nodes are not there, or will say nothing: their devices no longer wait for them."""
        which = list(handles)
        devices, columns = self._device_of[which], self._column_of[which]
        self._awaited[devices, columns] = False
        self._classes[devices, columns] = BAD
        for c, field in enumerate(self._row.fields):
            if field.dtype.startswith("float"):
                self._values[c][devices[columns == c]] = np.nan

    def join(self, got: Notifications, arrived_ns: int, latest_ns: int) -> Joined:
        """The rows that come of notifications that arrived at `arrived_ns`; none may be later than `latest_ns`."""
        known = (got.handles < len(self._items)) & (got.status != WAITING)
        known[known] &= ~self._repeated(got, np.flatnonzero(known))
        rows = np.flatnonzero(known)
        if not len(rows):
            return Joined(
                self._batch(np.empty(0, np.int32), np.empty(0, np.int64), {}, np.empty(0, np.int8), arrived_ns)
            )
        handles = got.handles[rows]
        devices, columns = self._device_of[handles], self._column_of[handles]
        times = np.where(got.times[rows] == 0, arrived_ns, got.times[rows])
        classes = _OF_SEVERITY[got.status[rows] >> 30]
        values, mistyped = self._typed(got, rows, columns, classes)
        self._fresh[handles] = False
        order, row_of = _grouped(devices, columns, times)
        table = _Table(devices[order], columns[order], times[order], classes[order], row_of, order)
        return self._rows(table, values, arrived_ns, latest_ns, mistyped)

    def _repeated(self, got: Notifications, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which are only what was known before the subscription was made anew."""
        handles = got.handles[rows]
        first = np.zeros(len(rows), np.bool_)
        first[np.unique(handles, return_index=True)[1]] = True
        old = self._times[self._device_of[handles], self._column_of[handles]]
        repeated: npt.NDArray[np.bool_] = (
            first & self._fresh[handles] & (got.times[rows] != 0) & (got.times[rows] == old)
        )
        return repeated

    def _typed(
        self,
        got: Notifications,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        classes: npt.NDArray[np.int8],
    ) -> tuple[list[Array], tuple[str, ...]]:
        """Values of each column (of all rows, what is another column's is nothing); those of a wrong type are made BAD."""
        values: list[Array] = []
        wrong: list[str] = []
        for c, field in enumerate(self._row.fields):
            mine = columns == c
            value, fits = _values(field, got, rows, mine)
            bad = mine & ~fits & (classes != BAD)
            wrong += [self._complaint(field, got, int(rows[i])) for i in np.flatnonzero(bad)]
            classes[bad] = BAD
            if field.dtype.startswith("float"):
                value[mine & (classes == BAD)] = np.nan
            values.append(value)
        return values, tuple(wrong)

    def _complaint(self, field: Field, got: Notifications, row: int) -> str:
        kind = int(got.kinds[row])
        shown = judge.shown(got.texts[row]) if row in got.texts else str(got.numbers[row])
        said = f"{shown} ({wire.kind_name(kind)})" if kind not in (wire.NONE, wire.OTHER) else wire.kind_name(kind)
        return f"{self._items[got.handles[row]].path}: {field.name} is {said}: {judge.EXPECTED[field.dtype]} is needed"

    def _rows(
        self, table: _Table, values: Sequence[Array], arrived_ns: int, latest_ns: int, mistyped: tuple[str, ...]
    ) -> Joined:
        count = int(table.row_of[-1]) + 1
        starts = np.flatnonzero(np.diff(table.row_of, prepend=-1))
        devices, times = table.devices[starts], table.times[starts]
        begins = np.flatnonzero(np.diff(devices, prepend=-1))  # of each device's rows
        begin = np.repeat(begins, np.diff(np.append(begins, count)))
        ends = np.append(begins[1:], count) - 1
        worst = np.full(count, GOOD, np.int8)
        complete = np.ones(count, np.bool_)
        columns: dict[str, Array] = {}
        for c, field in enumerate(self._row.fields):
            mine = np.flatnonzero(table.columns == c)
            at = np.full(count, -1)
            at[table.row_of[mine]] = mine
            latest = np.maximum.accumulate(np.where(at >= 0, np.arange(count), -1))  # the row that last had this column
            fresh = latest >= begin
            source = np.where(fresh, at[latest], 0)
            value = np.where(fresh, values[c][table.order[source]], self._values[c][devices])
            held = ~fresh & self._awaited[devices, c]
            quality = np.where(fresh, table.classes[source], self._classes[devices, c])
            if not field.dtype.startswith(
                "float"
            ):  # of a bad reading only floats have a sign; others stay as they were
                value = _held(value, quality, fresh, self._values[c][devices], begin)
            complete &= ~held
            worst = np.maximum(worst, quality).astype(np.int8)
            columns[field.qualified] = value
            heard = devices[ends][fresh[ends]]
            self._values[c][devices[ends]] = value[ends]
            self._classes[devices[ends], c] = quality[ends]
            self._awaited[heard, c] = False
            self._times[heard, c] = table.times[source[ends][fresh[ends]]]
        whole = self._batch(devices.astype(np.int32), times, columns, worst, arrived_ns).take(complete)
        return replace(self._judged(whole, latest_ns), mistyped=mistyped)

    def _batch(
        self,
        codes: npt.NDArray[np.int32],
        times: Times,
        columns: Mapping[str, Array],
        quality: npt.NDArray[np.int8],
        arrived_ns: int,
    ) -> Batch:
        full = dict(columns) or {f.qualified: np.empty(0, f.dtype) for f in self._row.fields}
        full[self._quality] = quality
        if self._arrival is not None:
            full[self._arrival] = np.full(len(codes), arrived_ns, np.int64)
        return Batch(self._names, codes, times, full)

    def _judged(self, batch: Batch, latest_ns: int) -> Joined:
        """Refuse rows whose key or time is none."""
        faults = Faults(len(batch))
        keys = batch.names.take(pa.array(batch.codes))
        judge.batch(Layout(replace(self._row, fields=()), {}), Raw(keys, batch.time, {}), faults, latest_ns=latest_ns)
        if not faults.found:
            return Joined(batch)
        return Joined(
            batch.take(~faults.bad), tuple(self._dead(batch, i, *faults.found[i]) for i in sorted(faults.found))
        )

    def _dead(self, batch: Batch, row: int, reason: str, text: str) -> DeadLetter:
        device = batch.names[int(batch.codes[row])].as_py()
        origin = next((i.path for i in self._items if i.device == device), device)
        said = ", ".join(f"{name.rpartition('.')[2]}={values[row]}" for name, values in batch.columns.items())
        return DeadLetter(f"{device} {batch.time[row]} {said}".encode(), reason, f"{origin}: {text}", origin)


@dataclass(frozen=True, slots=True)
class _Table:
    """Notifications by device, time and turn."""

    devices: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    times: Times
    classes: npt.NDArray[np.int8]
    row_of: npt.NDArray[np.int64]  # the row that each belongs to
    order: npt.NDArray[np.int64]  # where each was before


def _nothing(field: Field, layout: Layout) -> Any:
    """What stands for a column of which nothing was ever said."""
    if field.name in layout.absent:
        return layout.absent[field.name]
    return "" if field.dtype == TEXT else np.nan if field.dtype.startswith("float") else 0


def _grouped(
    devices: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], times: Times
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(order by device, time and turn; row of each in it). A node's second value for the same time is of a second turn."""
    by_node = np.lexsort((columns, times, devices))  # stable: equal ones stay in the order of arrival
    same = np.zeros(len(by_node), np.bool_)
    for part in (devices, times, columns):
        there = part[by_node]
        same[1:] = there[1:] == there[:-1] if part is devices else same[1:] & (there[1:] == there[:-1])
    position = np.arange(len(by_node))
    turn = np.empty(len(by_node), np.int64)
    turn[by_node] = position - np.maximum.accumulate(np.where(same, 0, position))
    order = np.lexsort((columns, turn, times, devices))
    changed = np.zeros(len(order), np.bool_)
    for part in (devices, times, turn):
        there = part[order]
        changed[1:] |= there[1:] != there[:-1]
    return order, np.cumsum(changed)


def _values(
    field: Field, got: Notifications, rows: npt.NDArray[np.int64], mine: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """(values as the column's type, mask of those that are of it)."""
    kinds = got.kinds[rows]
    if field.dtype == TEXT:
        value = np.full(len(rows), "", TEXT)
        for i, text in wire.positions(got.texts, rows):
            value[i] = text[: judge.TEXT_CHARS_MAX] if mine[i] else ""
        return value, kinds == wire.TEXT
    if field.dtype == "bool":
        return got.wholes[rows] != 0, kinds == wire.BOOL
    whole = np.isin(kinds, wire.INTS) & ~((kinds == 9) & (got.wholes[rows] < 0))  # beyond 2**63
    if field.dtype == "int64":
        return got.wholes[rows].copy(), whole
    numbers = got.numbers[rows]
    fits = (np.isin(kinds, wire.INTS) | np.isin(kinds, wire.FLOATS)) & (np.abs(numbers) <= np.finfo(field.dtype).max)
    return np.where(fits, numbers, np.nan).astype(field.dtype), fits


def _held(value: Array, quality: Array, fresh: Array, before: Array, begin: npt.NDArray[np.int64]) -> Array:
    """Values in which a bad one is replaced by the last of the same device that was not bad."""
    good = ~(fresh & (quality == BAD))
    last = np.maximum.accumulate(np.where(good, np.arange(len(value)), -1))
    held: Array = np.where(last >= begin, value[last], before)
    return held
