"""What was done to devices, by whom: `{site}.audit`, append-only, a JSON record a change, in the ledger's own transactions."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from connectors.control.commands import Command, Value
from connectors.control.devices import TWIN
from connectors.control.ledger import Entry
from pipelines import topics
from pipelines.runtime.account import Beside, records

Values = Mapping[str, Value]
REFUSED = "REFUSED"  # it never came on the ledger: nobody knows who sent it
RETENTION_BYTES = 64 * 2**20


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `at_ns`: nanoseconds since the epoch by control's clock."""

    at_ns: int
    who: str  # whose signature made the change; else 'control'
    issuer: str  # who wants the command, or is said to
    device: str
    verb: str
    args: dict[str, Value]
    command: str  # id
    state: str  # see connectors.control.ledger.State, or REFUSED; of twins see connectors.control.twins
    detail: str = ""


def of(site: str, entry: Entry) -> Beside:
    """What an entry's newest change is recorded as."""
    return _line(site, entry.command, entry.updated_at_ns, entry.by or "control", entry.state.value, entry.detail)


def refused(site: str, command: Command, now_ns: int, why: str) -> Beside:
    """What is recorded of a command that is not from whom it says."""
    return _line(site, command, now_ns, "control", REFUSED, why)


def twin(
    site: str, now_ns: int, device: str, issuer: str, command: str, values: Values, state: str, detail: str
) -> Beside:
    """What is recorded of a twin: what its device was told, or says. `command`: that which made it what is desired."""
    record = Record(
        at_ns=now_ns, who="control", issuer=issuer, device=device, verb=TWIN, args=dict(values), command=command, state=state,
        detail=detail,
    )  # fmt: skip
    return Beside(topics.audit(site), msgspec.json.encode(record))


def _line(site: str, c: Command, at_ns: int, who: str, state: str, detail: str) -> Beside:
    record = Record(
        at_ns=at_ns, who=who, issuer=c.issuer, device=c.device, verb=c.verb, args=c.args, command=c.id, state=state,
        detail=detail,
    )  # fmt: skip
    return Beside(topics.audit(site), msgspec.json.encode(record))


async def read(brokers: str, site: str, device: str = "", since_ns: int = 0) -> list[Record]:
    """The records of a site, oldest first; `Unavailable` without a broker."""
    found = [msgspec.json.decode(v, type=Record) for _, v in await records(brokers, topics.audit(site)) if v]
    return [r for r in found if r.at_ns >= since_ns and device in ("", r.device)]
