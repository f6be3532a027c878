"""What was done to the firmware of devices, by whom: `{site}.fw.audit`, append-only, a JSON record a change, in the account's own
transactions. What is on its way is in the account; here is what a site was told, permitted and refused, and how it ended. Pure,
but for `read`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from connectors.firmware import SERVICE
from connectors.firmware.life import BEFORE_RISK, ENDED, Entry, State
from connectors.firmware.roster import order_of
from connectors.firmware.status import SiteStatus
from pipelines import topics
from pipelines.runtime.account import Beside, records

OFFERED, RELEASED = "OFFERED", "RELEASED"  # of devices, beside life.State
BEGUN, RESUMED, STAGE, HALTED = "BEGUN", "RESUMED", "STAGE", "HALTED"  # of campaigns, beside PAUSED and ABORTED
REFUSED = "REFUSED"  # of what the mirror has
_RECORDED = ENDED | {State.INSTALLING}  # of the states of devices; the others are progress


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `at_ns`: nanoseconds since the epoch by the service's clock."""

    at_ns: int
    who: str  # whose key signed the plan; the device that says so; else 'firmware'
    state: str
    campaign: str = ""
    device: str = ""
    version: str = ""  # that the device runs, or that the campaign brings
    detail: str = ""

    def line(self, site: str) -> Beside:
        """As it is put on record."""
        return Beside(topics.firmware_audit(site), msgspec.json.encode(self))


def of_device(before: Entry | None, after: Entry, who: str, now_ns: int) -> Record | None:
    """What is recorded of a device's change; None if it is progress."""
    if order_of(before, after) == "download":
        state = OFFERED
    elif before and before.state in BEFORE_RISK and after.state is State.IDLE:
        state = RELEASED
    elif after.state in _RECORDED and (before is None or before.state is not after.state):
        state = after.state.value
    else:
        return None
    return Record(
        at_ns=now_ns, who=who, state=state, campaign=after.campaign, device=after.device, version=after.version,
        detail=after.detail,
    )  # fmt: skip


def of_plan(before: SiteStatus, after: SiteStatus, signers: str, now_ns: int) -> Iterator[Record]:
    """What is recorded of a plan that a site obeys from now on. `signers`: whose keys signed it."""
    for name, new in after.known.items():
        old = before.known.get(name)
        states = [BEGUN] if old is None else []
        if new.state != (old.state if old else "running"):
            states.append(RESUMED if new.state == "running" else new.state.upper())
        if old and new.stage != old.stage:
            states.append(STAGE)
        for state in states:
            detail = f"stage {new.stage}" if state in (BEGUN, STAGE) else new.reason
            yield Record(at_ns=now_ns, who=signers, state=state, campaign=name, version=new.version, detail=detail)


def of_site(before: SiteStatus, after: SiteStatus, now_ns: int) -> Iterator[Record]:
    """What is recorded of a site that stops by itself, or refuses what the mirror has."""
    for name, standing in after.campaigns.items():
        if standing.halted and not (name in before.campaigns and before.campaigns[name].halted):
            detail = f"{standing.lost} devices are lost, and {standing.quota} may be"
            yield Record(at_ns=now_ns, who=SERVICE, state=HALTED, campaign=name, detail=detail)
    if after.refused not in ("", before.refused):
        yield Record(at_ns=now_ns, who=SERVICE, state=REFUSED, detail=after.refused)


async def read(brokers: str, site: str, device: str = "", since_ns: int = 0) -> list[Record]:
    """The records of a site, oldest first; of one device only, if it is named. `Unavailable` without a broker."""
    found = [msgspec.json.decode(v, type=Record) for _, v in await records(brokers, topics.firmware_audit(site)) if v]
    return [r for r in found if r.at_ns >= since_ns and device in ("", r.device)]
