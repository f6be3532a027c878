"""The protocol survives a crash after every single step, again and again, with and without its disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.upload.world import Crash, Fuse, Rec, World, batch, rec

ROWS = 22


def a_log() -> list[Rec]:
    """Rows over two dates in frames of 0 to 3 rows, with offsets that hold no records."""
    frames, offset, n, rng = [], 3, 0, random.Random(1)
    while n < ROWS:
        rows = min(rng.randrange(4), ROWS - n)
        frames.append(rec(offset, batch(range(n, n + rows), step=1_500 * 10**9)))
        n, offset = n + rows, offset + 1 + (rng.random() < 0.3)
    return frames


def polls(seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randrange(1, 9)


async def test_nothing_is_lost_or_doubled_whichever_step_is_the_last(tmp_path: Path) -> None:
    step, crashed = 0, True
    while crashed:
        step += 1
        world = World(tmp_path / str(step), a_log(), Fuse(step))
        try:
            await world.life(polls(step))
            crashed = False
        except Crash:
            world.fuse.left, world.rows_max = 10**9, 6  # what the journal has begun keeps its end all the same
            await world.life(polls(-step))
        world.check(list(range(ROWS)))
        shutil.rmtree(world.folder)
    assert step > 120, "the log is too short to visit every step"


@pytest.mark.parametrize("seed", range(30))
async def test_many_crashes_in_a_row(tmp_path: Path, seed: int) -> None:
    rng, world = random.Random(seed), World(tmp_path, a_log())
    for _ in range(12):
        world.rows_max = rng.randrange(3, 9)
        world.fuse.left = rng.randrange(1, 120)
        try:
            await world.life(polls(rng.randrange(10**6)))
        except Crash:
            continue
    world.fuse.left = 10**9
    await world.life(polls(seed))
    world.check(list(range(ROWS)))


@pytest.mark.parametrize("seed", range(30))
async def test_the_disk_is_lost_in_every_crash(tmp_path: Path, seed: int) -> None:
    rng, world = random.Random(seed), World(tmp_path, a_log())
    for _ in range(12):
        world.rows_max = rng.randrange(3, 9)
        world.fuse.left = rng.randrange(1, 150)
        try:
            await world.life(polls(rng.randrange(10**6)))
        except Crash:
            shutil.rmtree(tmp_path)
            if rng.random() < 0.3:
                world.committed = None  # Kafka forgets a group after a week: the manifests are all that is left
    world.fuse.left = 10**9
    await world.life(polls(seed))
    world.check(list(range(ROWS)))


@pytest.mark.parametrize("seed", range(20))
async def test_kafka_forgets_the_group_offset_and_the_disk_remembers(tmp_path: Path, seed: int) -> None:
    rng, world = random.Random(seed), World(tmp_path, a_log())
    for _ in range(6):
        world.rows_max = rng.randrange(3, 9)
        world.fuse.left = rng.randrange(1, 150)
        try:
            await world.life(polls(rng.randrange(10**6)))
        except Crash:
            world.committed = None
    world.fuse.left = 10**9
    await world.life(polls(seed))
    world.check(list(range(ROWS)))
