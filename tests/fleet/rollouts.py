"""A rollout in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from containers.fleet import journal
from containers.fleet.journal import Journal
from containers.fleet.policy import Policy
from pipelines.clock import Clock, ManualClock

_made: list[Journal] = []
T0_NS = 1_772_359_200 * 10**9  # 2026-03-01T10:00:00Z


def create(fleet: Path, sites: str = "a b c", clock: Clock | None = None, **changes: Any) -> Journal:
    """Begin a rollout of `sites`, at T0 if nothing else is said."""
    usual: dict[str, Any] = {"who": "ann@desk", "release": "sha256:3f2a51c07b", "note": "press 7", "policy": Policy()}
    made = journal.create(fleet, clock or ManualClock(T0_NS), sites=sites.split(), **{**usual, **changes})
    _made.append(made)
    return made


def close_all() -> None:
    """Let go of all journals that `create` made, as processes that end do."""
    while _made:
        _made.pop().close()
