"""Two streams as hypothesis makes them, and tasks that get their frames in any order and grouping, with restarts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pipelines import Col, Key, Schema
from pipelines.batch import TIME_MAX, TIME_MIN, Batch
from pipelines.plan import Plan
from pipelines.task import Task
from pipelines.wire import Frame, FrameInfo

SECOND = 10**9


class Temp(Schema):
    device = Key[str]()
    t = Col[float]("degC")


class Load(Schema):
    device = Key[str]()
    load = Col[float]("kW")
    on = Col[bool]("", absent=False)


@dataclass(frozen=True)
class Given:
    """A row as a test gives it; `seen` is the watermark of its stream when it arrived."""

    device: str
    time: int
    value: int
    seen: int = TIME_MIN


Frames = list[list[Given]]
rows = st.builds(Given, st.sampled_from("ab"), st.integers(-3, 25).map(lambda s: s * SECOND // 2), st.integers(0, 99))
frames = st.lists(st.tuples(st.lists(rows, max_size=5), st.integers(0, 8)), max_size=8)


def wired(given: Sequence[tuple[list[Given], int]], schema: type[Schema]) -> tuple[list[Frame], list[Given]]:
    """Frames with the watermarks that a collector promises: now and then it forgets rows which come late. And their rows."""
    wire, arrived, watermark = [], [], TIME_MIN
    for rows_, lag in given:
        arrived += [Given(r.device, r.time, r.value, watermark) for r in rows_]
        newest = max((r.time for r in rows_), default=watermark)
        watermark = max(watermark, newest - lag * SECOND if newest > TIME_MIN else TIME_MIN)
        wire.append(Frame(FrameInfo("one", watermark, len(rows_)), batch(rows_, schema)))
    wire.append(Frame(FrameInfo("one", TIME_MAX), batch([], schema)))
    return wire, arrived


def batch(given: Sequence[Given], schema: type[Schema] = Temp) -> Batch:
    """Rows as a batch."""
    values: dict[str, Any] = {"t": [r.value for r in given]}
    if schema is Load:
        values = {"load": [r.value for r in given], "on": [True for _ in given]}
    return schema.batch(device=[r.device for r in given], time=[r.time for r in given], **values)


def calls(wires: dict[str, list[Frame]], data: st.DataObject) -> Iterator[dict[str, list[Frame]]]:
    """Any way of reading several topics: which goes on, and by how many frames; the ends come together at last."""
    at = dict.fromkeys(wires, 0)
    while any(at[s] < len(w) - 1 for s, w in wires.items()):
        taken = {s: data.draw(st.integers(0, len(w) - 1 - at[s])) for s, w in wires.items()}
        yield {s: w[at[s] : at[s] + taken[s]] for s, w in wires.items()}
        at = {s: at[s] + taken[s] for s in wires}
        if not any(taken.values()):
            first = next(s for s, w in wires.items() if at[s] < len(w) - 1)
            yield {first: wires[first][at[first] : at[first] + 1]}
            at[first] += 1
    yield {s: w[-1:] for s, w in wires.items()}


def run(plan: Plan, given: Iterator[dict[str, list[Frame]]], *, restart: bool) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of each step in order of emission: key, time, columns by name; NaN is None."""
    task = Task(plan)
    out: dict[str, list[tuple[Any, ...]]] = {step: [] for step in plan.outputs}
    for call in given:
        for e in task.process(call):
            columns = [e.batch.columns[c].tolist() for c in sorted(e.batch.columns)]
            out[e.step] += zip(e.batch.keys, e.batch.time.tolist(), *columns, strict=True)
        if restart:
            saved, task = task.snapshot(), Task(plan)
            task.restore(saved)
    return {step: [tuple(None if v != v else v for v in row) for row in found] for step, found in out.items()}
