"""Which sites of a fleet a command is for. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from containers.fleet.tables import listed, nearest
from containers.site import SiteFile
from pipelines.errors import ConfigError


def select(
    sites: Sequence[SiteFile], groups: Collection[str], names: Sequence[str], wanted: Sequence[str]
) -> list[SiteFile]:
    """The sites with names like one of `names` and in one of the groups `wanted`, in their order; an empty one lets all through.

    `groups` are those that there are. `ConfigError` if a word selects nothing, or all of them together do.
    """
    if not sites:
        raise ConfigError("the fleet has no sites: add one as sites/NAME.toml")
    for glob in names:
        if not any(_like(site, [glob]) for site in sites):
            raise _no_such_name(glob, [s.site.site for s in sites])
    for group in wanted:
        _check_group(group, groups, sites)
    named = [s for s in sites if not names or _like(s, names)]
    found = [s for s in named if not wanted or set(wanted) & set(s.groups)]
    if not found:
        theirs = listed(sorted({g for s in named for g in s.groups}))
        raise ConfigError(f"no site like {' or '.join(names)} is in group {' or '.join(wanted)}; such are in {theirs}")
    return found


def in_turn(sites: Sequence[SiteFile]) -> list[SiteFile]:
    """The order of a rollout: those that pull and those that are pushed to are spread evenly over it, the first of each in front,
    so that a canary of two shows both, and each wave has its share of both."""
    ways: dict[bool, list[SiteFile]] = defaultdict(list)
    for site in sites:
        ways[site.pulls].append(site)
    return [s for _, _, s in sorted(
        ((n / len(way), pulls, s) for pulls, way in ways.items() for n, s in enumerate(way)), key=lambda found: found[:2]
    )]  # fmt: skip


def _like(site: SiteFile, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(site.site.site, glob) for glob in globs)


def _no_such_name(glob: str, there: Sequence[str]) -> ConfigError:
    cure = nearest(glob.strip("*?"), there) or f": there are {listed(there)}"
    return ConfigError(f"--site {glob}: no site has such a name{cure}")


def _check_group(group: str, groups: Collection[str], sites: Sequence[SiteFile]) -> None:
    if group not in groups:
        raise ConfigError(
            f"--group {group}: there is no such group{nearest(group, groups) or f': there are {listed(groups)}'}"
        )
    if not any(group in s.groups for s in sites):
        raise ConfigError(f"--group {group}: no site is in this group: add  groups = [{group!r}]  to a site's file")
