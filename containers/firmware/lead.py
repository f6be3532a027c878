"""What becomes of a campaign next, from what its sites say. Pure: the simulation and `pipeline firmware campaign` share it.

What may be lost is shared out to the sites as quotas. A site that has not said yet that it obeys a lower quota may still act by a
higher one, so that one counts until it has; and devices that a site has at risk count, whatever its quota. Hence, whoever
hears of what and when:

    sum over all sites of (lost after a permission + at risk) <= at_risk_max of the fleet
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace

import msgspec

from connectors.firmware.campaign import ALL, Campaign, back_to
from connectors.firmware.life import State
from connectors.firmware.roster import Standing
from connectors.firmware.status import SiteStatus

IDLE_SHARE_MAX = 0.25  # of what may be lost; if more lies with sites that have nothing to do, it is shared out anew


@dataclass(frozen=True)
class Next:
    """The campaign as it should be from now on (None: as it is), and what to tell people."""

    campaign: Campaign | None = None
    note: str = ""
    done: bool = False
    settled_s: float | None = None  # since when the stage is at its end


@dataclass(frozen=True)
class _Sum:
    devices: int = 0
    stage: float = 0.0
    taken: int = 0
    offered: int = 0
    committed: int = 0
    lost: int = 0
    busy: int = 0


def advance(
    campaign: Campaign, counter: int, sites: Mapping[str, SiteStatus], now_s: float,
    settled_s: float | None = None, away: Set[str] = frozenset(),
) -> Next:  # fmt: skip
    """`counter` is that of the plan that holds the campaign, `settled_s` as the call before gave it.

    `sites` is the newest that each ever said; those `away` do not answer now: nobody waits for them.
    """
    if campaign.state != "running":
        return Next(note=f"{campaign.state}: {campaign.reason}".rstrip(": "), settled_s=settled_s)
    total = _sum(campaign, sites, away)
    if total.lost > int(campaign.policy.lost_max * total.stage):
        return _paused(campaign, f"{total.lost} devices are lost, of about {total.stage:.0f} in stage {campaign.stage}")
    near = [s for s in campaign.quotas if s in sites and s not in away]
    heard = bool(near) and all(sites[s].counter >= counter and not sites[s].held for s in near)
    if heard and not total.busy and (total.offered or not total.taken):
        return _settled(campaign, counter, sites, now_s if settled_s is None else settled_s, now_s, total)
    shared = _shared(campaign, counter, sites)
    return Next(replace_quotas(campaign, shared), "quotas are shared out anew" if shared else "")


def revert_of(halted: Campaign, ids: Collection[str], now_s: float) -> tuple[Campaign, Campaign]:
    """A campaign that halted by itself, given up, and the one that brings devices with its version to the one before; by the
    same stages and limits, never as an emergency. `ids` are taken. Sites that have not heard of it yet go on by the old quotas.
    """
    base = f"{halted.id[:50]}-revert"
    name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, len(ids) + 3))) if n not in ids)
    version = back_to(halted)
    given_up = msgspec.structs.replace(
        halted,
        state="aborted",
        reason=f"{halted.reason}; {name} brings devices with {halted.version} back to {version}",
    )
    bounds = {s: max(quota, halted.bounds.get(s, 0)) for s, quota in halted.quotas.items()}
    back = msgspec.structs.replace(
        halted, id=name, path=halted.revert_to, version=version, replaces=halted.version, revert_to="", emergency=False,
        begun_s=max(int(now_s), halted.begun_s + 1), state="running", reason="", stage=0 if halted.canary else 1,
        quotas=dict.fromkeys(halted.quotas, 0), bounds=bounds,
    )  # fmt: skip
    return given_up, back


def replace_quotas(campaign: Campaign, shared: tuple[dict[str, int], dict[str, int]] | None) -> Campaign | None:
    """The campaign with other quotas and bounds."""
    return shared and msgspec.structs.replace(campaign, quotas=shared[0], bounds=shared[1])


def _settled(
    campaign: Campaign, counter: int, sites: Mapping[str, SiteStatus], since_s: float, now_s: float,
    total: _Sum,
) -> Next:  # fmt: skip
    if total.committed < campaign.policy.success_min * total.offered:
        return _paused(campaign, f"{total.committed} of {total.offered} have committed in stage {campaign.stage}")
    if campaign.last:
        return Next(note=f"{total.committed} of {total.offered} devices have committed", done=True, settled_s=since_s)
    if total.taken and now_s - since_s < campaign.policy.soak_s:
        return Next(settled_s=since_s)
    onward = msgspec.structs.replace(campaign, stage=campaign.stage + 1)
    quotas, bounds = share_out(onward, counter, sites, everybody=True)
    return Next(
        msgspec.structs.replace(onward, quotas=quotas, bounds=bounds), f"stage {onward.stage} of {len(onward.stages)}"
    )


def _paused(campaign: Campaign, reason: str) -> Next:
    return Next(msgspec.structs.replace(campaign, state="paused", reason=reason), f"paused: {reason}")


def _sum(campaign: Campaign, sites: Mapping[str, SiteStatus], away: Set[str] = frozenset()) -> _Sum:
    total = _Sum()
    for site in campaign.quotas:
        s = _standing(sites, site, campaign)
        total = replace(
            total,
            devices=total.devices + s.devices,
            stage=total.stage + s.devices * campaign.share(site) / ALL,
            offered=total.offered + s.offered,
            committed=total.committed + s.counts.get(State.COMMITTED.value, 0),
            lost=total.lost + s.lost,
            taken=total.taken + sum(s.counts.values()),
            busy=total.busy + (0 if site in away else s.busy),
        )
    return total


def _standing(sites: Mapping[str, SiteStatus], site: str, campaign: Campaign) -> Standing:
    return sites[site].campaigns.get(campaign.id, Standing()) if site in sites else Standing()


def _shared(
    campaign: Campaign, counter: int, sites: Mapping[str, SiteStatus]
) -> tuple[dict[str, int], dict[str, int]] | None:
    """Quotas shared out anew, if a site waits for one or much lies idle; None otherwise."""
    standings = {s: _standing(sites, s, campaign) for s in campaign.quotas}
    waiting = any(st.busy and campaign.quotas[s] <= st.lost for s, st in standings.items())
    idle = sum(max(0, campaign.quotas[s] - st.lost) for s, st in standings.items() if not st.busy)
    if not waiting and idle <= IDLE_SHARE_MAX * _budget(campaign, sites):
        return None
    quotas, bounds = share_out(campaign, counter, sites)
    return (quotas, bounds) if quotas != campaign.quotas else None


def _budget(campaign: Campaign, sites: Mapping[str, SiteStatus]) -> int:
    return max(1, int(campaign.policy.at_risk_max * _sum(campaign, sites).devices))


def share_out(
    campaign: Campaign, counter: int, sites: Mapping[str, SiteStatus], *, everybody: bool = False
) -> tuple[dict[str, int], dict[str, int]]:
    """Quotas, and the highest that each site may believe in once they are published. `everybody`: a stage begins, so that
    sites that had nothing to do have; those that are known to have devices count.
    """
    standings = {s: _standing(sites, s, campaign) for s in campaign.quotas}
    believed = {s: _believed(campaign, counter, sites, s) for s in campaign.quotas}
    needs = {s: (st.devices if everybody and campaign.share(s) else st.busy) for s, st in standings.items()}
    budget = _budget(campaign, sites)
    want = _wanted({s: st.lost for s, st in standings.items()}, needs, budget)
    quotas = {s: min(want[s], believed[s]) for s in want}
    free = budget - sum(believed.values())
    for site in sorted(want, key=_order):
        more = min(max(0, free), want[site] - quotas[site])
        quotas[site] += more
        free -= more
    return quotas, {s: max(believed[s], quotas[s]) for s in quotas}


def _believed(campaign: Campaign, counter: int, sites: Mapping[str, SiteStatus], site: str) -> int:
    """How many devices a site may have lost or at risk, as far as anybody can know."""
    quota = campaign.quotas[site]
    if site in sites and sites[site].counter >= counter:
        standing = _standing(sites, site, campaign)
        return max(quota, standing.lost + standing.at_risk)
    return max(quota, campaign.bounds.get(site, 0))


def _wanted(lost: Mapping[str, int], needs: Mapping[str, int], budget: int) -> dict[str, int]:
    """What is lost already, and one after the other one more for each site that can use it."""
    want, left = dict(lost), budget - sum(lost.values())
    open_sites = sorted((s for s in needs if needs[s]), key=_order)
    given = 0
    while left > 0 and open_sites:
        given += 1
        for site in open_sites[:left]:
            want[site] += 1
        left -= len(open_sites)
        open_sites = [s for s in open_sites if needs[s] > given]
    return want


def _order(site: str) -> bytes:
    return hashlib.sha256(site.encode()).digest()
