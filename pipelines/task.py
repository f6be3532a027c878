"""Task: one partition of a pipeline at work. Synchronous and deterministic: no clock, no I/O, no randomness."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, WINDOW_START, Batch, Times
from pipelines.errors import LimitExceeded, PlanError, StateError
from pipelines.operators.build import build
from pipelines.operators.flow import NO_NAMES, Env, Flow, Late, empty, join_rows
from pipelines.plan import SOURCES, Plan, Step
from pipelines.state import KeyIndex, pack, unpack
from pipelines.watermark import ExchangeTracker, WatermarkTracker
from pipelines.wire import Frame, FrameInfo

STATE_BYTES_MAX = 2**28
LEAD_SHARE = (
    10  # an input may run ahead of the others within a call by this part of the time that a join waits for them
)
PASS_ROWS = 2**15  # computed at once: columns of so many rows stay in a core's cache


@dataclass(frozen=True, slots=True)
class Emitted:
    """Rows that a step gives out, and the step's watermark after them."""

    step: str
    batch: Batch
    watermark: int


class Task:
    """Runs every step of a plan on one partition.

    A plan with one source gives results that do not depend on how its frames are grouped into calls. With several they may, where
    a join does not wait for one (any longer), so a replay must repeat the sequence of calls.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        state_bytes_max: int = STATE_BYTES_MAX,
        observe: Collection[str] | None = None,
        dimensions: Mapping[str, Batch] | None = None,
    ) -> None:
        """`observe`: steps to emit; by default those with a result topic. `dimensions`: content of each, by step."""
        self.plan, self.state_bytes_max = plan, state_bytes_max
        self._observe = frozenset(plan.outputs if observe is None else observe)
        self._keys = {s.row.key: KeyIndex() for s in plan.steps}  # rows meet by keys of one name
        exchanged = {s.spec.stream for s in plan.steps if s.kind == "repartition"}
        self._trackers = {s: ExchangeTracker() if s in exchanged else WatermarkTracker() for s in plan.sources}
        self._told = dict.fromkeys(plan.exchanges, TIME_MIN)  # watermarks that the other tasks know
        if missing := [s for s in plan.steps if s.kind == "dimension" and s.name not in (dimensions or {})]:
            raise PlanError(
                f"pipeline {plan.pipeline}: dimension {missing[0].name!r} ({missing[0].spec}) has no content: give it as "
                "dimensions=, in a test of a pipeline among the inputs:  run(…, {machines: Machine.facts(…)})"
            )
        envs = {
            key: Env(k.__len__, state_bytes_max, partial(getattr, k, "names"), dimensions or {})
            for key, k in self._keys.items()
        }
        self._streams = {
            s.spec.stream for s in plan.steps if s.kind in SOURCES and s.kind != "table"
        }  # may be waited for
        kinds = (*SOURCES, "late", "dimension")
        pruned = plan.pruned(self._observe)
        self._steps = pruned.steps
        self._operators = {s.name: build(s, pruned, envs[s.row.key]) for s in self._steps if s.kind not in kinds}
        self._by_frame = any(o.by_frame for o in self._operators.values())
        waits: list[int] = [w for o in self._operators.values() if (w := getattr(o, "wait", None))]
        self._lead = min(waits) // LEAD_SHARE if waits else None

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
        upto = self._upto(waiting)
        for step in self._steps:
            if step.kind in SOURCES:
                frames = waiting.get(step.spec.stream, deque())
                flow = self._source(step, frames, TIME_MAX if step.kind == "table" else upto)
                flows[step.name] = self._with_keys(step, flow)
            elif step.kind == "late":
                flows[step.name] = self._late(step)
            elif step.kind != "dimension":
                flows[step.name] = self._with_keys(step, self._run(step, [flows[up] for up in step.ups if up in flows]))
        self._check_limit()
        return [self._emit(n, f) for n, f in flows.items() if n in self._observe and self._counts(n, f)]

    def _upto(self, waiting: Mapping[str, deque[Frame]]) -> int:
        """Watermark up to which frames may be taken, lest a join gives up on an input whose frames are there, too."""
        if self._lead is None:
            return TIME_MAX
        heads = [frames[0].info.watermark for stream, frames in waiting.items() if frames and stream in self._streams]
        return min(min(heads, default=TIME_MAX), TIME_MAX - self._lead) + self._lead

    def _source(self, step: Step, waiting: deque[Frame], upto: int) -> Flow:
        """Take frames up to the end of all inputs; one only if a join must not see what came after it."""
        tracker, keys = self._trackers[step.spec.stream], self._keys[step.row.key]
        batches, seen, watermark, rows = [], [], tracker.current, 0
        while waiting and rows < PASS_ROWS and waiting[0].info.watermark <= upto:
            frame = waiting.popleft()
            if len(frame.batch):
                slots = keys.slots(frame.batch.codes, frame.batch.names, frame.info.source)
                batches.append(Batch(NO_NAMES, slots, frame.batch.time, frame.batch.columns))
                seen.append(np.maximum(tracker.current, np.int64(TIME_MIN) if frame.before is None else frame.before))
                rows += len(frame.batch)
            watermark = tracker.advance(frame.info.source, frame.info.watermark)
            if watermark == TIME_MAX or self._by_frame:
                break
            if waiting and waiting[0].info.watermark == TIME_MAX:  # an end finds the watermark before it known
                break
        if not batches:
            return Flow(empty(step.dtypes), watermark)
        return Flow(join_rows(batches), watermark, _by_row(seen, [len(b) for b in batches]))

    def _late(self, step: Step) -> Flow:
        operator = self._operators[step.ups[0]]
        assert isinstance(operator, Late)
        late = operator.late_right if step.spec == "right" else operator.late
        assert late is not None
        return late

    def _with_keys(self, step: Step, flow: Flow) -> Flow:
        """Rows with their key as a column, where a later step reads it and the step before did not have it."""
        missing = [f.qualified for f in step.keys if f.qualified not in flow.batch.columns]
        if not missing:
            return flow
        column = self._keys[step.row.key].texts[flow.batch.codes]
        return flow.with_columns({**flow.batch.columns, **dict.fromkeys(missing, column)})

    def _counts(self, step: str, flow: Flow) -> bool:
        """Whether a step has anything to tell: rows or, to tasks of other partitions, how far it is."""
        if step not in self._told:
            return len(flow.batch) > 0
        told = self._told[step]
        if len(flow.batch) or flow.watermark > told:
            self._told[step] = flow.watermark
        return len(flow.batch) > 0 or flow.watermark > told

    def _emit(self, step: str, flow: Flow) -> Emitted:
        if step in self._told:
            return Emitted(step, flow.batch, flow.watermark)
        names = self._keys[self.plan.by_name[step].row.key].names
        return Emitted(step, replace(flow.batch, names=names), flow.watermark)

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
        return sum(k.nbytes for k in self._keys.values()) + sum(o.nbytes for o in self._operators.values())

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
            "keys": {key: k.save() for key, k in self._keys.items()},
            "told": self._told,
            "watermarks": {s: {"sources": t.sources, "current": t.current} for s, t in self._trackers.items()},
            "versions": {n: v for n, (v, _) in self.plan.versions.items()},
            "operators": {n: saved for n, o in self._operators.items() if (saved := o.save())},
        })  # fmt: skip

    def restore(self, data: bytes, *, partly: bool = False) -> None:
        """Go on from a snapshot; on a new task only. `StateError` if it is damaged, or if the state of a step would be lost.

        Steps that the snapshot does not know begin empty. `partly`: those that have changed do so, too.
        """
        state = unpack(data)
        own = {name: version for name, (version, _) in self.plan.versions.items()}
        lost = [name for name, version in state["versions"].items() if own.get(name) != version]
        if lost and not partly:
            raise StateError(
                f"the state of pipeline {self.plan.pipeline} was computed by another version of it ({state['plan']}, this one is "
                f"{self.plan.fingerprint}; they differ in {', '.join(lost)}): deploy that version again, or reset the state to "
                "compute it anew"
            )
        for key, saved in state["keys"].items():
            if key in self._keys:
                self._keys[key].load(saved)
        self._told |= {step: told for step, told in state["told"].items() if step in self._told}
        for stream, t in state["watermarks"].items():
            if stream in self._trackers:
                self._trackers[stream].load(t["sources"], t["current"])
        for name, saved in state["operators"].items():
            if name not in lost:
                self._operators[name].load(saved)


def _by_row(seen: list[Any], rows: list[int]) -> Times:
    """For each row the watermark before it, given for whole frames or for each row of one."""
    if all(np.ndim(s) == 0 for s in seen):
        return np.repeat(np.array(seen, np.int64), rows)
    return np.concatenate([np.broadcast_to(s, n) for s, n in zip(seen, rows, strict=True)])


def handed_on(e: Emitted, plan: Plan, source: str) -> tuple[str, Frame]:
    """What an exchange emitted as a frame of the stream that it feeds, where there is no Kafka between tasks."""
    step = plan.by_name[e.step]
    names = [f.qualified for f in step.row.fields] + [WINDOW_START] * step.row.windowed
    batch = replace(e.batch, columns={n: e.batch.columns[n] for n in names})
    return f"{plan.pipeline}.{step.spec.value.into}", Frame(FrameInfo(source, e.watermark, len(batch)), batch)
