"""What became of commands, for people."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.control.account import read
from connectors.control.ledger import Entry


@dataclass(frozen=True, slots=True)
class CommandState:
    """A command as it stands. Times are nanoseconds since the epoch."""

    id: str
    device: str
    verb: str
    state: str  # see connectors.control.ledger.State
    issued_at_ns: int
    updated_at_ns: int
    attempts: int
    issuer: str
    detail: str


async def states(brokers: str, site: str) -> list[CommandState]:
    """The newest state of every command on record (a day back at least), oldest command first; `Unavailable` without a broker."""
    shown = [_shown(e) for e in await read(brokers, site)]
    return sorted(shown, key=lambda s: (s.issued_at_ns, s.id))


def _shown(e: Entry) -> CommandState:
    c = e.command
    return CommandState(
        c.id, c.device, c.verb, e.state.value, c.issued_at_ns, e.updated_at_ns, e.attempts, c.issuer, e.detail
    )
