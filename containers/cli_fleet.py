"""The commands that are for many sites at once."""

from __future__ import annotations

import click

from containers.cli_shared import Context, Duration, shared, stands_alone
from containers.engine import Engine
from containers.fleet import show
from containers.fleet.parallel import each
from containers.rollout import Actual
from containers.site import SiteFile
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
@shared
@click.pass_obj
def status(context: Context, timeout: float) -> int:
    """Show the services of a site, or how the sites of a fleet are.

    Sites are asked at the same time. One that does not answer is a line of the table; exit code 1 if none does.

    \b
    Examples:
      pipeline status --site hall1.toml
      pipeline status --site hall1.toml -o json | jq '.services[].health'
      pipeline status --group eu
      pipeline status --site 'plant-*' -o json | jq -r '.sites[] | select(.state != "healthy") | .site'
    """
    chosen = context.sites()
    with context.console.working(f"asking {len(chosen):,} sites"):
        found = each(chosen, _actual, timeout_s=timeout)
    if stands_alone(chosen):
        if isinstance(found[0], SitestreamError):
            raise found[0]
        name = chosen[0].site.site
        context.console.data(show.site_text(name, found[0]), show.site_value(name, found[0]))
        return 0
    context.console.data(show.fleet_text(chosen, found), show.fleet_value(chosen, found))
    return 0 if any(isinstance(reading, Actual) for reading in found) else 1


def _actual(site: SiteFile) -> Actual:
    engine = Engine(site.site.engine, site.site.engine_tls, site.folder)
    try:
        return engine.actual(site.site.site)
    finally:
        engine.close()
