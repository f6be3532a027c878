"""Run a pipeline on batches: no Kafka, no clock, no network. The Plan is the one that every other host runs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.dsl import Pipeline, Stream, Table
from pipelines.errors import PlanError
from pipelines.operators.flow import join_rows
from pipelines.plan import READ, Plan, Step
from pipelines.task import Emitted, Task, handed_on
from pipelines.wire import Frame, FrameInfo

Handle = Stream[Any] | Table[Any]


@dataclass(frozen=True)
class Results:
    """What every step gave, by the Stream the program itself holds: `results[alarms][Alarm.z]`."""

    batches: Mapping[str, Batch]

    def __getitem__(self, stream: Handle) -> Batch:
        return self.batches[stream.step]


def run(
    pipeline: Pipeline,
    inputs: Mapping[Any, Batch | Sequence[Batch]],
    *,
    end: bool = True,
    restart_every: int = 0,
    partitions: int = 1,
) -> Results:
    """Run a pipeline on batches, one or several in order for each stream that it reads.

    Each batch is a frame of one source whose watermark is the newest time so far; a dimension is one batch, `Schema.facts(…)`.
    `end`: afterwards every input ends, so that all windows close. `restart_every`: after every so many frames the task dies
    and new ones restore its snapshot. `partitions`: rows are dealt out by key to so many tasks, as on a site.
    """
    plan = pipeline.plan()
    steps = {s.name: s for s in plan.steps}
    facts = {h.step: b for h, b in inputs.items() if isinstance(b, Batch) and _is(steps, h, "dimension")}
    site = _Site(plan, partial(Task, plan, observe=tuple(steps), dimensions=facts), partitions)
    for i, call in enumerate(_calls(steps, {h: b for h, b in inputs.items() if h.step not in facts}, end), 1):
        site.call([_dealt(call, p, partitions) for p in range(partitions)])
        if restart_every and i % restart_every == 0:
            site.restart()
    while any(site.waiting):
        site.call([{}] * partitions)
    return Results({name: _joined([e for e in site.emitted if e.step == name], s) for name, s in steps.items()})


class _Site:
    """Tasks of all partitions, and the rows that they send each other."""

    def __init__(self, plan: Plan, new_task: Callable[[], Task], partitions: int) -> None:
        self._plan, self._new_task, self.emitted = plan, new_task, list[Emitted]()
        self._tasks = [new_task() for _ in range(partitions)]
        self.waiting: list[dict[str, list[Frame]]] = [{} for _ in self._tasks]

    def call(self, inputs: Sequence[Mapping[str, list[Frame]]]) -> None:
        """Give each task its frames, and those that other tasks sent before this call."""
        waiting, self.waiting = self.waiting, [{} for _ in self._tasks]
        for p, task in enumerate(self._tasks):
            for e in task.process({**inputs[p], **waiting[p]}):
                self.emitted.append(e)
                if e.step in self._plan.exchanges:
                    self._send(e, p)

    def _send(self, e: Emitted, sender: int) -> None:
        partitions = len(self._tasks)
        stream, frame = handed_on(e, self._plan, f"{sender}/{partitions}")
        for p in range(partitions):
            self.waiting[p].setdefault(stream, []).append(_part(frame, p, partitions))

    def restart(self) -> None:
        """All tasks die; what is on its way between them is not lost."""
        saved = [task.snapshot() for task in self._tasks]
        self._tasks = [self._new_task() for _ in saved]
        for task, state in zip(self._tasks, saved, strict=True):
            task.restore(state)


def _dealt(call: Mapping[str, list[Frame]], partition: int, partitions: int) -> dict[str, list[Frame]]:
    return {stream: [_part(f, partition, partitions) for f in frames] for stream, frames in call.items()}


def _part(frame: Frame, partition: int, partitions: int) -> Frame:
    """The rows of one partition; Kafka's clients choose it otherwise, but as firmly."""
    if partitions == 1:
        return frame
    of = np.array([zlib.crc32(name.encode()) % partitions for name in frame.batch.names.to_pylist()], np.int64)
    return Frame(frame.info, frame.batch.take(of[frame.batch.codes] == partition))


def _calls(
    steps: Mapping[str, Step], inputs: Mapping[Any, Batch | Sequence[Batch]], end: bool
) -> list[dict[str, list[Frame]]]:
    """The n-th frames of all inputs go in together; tables are thus known before the rows that look them up."""
    frames: dict[str, list[Frame]] = {}
    for handle, batches in inputs.items():
        if not _is(steps, handle, *READ):
            raise PlanError(
                f"{handle.step} is not read from a source: give batches for the streams that the pipeline reads"
            )
        frames[steps[handle.step].spec.stream] = _frames([batches] if isinstance(batches, Batch) else list(batches))
    longest = max(map(len, frames.values()), default=0)
    calls = [{s: f[i : i + 1] for s, f in frames.items()} for i in range(longest)]
    if end:
        info = FrameInfo("test", TIME_MAX)
        calls.append(
            {s.spec.stream: [Frame(info, Batch.of_keys([], _NO_TIME, {}))] for s in steps.values() if s.kind in READ}
        )
    return calls


def _is(steps: Mapping[str, Step], handle: Handle, *kinds: str) -> bool:
    return handle.step in steps and steps[handle.step].kind in kinds


def _frames(batches: Sequence[Batch]) -> list[Frame]:
    newest, frames = TIME_MIN, []
    for b in batches:
        newest = max(newest, int(b.time.max(initial=TIME_MIN)))
        frames.append(Frame(FrameInfo("test", newest, len(b)), b))
    return frames


def _joined(emitted: Sequence[Emitted], step: Step) -> Batch:
    if not emitted:
        return Batch.of_keys([], _NO_TIME, {n: np.empty(0, d) for n, d in step.dtypes.items()})
    rows = join_rows([e.batch for e in emitted])
    return Batch.of_keys([key for e in emitted for key in e.batch.keys], rows.time, rows.columns)


_NO_TIME = np.empty(0, np.int64)
