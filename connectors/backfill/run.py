"""A backfill from beginning to end: its units one after another, side by side in processes, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connectors.backfill.job import Job
from connectors.backfill.planning import orders
from connectors.backfill.record import Record, Saved
from connectors.backfill.work import Order, Told, work
from pipelines.errors import ConfigError, Unavailable

ANSWER_S_MAX = 10  # for a scheduler
Planned = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of it."""

    units: int
    rows: int  # readings computed
    dropped: int  # readings that could not be used
    files: int
    results: dict[str, int]  # rows by step


def run(
    job: Job, *, jobs: int = 0, cluster: str = "", planned: Planned = lambda rows: None, told: Told = lambda rows: None
) -> Summary:
    """Do a backfill, or what is left of it.

    `jobs` processes (0: as many as there are cores), or the workers of the Dask scheduler at `cluster`. `planned` is given the
    number of readings in all, or a few more, `told` those that were computed since (what was done before counts, too).
    """
    jobs = jobs or len(os.sched_getaffinity(0))

    def plan() -> list[Order]:
        todo = orders(job, jobs)
        planned(sum({(o.unit.site, p.path, p.group): p.rows for o in todo for p in o.pieces}.values()))
        return todo

    with Record(job.out).alone():
        if cluster:
            return _summary(list(_on_cluster(cluster, plan(), told)))
        if jobs > 1:
            return _summary(list(_in_processes(job, jobs, plan, told)))
        return _summary([work(order, told) for order in plan()])


def _summary(done: Sequence[Saved]) -> Summary:
    results: dict[str, int] = {}
    for saved in done:
        for step, rows in saved.written.items():
            results[step] = results.get(step, 0) + rows
    return Summary(
        len(done), sum(s.rows for s in done), sum(s.dropped for s in done), sum(s.files for s in done), results
    )


def _in_processes(job: Job, count: int, plan: Callable[[], list[Order]], told: Told) -> Iterator[Saved]:
    """The processes start while the plan is made."""
    context = multiprocessing.get_context("spawn")  # a fork would copy Arrow's threads, which are not there
    news = context.SimpleQueue()
    with _heard(news, told), ProcessPoolExecutor(count, context, _begin, (news,)) as pool:
        for _ in range(count):
            pool.submit(_ready, job)
        try:
            futures = [pool.submit(_work, order) for order in plan()]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as e:
            raise Unavailable(
                "a process of the backfill was ended from outside, perhaps for want of memory: run the same command again, it "
                "goes on from where it was; with less --jobs if memory is short"
            ) from e
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _heard(news: Any, told: Told) -> Iterator[None]:
    """Pass on what the processes tell."""

    def listen() -> None:
        while (rows := news.get()) is not None:
            told(rows)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        news.put(None)
        thread.join()


_news: Any = None


def _begin(news: Any) -> None:
    global _news
    _news = news
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Were the command killed, its processes would go on writing beside the next one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ready(job: Job) -> None:
    """Import what is needed and load the pipeline."""
    _ = job.program


def _work(order: Order) -> Saved:
    return work(order, _news.put)


def _on_cluster(address: str, todo: Sequence[Order], told: Told) -> Iterator[Saved]:
    """A unit is a pure function of files that all workers see: done twice, or on another machine, it is the same."""
    try:
        from dask import distributed
    except ImportError as e:
        raise ConfigError("--cluster needs Dask: install  sitestream[cluster]  here and on its workers") from e
    dask: Any = distributed  # its functions have no types
    try:
        client = dask.Client(address, timeout=ANSWER_S_MAX)
    except (OSError, ValueError) as e:
        raise Unavailable(f"the Dask scheduler {address} does not answer: {e}") from e
    with client:
        names = [f"{o.log}-{o.unit.number}" for o in todo]
        for future in dask.as_completed(client.map(work, todo, key=names)):
            saved: Saved = future.result()
            told(saved.rows)
            yield saved
