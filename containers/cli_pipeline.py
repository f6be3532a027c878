"""The commands that need no engine: about pipelines."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from containers import draw
from containers.cli_shared import Context, shared, stands_alone
from containers.desired import check_given, work_for
from containers.fleet.folder import FleetError
from containers.fleet.tables import listed
from containers.schemas import check_files
from containers.site import SiteFile
from pipelines.errors import SitestreamError
from pipelines.load import load
from pipelines.plan import READ, Plan


@click.command()
@click.argument("file", required=False)
@shared
@click.pass_obj
def check(context: Context, file: str | None) -> None:
    """Check a pipeline, and the site file or the sites of a fleet that go with it. No network.

    Without FILE, the chosen sites and their pipelines; with FILE, that pipeline alone.

    \b
    Examples:
      pipeline check press.py
      pipeline check --site hall1.toml
      pipeline check --site 'plant-*'
    """
    if file:
        plan = _checked(file)
        context.console.data(_summary(plan), _facts(plan))
        return
    sites = context.sites()
    plans = _checked_of(sites)
    shown = [_summary(plan) for plan in plans.values()]
    if stands_alone(sites):
        (site,), (plan,) = sites, plans.values()
        shown.append(f"site {site.site.site} ({site.path}) is well")
        context.console.data("\n".join(shown), _facts(plan) | {"site": site.site.site})
        return
    well = "site is well" if len(sites) == 1 else "sites are well"
    shown.append(f"{len(sites):,} {well}: {listed(s.site.site for s in sites)}")
    facts = [_facts(plan) | {"sites": [s.site.site for s in sites if s.pipeline == at]} for at, plan in plans.items()]
    context.console.data("\n".join(shown), {"pipelines": facts})


def _checked(path: str) -> Plan:
    plan = load(path).plan()
    check_files(plan, path)
    return plan


def _checked_of(sites: Sequence[SiteFile]) -> dict[str, Plan]:
    """The pipelines of sites, each read once, by where they are; `FleetError` with all that is wrong with any site."""
    plans: dict[str, Plan] = {}
    problems: dict[str, None] = {}  # each once, in their order
    for path in dict.fromkeys(s.pipeline for s in sites):
        try:
            plans[path] = _checked(path)
        except SitestreamError as e:
            problems[str(e)] = None
    for site in sites:
        try:
            if site.pipeline in plans:
                check_given(site, plans[site.pipeline])
        except SitestreamError as e:
            problems[str(e)] = None
    if problems:
        raise FleetError(sites[0].folder, list(problems))
    return plans


def _parts(plan: Plan) -> dict[str, list[str]]:
    return {
        "sources": [s.name for s in plan.steps if s.kind in READ],
        "results": [s for s in plan.outputs if s not in plan.exchanges],
        "services": [p.service for p in work_for(plan)],
    }


def _summary(plan: Plan) -> str:
    shown = "; ".join(f"{name} {', '.join(of) or 'none'}" for name, of in _parts(plan).items())
    return f"pipeline {plan.pipeline} is well: {shown}"


def _facts(plan: Plan) -> dict[str, object]:
    return {"pipeline": plan.pipeline, "fingerprint": plan.fingerprint, **_parts(plan)}


@click.command()
@click.argument("file", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg", "json"]),
    default="mermaid",
    show_default=True,
    help="What to write.",
)
@shared
@click.pass_obj
def graph(context: Context, file: str | None, form: str) -> None:
    """Draw a pipeline's graph.

    \b
    Examples:
      pipeline graph press.py                 Mermaid, as Markdown viewers draw it
      pipeline graph press.py --format svg > press.svg
      pipeline graph press.py --format json
    """
    plan = load(file or context.site().pipeline).plan()
    if form != "json" and context.console.output == "text":
        click.echo(plan.mermaid() if form == "mermaid" else draw.svg(plan))
        return
    value = draw.values(plan)
    context.console.data(json.dumps({"version": 1, **value}, indent=2), value)
