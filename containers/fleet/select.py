"""Which sites of a fleet a command is for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from containers.fleet.tables import nearest
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
        _check_name(glob, [s.site.site for s in sites])
    for group in wanted:
        _check_group(group, groups, sites)
    found = [s for s in sites if _named(s, names) and (not wanted or set(wanted) & set(s.groups))]
    if not found:
        raise ConfigError(f"no site like {' or '.join(names)} is in group {' or '.join(wanted)}")
    return found


def _named(site: SiteFile, names: Sequence[str]) -> bool:
    return not names or any(fnmatchcase(site.site.site, glob) for glob in names)


def _check_name(glob: str, there: Sequence[str]) -> None:
    if not any(fnmatchcase(name, glob) for name in there):
        plain = glob.replace("*", "").replace("?", "")
        cure = nearest(plain, there) or f"; `pipeline sites` lists the {len(there):,} that there are"
        raise ConfigError(f"--site {glob}: no site has such a name{cure}")


def _check_group(group: str, groups: Collection[str], sites: Sequence[SiteFile]) -> None:
    if group not in groups:
        cure = nearest(group, groups) or f"; there are {', '.join(groups) or 'none'}"
        raise ConfigError(f"--group {group}: there is no such group{cure}")
    if not any(group in s.groups for s in sites):
        raise ConfigError(f"--group {group}: no site is in this group: add  groups = [{group!r}]  to a site's file")
