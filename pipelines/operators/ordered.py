"""Rows in the order of event time: held until the watermark says that no earlier one will come."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.operators.flow import Flow, empty, join_rows
from pipelines.state import State
from pipelines.windows import limit, limits


class Ordered:
    """Releases rows by (event time, arrival) once the watermark has passed them by `late` ns; refuses those older than that."""

    def __init__(self, dtypes: Mapping[str, str], late: int) -> None:
        self._late = late
        self._waiting = empty(dtypes)
        self._ended = TIME_MIN  # the newest time released when all inputs had ended
        self.upto = TIME_MIN  # what is released from now on is not older

    def take(self, flow: Flow) -> tuple[Batch, Flow]:
        """Rows to compute now, in order, and rows that are late."""
        late = np.zeros(len(flow.batch), bool)
        if flow.seen is not None:
            late = flow.batch.time < limits(flow.seen, self._late)
        late |= flow.batch.time < self._ended
        refused = flow.take(late)
        waiting = join_rows([self._waiting, flow.batch.take(~late) if late.any() else flow.batch])
        self.upto = limit(flow.watermark, self._late)
        ready = np.full(len(waiting), True) if flow.watermark == TIME_MAX else waiting.time < self.upto
        self._waiting = waiting.take(~ready)
        out = waiting.take(ready)
        out = out.take(np.argsort(out.time, kind="stable"))
        if flow.watermark == TIME_MAX and len(out):
            self._ended = int(out.time[-1])
        return out, refused

    @property
    def nbytes(self) -> int:
        """Memory."""
        w = self._waiting
        return w.codes.nbytes + w.time.nbytes + sum(c.nbytes for c in w.columns.values())

    def save(self) -> State:
        """Plain values."""
        w = self._waiting
        return {"codes": w.codes, "time": w.time, "columns": dict(w.columns), "ended": self._ended}

    def load(self, state: State) -> None:
        """Inverse of `save`."""
        self._waiting = Batch(self._waiting.names, state["codes"], state["time"], state["columns"])
        self._ended = state["ended"]
