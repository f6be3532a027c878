"""The commands that need no engine: about pipelines and about devices."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from containers import draw
from containers.cli_shared import Context, shared
from containers.console import coloured, table
from containers.desired import check as check_needs
from containers.desired import work_for
from pipelines import dimensions
from pipelines.load import load
from pipelines.plan import READ


@click.command()
@click.argument("file", required=False)
@shared
@click.pass_obj
def check(context: Context, file: str | None) -> None:
    """Check a pipeline, and the site file that goes with it. No network.

    Without FILE, the site file and its pipeline; with FILE, that pipeline alone.

    \b
    Examples:
      pipeline check press.py
      pipeline check --site hall1.toml
    """
    site = None if file else context.site()
    path: str = file or site.pipeline  # type: ignore[union-attr]  # one of both is there
    plan = load(path).plan()
    dimensions.load(plan, dimensions.folder_of(path))
    parts = {
        "sources": [s.name for s in plan.steps if s.kind in READ],
        "results": [s for s in plan.outputs if s not in plan.exchanges],
        "services": [p.service for p in work_for(plan)],
    }
    facts: dict[str, object] = {"pipeline": plan.pipeline, "fingerprint": plan.fingerprint, **parts}
    shown = "; ".join(f"{name} {', '.join(of) or 'none'}" for name, of in parts.items())
    lines = [f"pipeline {plan.pipeline} is well: {shown}"]
    if site is not None:
        check_needs(site, plan)
        facts["site"] = site.site.site
        lines.append(f"site {site.site.site} ({site.path}) is well")
    context.console.data("\n".join(lines), facts)


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


@click.group()
def device() -> None:
    """What was said to devices."""


@device.command("status")
@click.argument("devices", nargs=-1)
@click.option("--brokers", help="Kafka as this machine sees it, if not as the site file says.")
@shared
@click.pass_obj
def device_status(context: Context, devices: tuple[str, ...], brokers: str | None) -> None:
    """Show what became of commands, of all devices or some.

    \b
    Example:
      pipeline device status press-7 --site hall1.toml
    """
    from connectors.control.status import states  # its client library is not needed by other commands

    site = context.site().site
    found = [s for s in asyncio.run(states(brokers or site.brokers, site.site)) if not devices or s.device in devices]
    rows = [[s.id, s.device, s.verb, _state(s.state), str(s.attempts), s.detail] for s in found]
    text = table(["COMMAND", "DEVICE", "VERB", "STATE", "SENT", "DETAIL"], rows) if rows else "no commands on record"
    context.console.data(text, {"site": site.site, "commands": [_fields(s) for s in found]})


def _state(state: str) -> str:
    return coloured(state, "green" if state == "SUCCEEDED" else "red" if state in ("FAILED", "REJECTED") else "yellow")


def _fields(value: Any) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
