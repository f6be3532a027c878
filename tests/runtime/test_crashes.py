"""Two worker processes, a steady stream of readings, and `kill -9`: nothing missing, nothing doubled, sums exact."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from containers.embedded import EmbeddedKafka
from pipelines import Schema
from tests.bed.waiting import until
from tests.runtime.plant import ByParity, Tens, plant_keyed
from tests.runtime.site import Rows, Site, Worker, story, truth

SEED = 20261123
KILLS = 5
PARTITIONS = 4
FRAMES_A_SECOND = 40
FRAMES_A_KILL = 200


async def test_five_random_kills_leave_the_results_exact(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    site = Site(unique, kafka.bootstrap, partitions=PARTITIONS)
    await _exact(site, [site.worker(tmp_path, number) for number in range(2)], Tens, lambda sent: sent)


async def test_rows_on_their_way_to_the_partition_of_another_key_survive_as_well(
    kafka: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    site = Site(unique, kafka.bootstrap, plant_keyed, partitions=PARTITIONS)
    workers = [site.worker(tmp_path, number, "plant_keyed") for number in range(2)]
    await _exact(site, workers, ByParity, _by_parity)


def _by_parity(sent: list[Rows]) -> list[Rows]:
    return [[("odd" if x % 2 else "even", time, x) for _, time, x in rows] for rows in sent]


async def _exact(
    site: Site, workers: list[Worker], of: type[Schema], keyed: Callable[[list[Rows]], list[Rows]]
) -> None:
    await site.create()
    sent: list[Rows] = []
    done = asyncio.Event()
    try:
        for worker in workers:
            worker.start()
        producing = asyncio.create_task(_produce(site, sent, done))
        await _kill_at_random(workers, sent, random.Random(SEED))
        done.set()
        await producing
        await site.close_windows()
        await site.wait_for_windows(truth(keyed(sent)), timeout_s=60, of=of)
        assert [worker.stop() for worker in workers] == [0, 0]
    except BaseException:
        print(*(worker.text for worker in workers), sep="\n-----\n")
        raise
    finally:
        for worker in workers:
            worker.kill()


async def _produce(site: Site, sent: list[Rows], done: asyncio.Event) -> None:
    """A frame of each partition at a time, each a second of event time after the one before."""
    second = 0
    while not done.is_set():
        for partition in range(PARTITIONS):
            frames = story(5, partition=partition, start=second)
            await site.send(frames, partition=partition)
            sent += frames
        second += 5
        await asyncio.sleep(5 / FRAMES_A_SECOND)


async def _kill_at_random(workers: list[Worker], sent: list[Rows], rng: random.Random) -> None:
    """Whatever the machine's speed, each dies at some moment between joining the group and being at work."""
    for kill in range(KILLS):
        victim = rng.choice(workers)
        await _at_work(victim, sent, kill * FRAMES_A_KILL)
        await asyncio.sleep(rng.uniform(0, 2))
        victim.kill()
        await asyncio.sleep(rng.uniform(0, 1))
        victim.start()
    for worker in workers:
        await _at_work(worker, sent, KILLS * FRAMES_A_KILL)


async def _at_work(worker: Worker, sent: list[Rows], frames: int) -> None:
    await until(lambda: "assigned partitions" in worker.text_since_start, 60, "the worker to be in the group")
    await until(lambda: len(sent) > frames, 60, "readings")
