"""The control service with a fault: `python -m tests.control.crashing before|after --config FILE`.

It kills itself with SIGKILL when it is about to publish its first command (which is on record by then), or just after.
"""

from __future__ import annotations

import os
import signal
import sys

from connectors.control.service import CONDITIONS, main
from connectors.link import Link
from pipelines.runtime.service import run_service

publish = Link.publish


async def crash_before(self: Link, topic: str, payload: bytes, qos: int = 1) -> None:
    """On record, not actuated."""
    os.kill(os.getpid(), signal.SIGKILL)


async def crash_after(self: Link, topic: str, payload: bytes, qos: int = 1) -> None:
    """Actuated, no answer yet."""
    await publish(self, topic, payload)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Link.publish = {"before": crash_before, "after": crash_after}[sys.argv[1]]  # type: ignore[method-assign]  # the fault
    sys.exit(run_service("control", main, conditions=CONDITIONS, argv=sys.argv[2:]))
