"""One transaction: results, dead letters, perhaps a snapshot, and the checkpoint; readers see all of it or nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from pipelines.errors import Unavailable
from pipelines.runtime import checkpoint as cp
from pipelines.runtime import kafka
from pipelines.runtime.frames import Out

TRANSACTION_S_MAX = (
    15.0  # and for a snapshot as much longer as a slow disk needs; kafka.TRANSACTION_TIMEOUT_MS is longer
)
SNAPSHOT_BYTES_A_SECOND_MIN = 4 * 2**20
ABORT_S_MAX = 2.0


async def commit(
    producer: kafka.Client,
    state: kafka.Place,
    outs: Sequence[Out],
    chunks: Sequence[bytes],
    checkpoint: Callable[[int], cp.Checkpoint],
) -> cp.Checkpoint:
    """Send everything and commit; the checkpoint that was committed.

    `checkpoint` is given the offset of the first chunk in the state topic, or -1 without chunks. `ProducerFenced` if another
    producer has the id by now; `KafkaError` or `Unavailable` otherwise: the producer is then of no more use.
    """
    futures: list[asyncio.Future[kafka.Record]] = []
    limit_s = TRANSACTION_S_MAX + sum(map(len, chunks)) / SNAPSHOT_BYTES_A_SECOND_MIN
    try:
        async with asyncio.timeout(limit_s):
            await producer.begin_transaction()
            for out in outs:
                futures.append(await producer.send(out.topic, out.value, partition=out.partition, headers=out.headers))
            first = await _send_chunks(producer, state, chunks, futures) if chunks else -1
            done = checkpoint(first)
            futures.append(
                await producer.send(state.topic, cp.encode(done), key=cp.CHECKPOINT_KEY, partition=state.partition)
            )
            await asyncio.gather(*futures)
            await producer.commit_transaction()
            return done
    except Exception as e:
        await _abort(producer, futures)
        if kafka.is_fenced(producer):
            raise kafka.ProducerFenced from e
        if isinstance(e, TimeoutError):
            raise Unavailable(f"a transaction was not done within {limit_s:.0f} s") from e
        raise


async def _send_chunks(
    producer: kafka.Client, state: kafka.Place, chunks: Sequence[bytes], futures: list[asyncio.Future[kafka.Record]]
) -> int:
    sent = [
        await producer.send(state.topic, chunk, key=cp.chunk_key(i), partition=state.partition)
        for i, chunk in enumerate(chunks)
    ]
    futures += sent
    return int((await sent[0]).offset)


async def _abort(producer: kafka.Client, futures: Sequence[asyncio.Future[kafka.Record]]) -> None:
    """Unblock the readers if the broker is there. If not, whoever opens the id next aborts."""
    for future in futures:
        future.cancel()
    with contextlib.suppress(kafka.KafkaError, TimeoutError, AssertionError):  # aiokafka asserts its own state machine
        async with asyncio.timeout(ABORT_S_MAX):
            await producer.abort_transaction()
