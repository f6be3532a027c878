"""The commands that are for many sites at once."""

from __future__ import annotations

from collections.abc import Sequence

import click

from containers.agent.report import read_report
from containers.cli_shared import Context, Duration, shared, stands_alone
from containers.cli_site import engine_of
from containers.fleet import show
from containers.fleet.parallel import each
from containers.fleet.repeated import Shown, watch
from containers.rollout import Actual
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import SitestreamError


@click.command()
@shared
@click.pass_obj
def sites(context: Context) -> None:
    """List the sites of a fleet: their groups and engines. Contacts nothing.

    \b
    Examples:
      pipeline sites
      pipeline sites --site 'plant-*' --group eu
      pipeline sites --fleet /srv/fleet -o json | jq -r '.sites[].site'
    """
    found = context.sites()
    context.console.data(show.sites_text(found), show.sites_value(found))


@click.command()
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="For each site to answer.")
@click.option("--watch", "every_s", type=click.FloatRange(1, 3600), is_flag=False, flag_value=5.0, metavar="[SECONDS]",
              help="Show it anew every so many seconds [5], until interrupted.")  # fmt: skip
@shared
@click.pass_obj
def status(context: Context, timeout: float, every_s: float | None) -> int:
    """Show the services of a site, or how the sites of a fleet are.

    Sites are asked at the same time. One that does not answer is a line of the table; exit code 1 if none does. Of sites that
    pull, the last report of their agent is read from the repository, and how old it is is said.

    \b
    Examples:
      pipeline status --site hall1.toml
      pipeline status --site hall1.toml -o json | jq '.services[].health'
      pipeline status --group eu
      pipeline status --group eu --watch                     every 5 s; --watch 30: every 30 s
      pipeline status --watch -o json | jq -c '{at, ill: [.sites[] | select(.state != "healthy") | .site]}'
      pipeline status --site 'plant-*' -o json | jq -r '.sites[] | select(.state != "healthy") | .site'
    """
    chosen = context.sites()

    def look() -> list[Actual | SitestreamError]:
        return each(chosen, _actual, timeout_s=timeout)

    if every_s:
        watch(context.console, lambda: _shown(chosen, look()), every_s)
    with context.console.working(f"asking {len(chosen):,} sites"):
        found = look()
    if stands_alone(chosen) and isinstance(found[0], SitestreamError):
        raise found[0]
    context.console.data(*_shown(chosen, found))
    return 0 if any(isinstance(reading, Actual) for reading in found) else 1


def _shown(chosen: Sequence[SiteFile], found: Sequence[show.Reading]) -> Shown:
    if stands_alone(chosen) and isinstance(found[0], Actual):
        name = chosen[0].site.site
        return show.site_text(name, found[0]), show.site_value(name, found[0])
    return show.fleet_text(chosen, found), show.fleet_value(chosen, found)


def _actual(site: SiteFile) -> Actual:
    if site.pulls:
        return read_report(site, SystemClock())
    with engine_of(site) as engine:
        return engine.actual(site.site.site)
