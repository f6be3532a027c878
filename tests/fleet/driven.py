"""`python -m tests.fleet.driven FLEET SITES [resume]`: a rollout whose attempts leave a trace, for tests that kill it.

Each attempt writes 'begin SITE' and 'end SITE' to FLEET/trace. It lasts as long as FLEET/hold is there, and 50 ms at least.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from containers.fleet import journal
from containers.fleet.drive import Driver
from containers.fleet.events import Outcome
from containers.fleet.policy import Policy
from containers.fleet.view import Watcher
from tests.fleet.rollouts import create

fleet, n = Path(sys.argv[1]), int(sys.argv[2])


def trace(text: str) -> None:
    """One line, whole, at the end of the trace."""
    with (fleet / "trace").open("a") as file:
        file.write(f"{text}\n")


def attempt(site: str, report: Callable[[str], None]) -> Outcome:
    """Leave a trace."""
    trace(f"begin {site}")
    time.sleep(0.05)
    while (fleet / "hold").exists():
        time.sleep(0.01)
    trace(f"end {site}")
    return Outcome("done")


if "resume" in sys.argv:
    taken = journal.reopen(fleet, journal.find(fleet, None))
else:
    taken = create(fleet, " ".join(f"s{i}" for i in range(n)), policy=Policy(max_parallel=4))
sys.exit(Driver(taken, attempt, Watcher()).run())
