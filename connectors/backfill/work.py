"""One unit of a backfill: a share of a site's keys through a task of its own, from the first reading to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.backfill.footer import Wanted
from connectors.backfill.job import Job, Program
from connectors.backfill.ordering import calls, frame
from connectors.backfill.output import Label, Output
from connectors.backfill.pieces import Piece, Slab, Unit, slabs
from connectors.backfill.reader import Reader
from connectors.backfill.record import Record, Saved
from pipelines.batch import TIME_MAX, TIME_MIN
from pipelines.plan import READ
from pipelines.task import Task, handed_on
from pipelines.wire import Frame

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Order:
    """A unit with what it reads; `log` stands for the backfill in names."""

    job: Job
    unit: Unit
    pieces: tuple[Piece, ...]
    log: str


def wanted_of(job: Job, program: Program) -> dict[str, Wanted]:
    """What is read of each stream."""
    plan, low = program.plan, job.reads_from
    sources = [s for s in plan.steps if s.kind in READ]
    return {s.spec.stream: Wanted.of(s, plan, low, job.end) for s in sources}


def work(order: Order, told: Told = lambda rows: None) -> Saved:
    """Do a unit, or the rest of it; `told` is given the number of readings after each slab."""
    record = Record(order.job.out)
    saved = record.load(order.unit)
    if saved.done:
        told(saved.rows)
        return saved
    return _Run(order, record, saved).run(told)


class _Run:
    def __init__(self, order: Order, record: Record, saved: Saved) -> None:
        job, unit, program = order.job, order.unit, order.job.program
        self._order, self._record, self._saved = order, record, saved
        self._wanted = wanted_of(job, program)
        self._reader = Reader(self._wanted, unit.share)
        label = Label(program.plan.pipeline, unit.site, unit.number, order.log)
        bounds = job.begin, job.end, job.reads_from
        self._outputs = {
            step: Output(label, table, Path(job.out).resolve(), bounds, saved.written.get(step, 0))
            for step, table in program.tables(unit.site).items()
        }
        self._task = Task(program.plan, dimensions=program.facts)
        if saved.task:
            self._task.restore(saved.task)

    def run(self, told: Told) -> Saved:
        limits, done, rows = self._order.job.limits, self._saved.slabs, 0
        found = slabs(self._order.pieces, self._order.job.end, limits.slab_rows)
        since = found[done - 1].end if done else TIME_MIN
        told(self._saved.rows)
        for number, slab in enumerate(_resumed(found, done, since), done + 1):
            new = self._slab(slab, since)
            told(new)
            since, rows = slab.end, rows + new
            self._saved.rows += new
            self._flush(limits.file_rows_max)
            if rows >= limits.checkpoint_rows:
                self._save(number)
                rows = 0
        self._process({s: [frame(TIME_MAX, w.nothing)] for s, w in self._wanted.items()})
        self._save(len(found), done=True)
        return self._saved

    def _slab(self, slab: Slab, since: int) -> int:
        rows = dict(self._reader.slab(slab, since))
        for frames in calls(rows):
            self._process(frames)
        return sum(map(len, rows.values()))

    def _process(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        while frames:
            emitted = self._task.process(frames)
            frames = {}
            for e in emitted:
                if e.step in self._outputs:
                    self._outputs[e.step].add(e)
                else:  # an exchange: this task has all keys
                    stream, handed = handed_on(e, self._task.plan, "0/1")
                    frames[stream] = [*frames.get(stream, ()), handed]

    def _flush(self, rows: int) -> None:
        for output in self._outputs.values():
            if output.rows >= rows:
                self._saved.files += output.flush()

    def _save(self, slabs_done: int, *, done: bool = False) -> None:
        """Files first: what a crash cuts off is written again under the same names."""
        self._flush(0)
        saved = self._saved
        saved.slabs, saved.done, saved.task = slabs_done, done, b"" if done else self._task.snapshot()
        saved.written = {step: o.written for step, o in self._outputs.items()}
        saved.dropped, self._reader.dropped = saved.dropped + self._reader.dropped, 0
        self._record.save(self._order.unit, saved)


def _resumed(found: Sequence[Slab], done: int, since: int) -> Iterator[Slab]:
    """The slabs after those that are done; the first with the pieces before it that reach into it."""
    before = tuple(p for slab in found[:done] for p in slab.pieces if p.high >= since)
    for i, slab in enumerate(found[done:]):
        yield Slab(slab.end, before + slab.pieces) if i == 0 else slab
