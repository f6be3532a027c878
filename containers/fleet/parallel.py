"""The same for many sites at once. One that hangs holds up nobody: it is given up, and its thread goes with the process."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from containers.site import SiteFile
from pipelines.clock import Clock, SystemClock
from pipelines.errors import SitestreamError, Unavailable

AT_ONCE_MAX = 32
R = TypeVar("R")


def each(
    sites: Sequence[SiteFile], do: Callable[[SiteFile], R], *, timeout_s: float, clock: Clock | None = None
) -> list[R | SitestreamError]:
    """What `do` gives for each site, in their order, or the error it raised; `Unavailable` after `timeout_s` of its own.

    `do` must change nothing: a call that was given up goes on. Errors that are not ours are raised.
    """
    clock = clock or SystemClock()
    arriving: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()
    found: dict[int, R | Exception] = {}
    until: dict[int, float] = {}  # of those that run, in the order in which they began
    waiting = deque(range(len(sites)))
    while waiting or until:
        while waiting and len(until) < AT_ONCE_MAX:
            index = waiting.popleft()
            until[index] = clock.monotonic_s() + timeout_s
            threading.Thread(target=_run, args=(do, sites[index], index, arriving), daemon=True).start()
        first = next(iter(until))
        try:
            index, result = arriving.get(timeout=max(until[first] - clock.monotonic_s(), 0.0))
        except queue.Empty:
            index, result = first, _hangs(sites[first], timeout_s)
        if until.pop(index, None) is not None:
            found[index] = result
    return [_ours(found[index]) for index in range(len(sites))]


def _run(
    do: Callable[[SiteFile], R], site: SiteFile, index: int, arriving: queue.SimpleQueue[tuple[int, R | Exception]]
) -> None:
    try:
        arriving.put((index, do(site)))
    except Exception as e:
        arriving.put((index, e))


def _hangs(site: SiteFile, timeout_s: float) -> Unavailable:
    return Unavailable(
        f"site {site.site.site}: {site.site.engine} gave no answer within {timeout_s:g} s: see whether the way there is open, "
        "or wait longer with --timeout"
    )


def _ours(result: R | Exception) -> R | SitestreamError:
    if isinstance(result, Exception) and not isinstance(result, SitestreamError):
        raise result
    return result
