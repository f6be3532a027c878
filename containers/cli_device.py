"""`pipeline device …`: command devices, and see what became of it. docs/control.md is the guide."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import click
import msgspec

from containers.cli_audit import audit_options, show
from containers.cli_shared import Context, F, brokers_option, shared
from containers.console import coloured, table
from containers.reach import at_kafka
from pipelines.clock import SystemClock
from pipelines.errors import BadData, ConfigError
from pipelines.units import duration_ns

KEY_VARIABLE = "SITESTREAM_DEVICE_KEY"
SITE = "site"  # the device of commands that are for control itself
_key = click.option(
    "--key", type=click.Path(path_type=Path), envvar=KEY_VARIABLE, required=True,
    help=f"Your key; its file's name is yours: anna.key. Or set {KEY_VARIABLE}.",
)  # fmt: skip


def _command(function: F) -> F:
    """What a command is, and who signs it."""
    function = _key(function)
    function = click.option("--expires", default="30s", show_default=True, help="When it must no longer be begun.")(
        function
    )
    for argument in (click.argument("args", nargs=-1), click.argument("verb"), click.argument("name")):
        function = argument(function)
    return function


@click.group()
def device() -> None:
    """Command devices, and see what was said to them."""


@device.command("status")
@click.argument("devices", nargs=-1)
@brokers_option
@shared
@click.pass_obj
def device_status(context: Context, devices: tuple[str, ...], brokers: str | None) -> None:
    """Show what became of commands, of all devices or some.

    \b
    Example:
      pipeline device status press-7 --site hall1.toml
    """
    from connectors.control.status import states  # its client library is not needed by other commands

    site = context.site()
    name = site.site.site
    found = [s for s in at_kafka(site, brokers, lambda at: states(at, name)) if not devices or s.device in devices]
    rows = [[s.id, s.device, s.verb, _state(s.state), str(s.attempts), s.detail] for s in found]
    text = table(["COMMAND", "DEVICE", "VERB", "STATE", "SENT", "DETAIL"], rows) if rows else "no commands on record"
    context.console.data(text, {"site": name, "commands": [_fields(s) for s in found]})


@device.command()
@_command
@brokers_option
@shared
@click.pass_obj
def send(
    context: Context, name: str, verb: str, args: tuple[str, ...], expires: str, key: Path, brokers: str | None
) -> None:
    """Send the device NAME a command VERB with ARGS, each written name=value, signed with your key.

    \b
    Example:
      pipeline device send press-7 set_speed speed=0.5 --key anna.key --site hall1.toml
    """
    _send(context, name, verb, dict(map(argument_of, args)), expires, key, brokers)


@device.command()
@_command
@shared
@click.pass_obj
def sign(context: Context, name: str, verb: str, args: tuple[str, ...], expires: str, key: Path) -> None:
    """Print a signed command, for control's HTTP API, and send nothing. No broker is contacted.

    \b
    Example:
      pipeline device sign press-7 set_speed speed=0.5 --key anna.key --site hall1.toml
    """
    command = _signed(context.site().site.site, name, verb, dict(map(argument_of, args)), expires, key)
    context.console.data(command.encode().decode(), {"command": msgspec.to_builtins(command)})


@device.command()
@click.argument("command_id")
@click.option("--expires", default="30s", show_default=True)
@_key
@brokers_option
@shared
@click.pass_obj
def approve(context: Context, command_id: str, expires: str, key: Path, brokers: str | None) -> None:
    """Sign the dangerous command of another person, so that it is carried out. COMMAND_ID as `device status` shows it."""
    from connectors.control.status import states

    site = context.site()
    name = site.site.site
    found = [s for s in at_kafka(site, brokers, lambda at: states(at, name)) if s.id == command_id]
    if not found:
        raise ConfigError(f"no command {command_id} is on record at {name}: `pipeline device status` lists them")
    _send(context, found[0].device, "approve", {"id": command_id}, expires, key, brokers)


@device.command()
@_key
@brokers_option
@shared
@click.pass_obj
def off(context: Context, key: Path, brokers: str | None) -> None:
    """Switch all commands of the site off: nothing more is sent, what waits expires. It lasts until `on`."""
    _send(context, SITE, "off", {}, "30s", key, brokers)


@device.command()
@_key
@brokers_option
@shared
@click.pass_obj
def on(context: Context, key: Path, brokers: str | None) -> None:
    """Take back `off`. A switch laid at the site itself stays as it is."""
    _send(context, SITE, "on", {}, "30s", key, brokers)


@device.command()
@audit_options
@click.pass_obj
def audit(context: Context, /, **wanted: Any) -> None:
    """Show who wanted what of devices, when, and each thing that became of it; refusals too."""
    from connectors.control import audit as trail

    def cells(r: trail.Record) -> list[str]:
        return [r.who, r.issuer, r.device, r.verb, r.command, _state(r.state), r.detail]

    show(context, trail.read, ["WHO", "ISSUER", "DEVICE", "VERB", "COMMAND", "STATE", "DETAIL"], cells, **wanted)


@device.group()
def keys() -> None:
    """Keys with which people sign commands."""


@keys.command("new")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where to put it; default: here.")
@shared
@click.pass_obj
def keys_new(context: Context, name: str, folder: Path) -> None:
    """Make a key for NAME, and print what devices.toml needs of it. The file stays with its owner."""
    from connectors.control.signing import create, public

    path = folder / f"{name}.key"
    key = public(create(path))
    text = f'# {path} is the key: keep it to yourself\n[issuers.{name}]\nkey = "{key}"\ndevices = ["…"]\nverbs = ["…"]'
    context.console.data(text, {"name": name, "file": str(path), "key": key})


def _send(
    context: Context, name: str, verb: str, args: dict[str, Any], expires: str, key: Path, brokers: str | None
) -> None:
    from connectors.control.send import send

    file = context.site()
    site = file.site.site
    command = _signed(site, name, verb, args, expires, key)
    at_kafka(file, brokers, lambda at: send(at, site, command))
    context.console.data(f"{command.id} is sent: `pipeline device status {name}` tells what becomes of it", {
        "site": site, "command": command.id,
    })  # fmt: skip


def _signed(site: str, name: str, verb: str, args: dict[str, Any], expires: str, key: Path) -> Any:
    """A signed command; `ConfigError` if it can be none."""
    from connectors.control.commands import Command, decode
    from connectors.control.signing import load, signed

    now = SystemClock().now_ns()
    command = Command(
        id=uuid.uuid4().hex, device=name, verb=verb, args=args, issuer=key.stem, issued_at_ns=now,
        expires_at_ns=now + duration_ns(expires),
    )  # fmt: skip
    command = signed(command, site, load(key))
    try:
        decode(command.encode(), name.encode())
    except BadData as e:
        raise ConfigError(str(e)) from e
    return command


def argument_of(text: str) -> tuple[str, str | int | float | bool]:
    """Name and value, as a number or truth if it reads as one; `ConfigError` if it is not name=value."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"argument {text!r}: write name=value, such as speed=0.5")
    if value in ("true", "false"):
        return name, value == "true"
    for number in (int, float):
        try:
            return name, number(value)
        except ValueError:
            continue
    return name, value


def _state(state: str) -> str:
    bad = ("FAILED", "REJECTED", "REFUSED")
    return coloured(state, "green" if state == "SUCCEEDED" else "red" if state in bad else "yellow")


def _fields(value: Any) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
