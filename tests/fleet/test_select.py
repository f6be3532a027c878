"""Choosing sites by name and group."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.fleet.folder import Fleet, load_fleet
from containers.fleet.select import in_turn
from containers.site import AgentSettings, Site, SiteFile
from pipelines.errors import ConfigError
from tests.fleet.kit import FLEET, write_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return load_fleet(write_fleet(tmp_path_factory.mktemp("fleet"), FLEET + "[groups.idle]\n"))


@pytest.mark.parametrize(
    ("names", "groups", "chosen"),
    [
        ([], [], "hall1 plant-1 plant-2 yard"),
        (["plant-*"], [], "plant-1 plant-2"),
        (["yard", "plant-?"], [], "plant-1 plant-2 yard"),
        (["*1"], [], "hall1 plant-1"),
        ([], ["big"], "plant-1 plant-2"),
        ([], ["big", "eu"], "hall1 plant-1 plant-2"),
        (["*1"], ["big"], "plant-1"),
    ],
)
def test_both_names_and_groups_must_hold(fleet: Fleet, names: list[str], groups: list[str], chosen: str) -> None:
    assert [s.site.site for s in fleet.select(names, groups)] == chosen.split()


@pytest.mark.parametrize(
    ("names", "groups", "message"),
    [
        (["plant1"], [], r"^--site plant1: no site has such a name: did you mean 'plant-1'\?$"),
        (["plant-*", "zz*"], [], r"^--site zz\*: no site has such a name: there are hall1, plant-1, plant-2, yard$"),
        ([], ["bigg"], r"^--group bigg: there is no such group: did you mean 'big'\?$"),
        ([], ["asia"], r"^--group asia: there is no such group: there are eu, big, idle$"),
        ([], ["idle"], r"^--group idle: no site is in this group: add  groups = \['idle'\]  to a site's file$"),
        (["hall*"], ["big"], r"^no site like hall\* is in group big; such are in eu$"),
        (["yard"], ["big"], r"^no site like yard is in group big; such are in none$"),
    ],
)
def test_choosing_nothing_is_an_error_that_says_what_there_is(
    fleet: Fleet, names: list[str], groups: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fleet.select(names, groups)


def test_a_fleet_without_sites(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    with pytest.raises(ConfigError, match=r"the fleet has no sites: add one as sites/NAME\.toml"):
        load_fleet(tmp_path).select()


def site(number: int, *, pulls: bool) -> SiteFile:
    agent = AgentSettings(repository="registry.example/press" if pulls else "")
    return SiteFile(Path(f"{number}.toml"), Site(site=f"s{number}", pipeline="tiny.py", agent=agent))


@given(st.lists(st.booleans(), max_size=40))
def test_both_ways_are_spread_over_a_rollout_and_each_keeps_its_order(ways: list[bool]) -> None:
    sites = [site(n, pulls=pulls) for n, pulls in enumerate(ways)]
    order = in_turn(sites)
    for pulls in (True, False):
        assert [s for s in order if s.pulls is pulls] == [s for s in sites if s.pulls is pulls]
    if len(set(ways)) == 2:
        assert {s.pulls for s in order[:2]} == {True, False}, "a canary of two shows both"
    for n in range(len(order) + 1):
        share = sum(s.pulls for s in order[:n]) - n * sum(ways) / max(1, len(ways))
        assert abs(share) <= 1, "each wave has its share of both"
