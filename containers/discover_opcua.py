"""`pipeline devices discover opcua`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from containers.cli_shared import Context, check_new, new_file, shared
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.urls import masked, parts_of

KEEP_S = 30.0
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("opcua")
@click.argument("url")
@new_file
@click.option("--username", help="Who asks [anonymous].")
@click.option("--password-file", type=FILE, help="A file with the password.")
@click.option("--depth", type=click.IntRange(1, 20), default=8, show_default=True, help="Levels that are looked at.")
@click.option("--nodes", type=click.IntRange(1), default=10_000, show_default=True, help="Nodes that are looked at.")
@shared
@click.pass_obj
def command(
    context: Context,
    url: str,
    out: Path | None,
    username: str | None,
    password_file: Path | None,
    depth: int,
    nodes: int,
) -> None:
    """Browse an OPC UA server, without security, and write a pipeline file for what it has. Nothing is changed there.

    Variables that repeat below sibling objects become columns, and the objects devices.

    \b
    Examples:
      pipeline devices discover opcua opc.tcp://10.0.0.7:4840 --out plant.py
      pipeline devices discover opcua opc.tcp://10.0.0.7:4840 --username look --password-file pw
    """
    check_new(out)
    password = password_file and password_file.absolute()
    text, devices = asyncio.run(_discover(url, username, password, depth, nodes))
    if out is None:
        context.console.data(text, {"server": url, "devices": devices, "pipeline": text})
        return
    out.write_text(text)
    context.console.data(
        f"{out}: {devices} devices; read it, then: pipeline check {out}", {"file": str(out), "devices": devices}
    )


async def _discover(url: str, username: str | None, password: Path | None, depth: int, nodes: int) -> tuple[str, int]:
    from connectors.opcua import PORT, discover, session  # the client library loads only when it is needed
    from connectors.opcua.channel import Channel
    from connectors.opcua.identity import Identity
    from connectors.secrets import Secret

    where = parts_of(url, "opc.tcp")
    if where is None:
        raise ConfigError(f"{masked(url)!r} is no OPC UA server: write 'opc.tcp://host:4840/path'")
    secret = Secret(str(password)) if password else None
    identity = Identity.of(None, username, secret, Path())
    channel = await Channel.open(url, str(where.hostname), where.port or PORT, identity.policy, SystemClock())
    try:
        mine = await session.create(channel, identity, url, "sitestream-discover", KEEP_S)
        found = await discover.look(channel, depth_max=depth, nodes_max=nodes)
        await session.close(channel, mine)
    finally:
        await channel.close()
    return discover.pipeline_file(url, found), sum(len(g.devices) for g in found.groups)
