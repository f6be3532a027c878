"""`pipeline firmware`: what is signed, which devices get it, and how far they are."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from connectors.firmware.campaign import CANARY_SITES_MAX, Campaign, Policy, back_to
from connectors.firmware.life import LOST, State
from connectors.firmware.manifest import Manifest, refusal
from connectors.firmware.status import SiteStatus
from containers.cli_audit import audit_options, show
from containers.cli_firmware_keys import keys, refresh, shelf_options
from containers.cli_rollout import Waves
from containers.cli_shared import Context, Duration
from containers.console import table
from containers.firmware.drive import Leader, campaign_of, no_way_back, put
from containers.firmware.shelf import Shelf
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError


class Percent(click.ParamType):
    """'2%'."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A share from 0 to 1."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)%", str(value))
        if not found or float(found[1]) > 100:
            self.fail(f"{value!r}: write a percentage, such as 2%", param, ctx)
        return float(found[1]) / 100


@click.group()
def firmware() -> None:
    """Firmware of devices: sign it, and bring it to some devices first.

    \b
    A first time (docs/firmware.md):
      pipeline firmware keys init
      pipeline firmware keys add-model press-mk2
      pipeline firmware publish press-2.1.bin --model press-mk2 --version 2.1 --hardware B --security-version 3
      pipeline firmware campaign start --model press-mk2 --version 2.1 --group eu
    """


firmware.add_command(keys)
firmware.add_command(refresh)


@firmware.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="For which devices.")
@click.option("--version", required=True, help="A new one for each image, such as 2.1.")
@click.option(
    "--hardware", multiple=True, required=True, metavar="REV", help="A hardware revision it runs on. Repeatable."
)
@click.option("--security-version", type=click.IntRange(min=0), required=True,
              help="Raise it when older versions must never be installed again.")  # fmt: skip
@shelf_options
@click.pass_obj
def publish(
    context: Context,
    shelf: Shelf,
    file: Path,
    model: str,
    version: str,
    hardware: tuple[str, ...],
    security_version: int,
) -> None:
    """Sign the image in FILE and put it into the repository. No device gets it before a campaign begins.

    \b
    Example:
      pipeline firmware publish press-2.1.bin --model press-mk2 --version 2.1 --hardware B --security-version 3
    """
    path = shelf.publish(
        file, Manifest(model=model, hardware=hardware, version=version, security_version=security_version)
    )
    context.console.data(f"published {path}: bring {shelf.folder} to your web server", {"path": path})


@firmware.group()
def campaign() -> None:
    """Bring a version to devices, some at a time."""


