"""Numbers that processes which run tests side by side share out among them, for what each must have of its own."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pipelines.errors import Unavailable


def take_slot(locks: Sequence[Path], taken: str) -> tuple[int, IO[str]]:
    """The first number whose file nobody has locked, and that file: it is ours until it is closed or this process ends.

    `Unavailable` if there is none; `taken` says what has them all.
    """
    for slot, path in enumerate(locks):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return slot, lock
    raise Unavailable(f"{len(locks)} {taken} already: end some of those test sessions")
