"""Task: one partition of a pipeline at work. Synchronous and deterministic: no clock, no I/O, no randomness."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.batch import TIME_MAX, Batch
from pipelines.errors import LimitExceeded, StateError
from pipelines.operators.build import build
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late, empty, join_rows
from pipelines.plan import SOURCES, Plan, Step
from pipelines.state import KeyIndex, pack, unpack
from pipelines.watermark import WatermarkTracker
from pipelines.wire import Frame

STATE_BYTES_MAX = 2**28
PASS_ROWS = 2**15  # computed at once: columns of so many rows stay in a core's cache


@dataclass(frozen=True, slots=True)
class Emitted:
    """Rows that a step gives out, and the step's watermark after them."""

    step: str
    batch: Batch
    watermark: int


class Task:
    """Runs every step of a plan on one partition.

    A plan with one source gives results that do not depend on how its frames are grouped into calls; one with several depends
    on the sequence of calls, so a replay must repeat it.
    """

    def __init__(
        self, plan: Plan, *, state_bytes_max: int = STATE_BYTES_MAX, observe: Collection[str] | None = None
    ) -> None:
        """`observe`: steps to emit; by default those with a result topic."""
        self.plan, self.state_bytes_max = plan, state_bytes_max
        self._observe = frozenset(plan.outputs if observe is None else observe)
        self._keys = KeyIndex()
        self._trackers = {stream: WatermarkTracker() for stream in plan.sources}
        env = Env(self._keys.__len__, state_bytes_max)
        self._operators = {s.name: build(s, plan, env) for s in plan.steps if s.kind not in (*SOURCES, "late")}
        self._by_frame = any(o.by_frame for o in self._operators.values())

    def process(self, inputs: Mapping[str, Sequence[Frame]]) -> list[Emitted]:
        """Take frames in, by stream and in offset order; give what the observed steps emit.

        `LimitExceeded` if the state outgrew `state_bytes_max`; the task is then of no more use.
        """
        waiting = {stream: deque(frames) for stream, frames in inputs.items()}
        emitted = self._pass(waiting)
        while any(waiting.values()):
            emitted += self._pass(waiting)
        return emitted

    def _pass(self, waiting: Mapping[str, deque[Frame]]) -> list[Emitted]:
        """Run every step once, over as many of the waiting frames as may be computed together."""
        flows: dict[str, Flow] = {}
        for step in self.plan.steps:
            if step.kind in SOURCES:
                flows[step.name] = self._source(step, waiting.get(step.spec.stream, deque()))
            elif step.kind == "late":
                flows[step.name] = self._late(step)
            else:
                flows[step.name] = self._run(step, [flows[up] for up in step.ups])
        self._check_limit()
        return [self._emit(n, f) for n, f in flows.items() if n in self._observe and len(f.batch)]

    def _source(self, step: Step, waiting: deque[Frame]) -> Flow:
        """Take frames up to the end of all inputs; one only if a join must not see what came after it."""
        tracker = self._trackers[step.spec.stream]
        batches, seen, watermark, rows = [], [], tracker.current, 0
        while waiting and rows < PASS_ROWS:
            frame = waiting.popleft()
            if len(frame.batch):
                slots = self._keys.slots(frame.batch.names, frame.info.source)
                batches.append(replace(frame.batch, names=NO_NAMES, codes=slots[frame.batch.codes]))
                seen.append(tracker.current)
                rows += len(frame.batch)
            watermark = tracker.advance(frame.info.source, frame.info.watermark)
            if watermark == TIME_MAX or self._by_frame:
                break
        if not batches:
            return Flow(empty(step.dtypes), watermark)
        return Flow(join_rows(batches), watermark, np.repeat(np.array(seen, np.int64), [len(b) for b in batches]))

    def _late(self, step: Step) -> Flow:
        operator = self._operators[step.ups[0]]
        assert isinstance(operator, Late)
        assert operator.late is not None
        return operator.late

    def _emit(self, step: str, flow: Flow) -> Emitted:
        return Emitted(step, replace(flow.batch, names=self._keys.names), flow.watermark)

    def _run(self, step: Step, inputs: Sequence[Flow]) -> Flow:
        try:
            return self._operators[step.name].process(*inputs)
        except LimitExceeded as e:
            raise self._limit(step.name, str(e)) from e

    def _check_limit(self) -> None:
        if self.state_bytes > self.state_bytes_max:
            largest = max(self._operators, key=lambda n: self._operators[n].nbytes)
            raise self._limit(largest, f"it holds {self.state_bytes:,} bytes of state")

    def _limit(self, step: str, what: str) -> LimitExceeded:
        return LimitExceeded(
            f"pipeline {self.plan.pipeline}: {what}, more than the limit of {self.state_bytes_max:,}; most of it in step "
            f"{step!r}: raise `state_bytes_max`, shorten its windows, or spread its keys over more partitions"
        )

    @property
    def state_bytes(self) -> int:
        """Memory held by keys and operators."""
        return self._keys.nbytes + sum(o.nbytes for o in self._operators.values())

    @property
    def windows_open(self) -> int:
        """Slices of windows that hold readings and are not yet emitted."""
        return sum(getattr(o, "open", 0) for o in self._operators.values())

    @property
    def watermarks(self) -> dict[str, int]:
        """Watermark of each stream; `TIME_MIN` before its first frame."""
        return {stream: t.current for stream, t in self._trackers.items()}

    def take_late_rows(self) -> dict[str, int]:
        """Late rows of each step that can have any since the last call."""
        late = {n: o for n, o in self._operators.items() if isinstance(o, Late)}
        counts = {n: o.late_rows for n, o in late.items()}
        for o in late.values():
            o.late_rows = 0
        return counts

    def snapshot(self) -> bytes:
        """The whole state."""
        return pack({
            "plan": self.plan.fingerprint,
            "keys": self._keys.save(),
            "watermarks": {s: {"sources": t.sources, "current": t.current} for s, t in self._trackers.items()},
            "operators": {n: saved for n, o in self._operators.items() if (saved := o.save())},
        })  # fmt: skip

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot; on a new task only. `StateError` if it is damaged or of another plan."""
        state = unpack(data)
        if state["plan"] != self.plan.fingerprint:
            raise StateError(
                f"the state of pipeline {self.plan.pipeline} was computed by another version of it ({state['plan']}, this one is "
                f"{self.plan.fingerprint}): deploy that version again, or reset the state to compute it anew"
            )
        self._keys.load(state["keys"])
        for stream, t in state["watermarks"].items():
            self._trackers[stream].load(t["sources"], t["current"])
        for name, saved in state["operators"].items():
            self._operators[name].load(saved)
