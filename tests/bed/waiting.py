"""Waiting for something real to come true, with an error that says what did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
POLL_S = 0.05


def wait_until(probe: Callable[[], T], timeout_s: float = 10, what: str = "") -> T:
    """Call `probe` until it returns something true, and return that. Exceptions of `probe` count as "not yet"."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen, error = _try(probe)
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(_complaint(what, timeout_s, seen, error)) from error
        time.sleep(POLL_S)


async def until(probe: Callable[[], Any], timeout_s: float = 10, what: str = "") -> Any:
    """`wait_until` for coroutines: `probe` may be a plain or an async function; the event loop keeps running."""
    deadline = time.monotonic() + timeout_s
    while True:
        error: Exception | None = None
        seen: Any = None
        try:
            answer = probe()
            seen = await answer if isinstance(answer, Awaitable) else answer
        except Exception as caught:
            error = caught
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(_complaint(what, timeout_s, seen, error)) from error
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Do some work meanwhile, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _try(probe: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return probe(), None
    except Exception as error:
        return None, error


def _complaint(what: str, timeout_s: float, seen: object, error: Exception | None) -> str:
    last = f"it last raised {error!r}" if error else f"it last gave {seen!r}"
    return f"waited {timeout_s:g} s for {what or 'a condition'}: {last}"
