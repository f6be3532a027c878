"""`pipeline history`: who changed a site, when, how it ended; of a fleet, its rollouts."""

from __future__ import annotations

from contextlib import closing

import click

from containers import cli_rollout, history, names
from containers.cli_shared import Context, shared
from containers.console import table
from containers.engine import Engine
from containers.history import Entry
from pipelines.units import show_duration


def site_history(engine: Engine, site: str) -> list[Entry]:
    """All attempts to change a site that its engine knows of, newest first."""
    return history.entries(site, *engine.volumes(f"{names.PREFIX}-{site}-"))


@click.command("history")
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@shared
@click.pass_context
def command(ctx: click.Context, limit: int) -> None:
    """Show who changed what, when, and how it went, newest first: of one site, or the rollouts of a fleet.

    A site's own history is on its engine (the last 20 attempts) and tells of deploys by all, from whatever machine, also of those
    that failed.

    \b
    Examples:
      pipeline history --site hall1.toml
      pipeline history --site plant-7 -o json | jq '.attempts[] | select(.result != "done")'
      pipeline history -n 1                                  the newest rollout of the fleet in this folder
    """
    context = ctx.ensure_object(Context)
    if not context.chosen and context.fleet_folder():
        ctx.invoke(cli_rollout.history, limit=limit)
        return
    site = context.site()
    name = site.site.site
    with closing(Engine(site.site.engine, site.site.engine_tls, site.folder)) as engine:
        found = site_history(engine, name)[:limit]
    head = ["WHEN", "WHO", "WHAT", "RESULT", "REVISION", "TOOK", "SERVICES", "WHY"]
    text = table(head, [_row(e) for e in found]) if found else f"site {name}: nothing was ever deployed"
    context.console.data(text, {"site": name, "attempts": [history.value(e) for e in found]})


def _row(e: Entry) -> list[str]:
    took = "-" if e.seconds is None else show_duration(round(e.seconds) * 10**9)
    what = f"{e.note} ({e.what})" if e.action == "rollback" and e.what else e.what or e.note
    services = ", ".join(e.services) or "-"
    return [e.at[:19] + "Z", e.by or "-", what, e.result, str(e.revision), took, services, e.why.partition("\n")[0]]
