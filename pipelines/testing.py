"""Run a pipeline on batches: no Kafka, no clock, no network. The Plan is the one that every other host runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.dsl import Pipeline, Stream, Table
from pipelines.errors import PlanError
from pipelines.operators.flow import join_rows
from pipelines.plan import SOURCES, Step
from pipelines.task import Emitted, Task
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
) -> Results:
    """Run a pipeline on batches, one or several in order for each stream that it reads.

    Each batch is a frame of one source whose watermark is the newest time so far; a dimension is one batch, `Schema.facts(…)`.
    `end`: afterwards every input ends, so that all windows close. `restart_every`: after every so many frames the task dies
    and a new one restores its snapshot.
    """
    plan = pipeline.plan()
    steps = {s.name: s for s in plan.steps}
    facts = {h.step: b for h, b in inputs.items() if isinstance(b, Batch) and _is(steps, h, "dimension")}
    new_task = partial(Task, plan, observe=tuple(steps), dimensions=facts)
    task, emitted = new_task(), []
    for i, call in enumerate(_calls(steps, {h: b for h, b in inputs.items() if h.step not in facts}, end), 1):
        emitted += task.process(call)
        if restart_every and i % restart_every == 0:
            saved, task = task.snapshot(), new_task()
            task.restore(saved)
    return Results({name: _joined(step, [e for e in emitted if e.step == name]) for name, step in steps.items()})


def _calls(
    steps: Mapping[str, Step], inputs: Mapping[Any, Batch | Sequence[Batch]], end: bool
) -> list[dict[str, list[Frame]]]:
    """The n-th frames of all inputs go in together; tables are thus known before the rows that look them up."""
    frames: dict[str, list[Frame]] = {}
    for handle, batches in inputs.items():
        if not _is(steps, handle, *SOURCES):
            raise PlanError(
                f"{handle.step} is not read from a source: give batches for the streams that the pipeline reads"
            )
        frames[steps[handle.step].spec.stream] = _frames([batches] if isinstance(batches, Batch) else list(batches))
    longest = max(map(len, frames.values()), default=0)
    calls = [{s: f[i : i + 1] for s, f in frames.items()} for i in range(longest)]
    if end:
        info = FrameInfo("test", TIME_MAX)
        calls.append(
            {s.spec.stream: [Frame(info, Batch.of_keys([], _NO_TIME, {}))] for s in steps.values() if s.kind in SOURCES}
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


def _joined(step: Step, emitted: Sequence[Emitted]) -> Batch:
    if not emitted:
        return Batch.of_keys([], _NO_TIME, {n: np.empty(0, d) for n, d in step.dtypes.items()})
    rows = join_rows([e.batch for e in emitted])
    return Batch(emitted[-1].batch.names, rows.codes, rows.time, rows.columns)


_NO_TIME = np.empty(0, np.int64)
