"""Dedupe: of rows that a key sent twice, the first."""

from __future__ import annotations

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Times
from pipelines.expr import Array
from pipelines.operators.flow import Env, Flow, Late
from pipelines.operators.rounds import values_of
from pipelines.shapes import DedupeSpec
from pipelines.state import Cells, State
from pipelines.windows import limit, limits


class Dedupe(Late):
    """Remembers (key, number, time) of rows that are not older than the watermark less `within`; older ones are late.

    A row is a duplicate if a row of the same key and number that came before it, and was kept, is remembered still. Numbers
    mostly ascend: only those that do not are looked up.
    """

    by_frame = False

    def __init__(self, spec: DedupeSpec, env: Env) -> None:
        self.spec, self._keys = spec, env.keys
        self._newest = Cells({"number": ("int64", TIME_MIN)}, env.bytes_max, rows=1)  # highest number of each slot
        self._slot, self._number, self._time = (np.empty(0, np.int64) for _ in range(3))

    def process(self, *inputs: Flow) -> Flow:
        """See `Operator.process`."""
        (flow,) = inputs
        self._newest.reserve(self._keys())
        floor = np.full(len(flow.batch), TIME_MIN) if flow.seen is None else limits(flow.seen, self.spec.within)
        late = flow.batch.time < floor
        self.late = flow.take(late)
        self.late_rows += len(self.late.batch)
        if late.any():
            flow, floor = flow.take(~late), floor[~late]
        number = flow.batch.time if self.spec.by is None else values_of((self.spec.by,), flow.batch)[0]
        keep = self._new(flow.batch.codes.astype(np.int64), number, flow.batch.time, floor)
        if flow.watermark != TIME_MAX:
            self._remember(self._time >= limit(flow.watermark, self.spec.within))
        return flow if keep.all() else flow.take(keep)

    def _new(self, slot: Array, number: Array, time: Times, floor: Times) -> Array:
        keep = np.zeros(len(slot), bool)
        todo = np.arange(len(slot))
        while len(todo):
            order = todo[np.lexsort((number[todo], slot[todo]))]  # stable: of the same, in the order of arrival
            first = np.r_[True, (np.diff(slot[order]) != 0) | (np.diff(number[order]) != 0)][: len(order)]
            heads = order[first]
            known = self._known(slot[heads], number[heads])
            seen_before = known >= floor[heads]
            keep[heads[~seen_before]] = True
            entry = np.where(seen_before, known, time[heads])  # the time that followers are compared with
            self._add(slot[heads], number[heads], time[heads], ~seen_before)
            group = np.cumsum(first) - 1
            todo = np.sort(order[~first & (entry[group] < floor[order])])  # forgotten by then: as good as new
        return keep

    def _known(self, slot: Array, number: Array) -> Times:
        """Newest remembered time of each (slot, number); `TIME_MIN` if there is none."""
        found = np.full(len(slot), TIME_MIN)
        asked = np.flatnonzero(number <= self._newest["number"][0, slot])
        if not len(asked):
            return found
        held = np.flatnonzero(np.isin(self._slot, slot[asked]) & np.isin(self._number, number[asked]))
        slots, numbers = np.r_[self._slot[held], slot[asked]], np.r_[self._number[held], number[asked]]
        times = np.r_[self._time[held], np.full(len(asked), TIME_MIN)]
        order = np.lexsort((times, numbers, slots))
        group = np.cumsum(np.r_[True, (np.diff(slots[order]) != 0) | (np.diff(numbers[order]) != 0)]) - 1
        newest = np.maximum.reduceat(times[order], np.flatnonzero(np.r_[True, np.diff(group) != 0]))
        of_row = np.empty(len(order), np.int64)
        of_row[order] = group
        found[asked] = newest[of_row[len(held) :]]
        return found

    def _add(self, slot: Array, number: Array, time: Times, new: Array) -> None:
        self._slot, self._number = np.r_[self._slot, slot[new]], np.r_[self._number, number[new]]
        self._time = np.r_[self._time, time[new]]
        np.maximum.at(self._newest["number"][0], slot[new], number[new])

    def _remember(self, rows: Array) -> None:
        if not rows.all():
            self._slot, self._number, self._time = self._slot[rows], self._number[rows], self._time[rows]

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self._newest.nbytes + 3 * self._slot.nbytes

    def save(self) -> State:
        """See `Operator.save`."""
        newest = self._newest.save([0], self._keys())
        return {"newest": newest, "slot": self._slot, "number": self._number, "time": self._time}

    def load(self, state: State) -> None:
        """See `Operator.load`."""
        self._newest.load([0], state["newest"])
        self._slot, self._number, self._time = state["slot"], state["number"], state["time"]
