"""Campaigns over whole fleets in virtual time: they stop by themselves, and never cost more than was allowed."""

from __future__ import annotations

import pytest

from connectors.firmware.campaign import Policy
from connectors.firmware.life import AT_RISK
from tests.firmware.fleet import BEFORE, Fleet


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_thousand_devices_of_which_five_percent_are_bad_stop_by_themselves(seed: int) -> None:
    fleet = Fleet(sites=100, devices=100, seed=seed, bad=0.05)
    fleet.start(policy=Policy(soak_s=600))
    assert fleet.run_for(10 * 86_400, lead=True)
    fleet.run_for(3600)  # what was under way comes to its end
    assert fleet.plan.campaigns[0].state == "paused"
    assert "are lost" in fleet.notes[-1]
    assert len(fleet.bricked) < 0.02 * fleet.size
    assert fleet.most_at_risk <= 0.02 * fleet.size


def test_a_version_that_bricks_everything_costs_two_percent_even_if_nobody_leads_any_more() -> None:
    fleet = Fleet(sites=40, devices=50, seed=3, bad=1.0)
    for site in fleet.sites.values():
        for device in site.devices.values():
            device.end = "bricks"
    fleet.start(emergency=True, policy=Policy(soak_s=0))
    fleet.run_for(1800, lead=True)
    fleet.deaf = set(fleet.sites)
    fleet.run_for(14_400)
    assert 0 < len(fleet.bricked) <= 0.02 * fleet.size


@pytest.mark.parametrize("seed", range(4))
def test_sites_that_hear_late_or_never_again_cannot_break_the_limit(seed: int) -> None:
    fleet = Fleet(sites=12, devices=20, seed=seed, bad=0.3, offline=0.1)
    fleet.start(policy=Policy(soak_s=0, lost_max=1.0, success_min=0.0, at_risk_max=0.05))
    for _ in range(12):
        fleet.run_for(1200, lead=True)
        fleet.deaf = set(fleet.random.sample(list(fleet.sites), 4))
    assert fleet.bricked
    assert fleet.most_at_risk <= 0.05 * fleet.size


def test_a_good_version_reaches_all_that_are_there_stage_by_stage() -> None:
    fleet = Fleet(sites=10, devices=40, seed=5, offline=0.1)
    fleet.start(canary=("s0",), policy=Policy(soak_s=600))
    assert fleet.run_for(5 * 86_400, lead=True)
    counts = fleet.counts()
    assert set(counts) == {"COMMITTED", "ASSIGNED"}
    assert counts["ASSIGNED"] == sum(d.offline for s in fleet.sites.values() for d in s.devices.values())
    assert [n.split(": ")[1] for n in fleet.notes if "stage" in n] == ["stage 1 of 3", "stage 2 of 3", "stage 3 of 3"]
    assert fleet.most_at_risk <= 0.02 * fleet.size


def test_a_site_that_is_away_holds_up_nobody() -> None:
    fleet = Fleet(sites=4, devices=20, seed=6)
    fleet.deaf = {"s3"}
    fleet.start(canary=("s0",), policy=Policy(soak_s=0, at_risk_max=0.2))
    assert fleet.run_for(86_400, lead=True)
    assert fleet.counts() == {"COMMITTED": 60, "IDLE": 20}


def test_the_smallest_fleet_of_all_is_updated_too() -> None:
    fleet = Fleet(sites=1, devices=1, seed=7)
    fleet.start(canary=(), stage=1, policy=Policy(soak_s=600))
    assert fleet.run_for(86_400, lead=True)
    assert fleet.counts() == {"COMMITTED": 1}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_campaign_that_halts_brings_devices_back_by_the_same_rules(seed: int) -> None:
    fleet = Fleet(sites=40, devices=50, seed=seed, bad=0.06, offline=0.05)
    for site in fleet.sites.values():
        for device in site.devices.values():
            device.end = device.end if device.end == "good" else "rolls back"  # what is bricked cannot come back
    fleet.start(policy=Policy(soak_s=600), revert_to=BEFORE.path)
    while len(fleet.plan.campaigns) < 2:
        assert not fleet.run_for(60, lead=True)
    given_up, back = fleet.plan.campaigns
    assert (given_up.state, back.id, back.replaces, back.revert_to) == ("aborted", "c-revert", "2", "")
    assert given_up.reason.endswith("; c-revert brings devices with 2 back to 1")
    assert fleet.versions()["2"] > 10
    fleet.most_at_risk = 0
    assert fleet.run_for(10 * 86_400, lead=True)
    assert fleet.versions() == {"1": fleet.size}
    assert fleet.most_at_risk <= 0.02 * fleet.size
    assert [n for n in fleet.notes if "stage 3 of 3" in n]


def test_devices_that_are_bricked_before_a_campaign_halts_do_not_hold_up_the_way_back() -> None:
    fleet = Fleet(sites=40, devices=50, seed=3, bad=0.06)
    fleet.start(policy=Policy(soak_s=600), revert_to=BEFORE.path)
    while len(fleet.plan.campaigns) < 2:
        assert not fleet.run_for(60, lead=True)
    halted = {e.device for s in fleet.sites.values() for e in s.roster.entries.values() if e.state in AT_RISK}
    assert halted & fleet.bricked
    assert fleet.run_for(2 * 86_400, lead=True)
    assert fleet.versions() == {"1": fleet.size}
    assert fleet.most_at_risk <= 0.02 * fleet.size
