"""The control service with a fault: `python -m tests.control.crashing FAULT --config FILE`.

It kills itself with SIGKILL: `before` it publishes its first command (which is on record by then), or `after`; `write-before`,
`write-after` it writes to a Modbus device; `node-before`, `node-after` it changes an OPC UA server; `before-STATE`,
`after-STATE` it puts a command in that state on record.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from connectors.control import modbus
from connectors.control.account import Account
from connectors.control.ledger import Entry
from connectors.control.service import CONDITIONS, main
from connectors.link import Link
from connectors.opcua.channel import Channel
from pipelines.runtime.service import run_service

publish = Link.publish


async def crash_before(self: Link, topic: str, payload: bytes, qos: int = 1) -> None:
    """On record, not actuated."""
    os.kill(os.getpid(), signal.SIGKILL)


async def crash_after(self: Link, topic: str, payload: bytes, qos: int = 1) -> None:
    """Actuated, no answer yet."""
    await publish(self, topic, payload)
    os.kill(os.getpid(), signal.SIGKILL)


write = modbus._write


async def crash_write_before(*args: Any) -> None:
    """On record, asked, not written."""
    os.kill(os.getpid(), signal.SIGKILL)


async def crash_write_after(*args: Any) -> None:
    """Written, not read back."""
    await write(*args)
    os.kill(os.getpid(), signal.SIGKILL)


ask = Channel.call


def crash_node(moment: str) -> Any:
    """Around a request that changes a server."""

    async def crash(self: Channel, request: Any, response: Any) -> Any:
        here = type(request).__name__ in ("WriteRequest", "CallRequest")
        got = None if here and moment == "before" else await ask(self, request, response)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return got

    return crash


put = Account.keep


def crash_at(moment: str, state: str) -> Any:
    """Around putting that state on record."""

    async def crash(self: Account, entries: Sequence[Entry], *args: Any, **more: Any) -> None:
        here = any(e.state.value == state for e in entries)
        if not (here and moment == "before"):
            await put(self, entries, *args, **more)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


def arm(fault: str) -> None:
    """Plant the fault."""
    if fault in ("before", "after"):
        Link.publish = {"before": crash_before, "after": crash_after}[fault]  # type: ignore[method-assign]  # the fault
    elif fault.startswith("write-"):
        modbus._write = {"write-before": crash_write_before, "write-after": crash_write_after}[fault]  # type: ignore[assignment]  # the fault
    elif fault.startswith("node-"):
        Channel.call = crash_node(fault.removeprefix("node-"))  # type: ignore[method-assign]  # the fault
    else:
        Account.keep = crash_at(*fault.split("-"))  # type: ignore[method-assign]  # the fault


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.exit(run_service("control", main, conditions=CONDITIONS, argv=sys.argv[2:]))