@campaign.command()
@click.option("--model", required=True, help="For which devices.")
@click.option("--version", required=True, help="A version that is published.")
@click.option("--id", "name", default="", help="Name of the campaign [MODEL-VERSION].")
@click.option(
    "--canary",
    type=click.IntRange(0, CANARY_SITES_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Sites whose devices go first.",
)
@click.option(
    "--stages",
    type=Waves(),
    default="5%,25%,100%",
    show_default=True,
    metavar="P%,…",
    help="Then so many of all devices, each if those before went well.",
)
@click.option("--success-min", type=Percent(), default="95%", show_default=True, help="Of a stage, for the next.")
@click.option(
    "--lost-max", type=Percent(), default="2%", show_default=True, help="Of a stage; beyond it nothing goes on."
)
@click.option(
    "--at-risk-max",
    type=Percent(),
    default=None,
    help="Of all devices: how many may be lost or in the middle of it at a time [2%; 100% in an emergency].",
)
@click.option("--soak", type=Duration(), default="1h", show_default=True, help="From the end of a stage to the next.")
@click.option(
    "--revert-to",
    metavar="VERSION",
    default="",
    help="If it halts by itself, bring devices with the new version to this one, by the same rules.",
)
@click.option("--emergency", is_flag=True, help="Everybody at once, outside of windows, too. Verified all the same.")
@shelf_options
@click.pass_obj
def start(
    context: Context, shelf: Shelf, model: str, version: str, name: str, canary: int, stages: tuple[float, ...],
    success_min: float, lost_max: float, at_risk_max: float | None, soak: float, revert_to: str, emergency: bool,
) -> int:  # fmt: skip
    """Begin a campaign at the chosen sites, and lead it until it is over, pauses by itself, or has been reverted.

    \b
    Examples:
      pipeline firmware campaign start --model press-mk2 --version 2.1 --group eu --canary 2
      pipeline firmware campaign start --model press-mk2 --version 2.1 --revert-to 2.0
      pipeline firmware campaign start --model press-mk2 --version 2.2 --emergency
    """
    path, sites = shelf.find(model, version), context.sites()
    at_risk = at_risk_max if at_risk_max is not None else 1.0 if emergency else 0.02
    name = name or re.sub(r"[^a-z0-9_-]+", "-", f"{model}-{version}".lower())
    if any(c.id == name for c in shelf.plan().campaigns):
        raise ConfigError(f"there was a campaign {name} already: give this one another name with --id")
    made = Campaign(
        id=name, model=model, path=path, version=version, begun_s=SystemClock().now_ns() // 10**9,
        canary=tuple(s.site.site for s in sites[:canary]),
        stages=tuple(round(10 * p) for p in dict.fromkeys((*stages, 100.0))),
        stage=0 if canary else 1, revert_to=revert_to and shelf.find(model, revert_to), emergency=emergency,
        quotas=dict.fromkeys((s.site.site for s in sites), 0),
        policy=Policy(
            success_min=success_min, lost_max=lost_max, at_risk_max=at_risk, soak_s=soak
        ),
    )  # fmt: skip
    if revert_to and (why := no_way_back(shelf, made)):
        raise ConfigError(f"--revert-to {revert_to}: {why}; or begin without it")
    put(shelf, sites, made)
    context.console(f"campaign {name}: {version} for {model} at {len(sites)} sites")
    return _lead(context, shelf, name)


@campaign.command("lead")
@click.argument("name", metavar="[ID]", required=False)
@shelf_options
@click.pass_obj
def lead_on(context: Context, shelf: Shelf, name: str | None) -> int:
    """Lead a campaign that was interrupted or resumed. Only one terminal may do so at a time.

    \b
    Example:
      pipeline firmware campaign lead
    """
    return _lead(context, shelf, campaign_of(shelf.plan(), name).id)


def _lead(context: Context, shelf: Shelf, name: str) -> int:
    wait = threading.Event().wait
    leader = Leader(shelf, name, context.sites(), SystemClock(), context.console, wait)
    code = leader.run()
    _show(context, shelf, leader, name)
    return code


@firmware.command()
@click.argument("name", metavar="[ID]", required=False)
@shelf_options
@click.pass_obj
def status(context: Context, shelf: Shelf, name: str | None) -> None:
    """Show how a campaign stands: the newest, or the one with this ID.

    \b
    Examples:
      pipeline firmware status
      pipeline firmware status -o json | jq '.devices[] | select(.state == "STALLED")'
    """
    found = campaign_of(shelf.plan(), name)
    leader = Leader(shelf, found.id, context.sites(), SystemClock(), context.console, lambda s: None)
    leader.look()
    _show(context, shelf, leader, found.id)


def _show(context: Context, shelf: Shelf, leader: Leader, name: str) -> None:
    c = campaign_of(shelf.plan(), name)
    devices = [(site, e) for site, found in leader.devices.items() for e in found if e.campaign == name]
    counts = Counter(e.state.value for _, e in devices)
    states = [s.value for s in State if counts[s.value]]
    rows = []
    for s in leader.sites:
        site = s.site.site
        here = Counter(e.state.value for at, e in devices if at == site)
        said = leader.known.get(site)
        note = "does not answer" if site not in leader.devices else _note(said)
        rows.append([site, str(c.quotas.get(site, "-")), *(str(here[state]) for state in states), note])
    why = f" ({c.reason})" if c.reason else ""
    other = f" in place of {c.replaces}" if c.replaces else f", else {back_to(c)}" if c.revert_to else ""
    head = f"{name}: {c.version} for {c.model}{other}, {c.state}{why}, stage {c.stage} of {len(c.stages)}"
    lost = [f"{site} {e.device}: {e.state} {e.detail}" for site, e in devices if e.state in LOST]
    keep = _keeping(shelf, leader, c)
    text = "\n".join([head, table(["SITE", "QUOTA", *states, ""], rows), *lost, *keep])
    value = {
        "campaign": name, "state": c.state, "reason": c.reason, "stage": c.stage, "counts": counts,
        "revert_to": back_to(c) if c.revert_to else "", "replaces": c.replaces, "keep": keep,
        "devices": [{"site": site, **msgspec.to_builtins(e)} for site, e in devices],
    }  # fmt: skip
    context.console.data(text, value)


def _note(said: SiteStatus | None) -> str:
    return "; ".join(filter(None, (said.refused, said.held))) if said else "firmware does not run"


def _keeping(shelf: Shelf, leader: Leader, c: Campaign) -> list[str]:
    """Devices that a campaign cannot bring back, and why."""
    manifest = shelf.manifest(c.model, c.path) if c.replaces else None
    if manifest is None:
        return []
    found = [(site, e) for site, entries in leader.devices.items() for e in entries if e.version == c.replaces]
    return [f"{site} {e.device}: keeps {c.replaces}: {why}" for site, e in found if (why := refusal(manifest, e))]


def _changed(context: Context, shelf: Shelf, name: str | None, sites: Sequence[Any], **changes: Any) -> None:
    found = campaign_of(shelf.plan(), name)
    if found.state == "aborted":
        raise ConfigError(f"campaign {found.id} is aborted, for good: begin another")
    deaf = put(shelf, sites, msgspec.structs.replace(found, **changes))
    later = f"; {len(deaf)} sites will see it when they look" if deaf else ""
    context.console.data(
        f"campaign {found.id}: {changes['state']}{later}",
        {"campaign": found.id, "state": changes["state"], "later": sorted(deaf)},
    )


@firmware.command()
@click.argument("name", metavar="[ID]", required=False)
@shelf_options
@click.pass_obj
def pause(context: Context, shelf: Shelf, name: str | None) -> None:
    """Offer nothing more and let no other device install. What is being installed is finished.

    \b
    Example:
      pipeline firmware pause
    """
    _changed(context, shelf, name, context.sites(), state="paused", reason="by an operator")


@firmware.command()
@click.argument("name", metavar="[ID]", required=False)
@click.option("--lost-max", type=Percent(), default=None, help="From now on so many of a stage may be lost.")
@shelf_options
@click.pass_obj
def resume(context: Context, shelf: Shelf, name: str | None, lost_max: float | None) -> None:
    """Let a paused campaign go on; lead it with  pipeline firmware campaign lead.

    \b
    Example:
      pipeline firmware resume --lost-max 4% && pipeline firmware campaign lead
    """
    policy = campaign_of(shelf.plan(), name).policy
    if lost_max is not None:
        policy = msgspec.structs.replace(policy, lost_max=lost_max)
    _changed(context, shelf, name, context.sites(), state="running", reason="", policy=policy)


@firmware.command()
@click.argument("name", metavar="[ID]", required=False)
@shelf_options
@click.pass_obj
def abort(context: Context, shelf: Shelf, name: str | None) -> None:
    """End a campaign for good. Devices that have the new version keep it; those before the installation forget it.

    \b
    Example:
      pipeline firmware abort
    """
    _changed(context, shelf, name, context.sites(), state="aborted", reason="by an operator")


@firmware.command()
@audit_options
@click.pass_obj
def audit(context: Context, /, **wanted: Any) -> None:
    """Show what a site was told by whom, what it offered and permitted, how it ended, and what it refused.

    \b
    Example:
      pipeline firmware audit --device press-7 --since 1d --site hall1.toml
    """
    from connectors.firmware import audit as trail  # its client library is not needed by other commands

    def cells(r: trail.Record) -> list[str]:
        return [r.who, r.campaign, r.device, r.version, r.state, r.detail]

    show(context, trail.read, ["WHO", "CAMPAIGN", "DEVICE", "VERSION", "STATE", "DETAIL"], cells, **wanted)
