"""`pipeline devices`: what hangs on the network of a site, and pipeline files to begin with."""

from __future__ import annotations

import click

from containers import discover_modbus, discover_mqtt, discover_opcua


@click.group("devices")
def group() -> None:
    """Devices and the servers in front of them."""


@group.group()
def discover() -> None:
    """Look at what is there, and write a pipeline file to begin with."""


discover.add_command(discover_opcua.command)
discover.add_command(discover_modbus.command)
discover.add_command(discover_mqtt.command)
