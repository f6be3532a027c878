"""What is signed of campaigns: the *plan*, one TUF target with all that run, and which devices a campaign takes in. Pure.

A stage is a share of all devices, chosen by a hash of campaign and device, so that all sites agree on who is in it without
speaking to each other. A *quota* is how many devices of a site may be lost or at risk at the same time: the quotas of all sites
together are never more than the fleet may lose, so a site that hears of nothing any more cannot do more harm than was allowed.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from connectors.firmware.life import Timeouts
from connectors.firmware.manifest import NAME
from pipelines.errors import BadData
from pipelines.settings import explain

PLAN_PATH = "campaigns.json"
PLAN_ROLE = "campaigns"
PLAN_BYTES_MAX = 4 * 2**20
CAMPAIGNS_MAX = 100
STAGES_MAX = 16
CANARY_SITES_MAX = 5
ALL = 1000  # permille


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a campaign goes on, for whoever leads it. Shares are from 0 to 1."""

    success_min: float = 0.95  # of those offered, for the next stage
    lost_max: float = 0.02  # of a stage's devices; more, and the campaign pauses
    at_risk_max: float = 0.02  # of all devices: lost or at risk at the same time, at least one
    soak_s: float = 3600.0  # from the end of a stage to the next


class Campaign(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An image for the devices of a model, some at a time. What is as usual is not written: sites with an older service, which
    refuse what they do not know, are led on by a newer command.
    """

    id: str
    model: str
    path: str  # of the image
    version: str
    begun_s: int  # since the epoch; of two campaigns for a model the later counts
    state: Literal["running", "paused", "aborted"] = "running"
    reason: str = ""  # why it is not running
    canary: tuple[str, ...] = ()  # sites whose devices are stage 0
    stages: tuple[int, ...] = (50, 250, ALL)  # permille of all devices, each with those of the stages before it
    stage: int = 0
    revert_to: str = (
        ""  # path of the image that takes the place of this one if the campaign halts by itself; empty: none
    )
    replaces: str = (
        ""  # the version that this takes the place of, if that is why it was begun; other devices have no part
    )
    emergency: bool = False  # everybody at once, no maintenance window; verified all the same
    quotas: dict[str, int] = {}  # by site; a site that is not named has no part
    bounds: dict[str, int] = {}  # the highest quota that a site may still believe in, for whoever signs the next plan
    timeouts: Timeouts = Timeouts()
    policy: Policy = Policy()

    def share(self, site: str) -> int:
        """Permille of the devices of a site that take part by now."""
        if site not in self.quotas:
            return 0
        if self.emergency or site in self.canary:
            return ALL
        return self.stages[self.stage - 1] if self.stage else 0

    def includes(self, site: str, device: str) -> bool:
        """Whether a device takes part by now."""
        return _place(self.id, device) < self.share(site)

    @property
    def last(self) -> bool:
        """Whether everybody takes part."""
        return self.emergency or self.stage >= len(self.stages)


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All campaigns. Each plan has a higher counter than the one before."""

    counter: int
    campaigns: tuple[Campaign, ...] = ()

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def newest(self) -> dict[str, Campaign]:
        """The campaign that counts, by model."""
        return {c.model: c for c in sorted(self.campaigns, key=lambda c: (c.begun_s, c.id))}


def decode(raw: bytes) -> Plan:
    """The plan; `BadData` says what is wrong with it."""
    try:
        plan = msgspec.json.decode(raw, type=Plan)
    except msgspec.ValidationError as e:
        raise BadData(f"the firmware plan is wrong: {explain(str(e), Plan)}", reason="plan") from e
    except (msgspec.DecodeError, ValueError) as e:
        raise BadData(f"the firmware plan is not JSON: {e}", reason="plan") from e
    ids = [c.id for c in plan.campaigns]
    problems = [f"campaign {c.id!r}: {wrong}" for c in plan.campaigns for wrong in _wrong(c)]
    problems += [f"{len(ids)} campaigns: at most {CAMPAIGNS_MAX}"] if len(ids) > CAMPAIGNS_MAX else []
    problems += ["two campaigns have the same id"] if len(set(ids)) < len(ids) else []
    if problems:
        raise BadData(f"the firmware plan is wrong: {'; '.join(problems)}", reason="plan")
    return plan


def back_to(c: Campaign) -> str:
    """The version in whose favour a campaign is reverted."""
    return c.revert_to.split("/")[1]


def _wrong(c: Campaign) -> list[str]:
    p, growing = c.policy, all(a < b for a, b in zip((0, *c.stages), c.stages, strict=False))
    rules = {
        "id: lower-case letters, digits, - and _": NAME.fullmatch(c.id),
        "path: MODEL/VERSION/FILE": c.path.startswith(f"{c.model}/{c.version}/"),
        f"revert_to: {c.model}/VERSION/FILE of another version": not c.revert_to
        or (c.revert_to.startswith(f"{c.model}/") and c.revert_to.count("/") == 2 and back_to(c) != c.version),
        f"stages: 1 to {STAGES_MAX} growing numbers, the last {ALL}": growing
        and 0 < len(c.stages) <= STAGES_MAX
        and c.stages[-1] == ALL,
        f"stage: 0 to {len(c.stages)}": 0 <= c.stage <= len(c.stages),
        f"canary: at most {CANARY_SITES_MAX} sites": len(c.canary) <= CANARY_SITES_MAX,
        "policy: shares from 0 to 1, soak 0 or more": p.soak_s >= 0
        and all(0 <= share <= 1 for share in (p.success_min, p.lost_max, p.at_risk_max)),
        "quotas: 0 or more": all(q >= 0 for q in c.quotas.values()),
    }
    return [rule for rule, kept in rules.items() if not kept]


def _place(campaign: str, device: str) -> int:
    """0 to 999, the same at every site, another for another campaign: not always the same devices go first."""
    return int.from_bytes(hashlib.sha256(f"{campaign}\0{device}".encode()).digest()[:8], "big") % ALL
