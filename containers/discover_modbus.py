"""`pipeline devices discover modbus`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from connectors.modbus import discover
from connectors.modbus.address import UNIT_MAX, Endpoint
from connectors.modbus.registers import ADDRESS_MAX
from containers.cli_shared import Context, check_new, new_file, shared
from pipelines.clock import SystemClock
from pipelines.errors import NotConnected, Unavailable


@click.command("modbus")
@click.argument("address")
@new_file
@click.option("--units", default="1-10", show_default=True, help="Units that are asked for.")
@click.option("--registers", default="0-199", show_default=True, help="Addresses that are looked at, of each kind.")
@click.option("--timeout", type=click.FloatRange(0.05, 60), default=1.0, show_default=True, help="Of an answer, s.")
@click.option("--pause", type=click.FloatRange(0, 10), default=0.02, show_default=True, help="Before each request, s.")
@shared
@click.pass_obj
def command(
    context: Context, address: str, out: Path | None, units: str, registers: str, timeout: float, pause: float
) -> None:
    """Look for Modbus TCP units at ADDRESS (HOST, HOST:PORT or a small network), and write a pipeline file for what they have.

    Nothing is written to them. Each is asked slowly, one request after the other, and left alone after an error.

    \b
    Examples:
      pipeline devices discover modbus 10.0.0.5 --units 1-10 --out plant.py
      pipeline devices discover modbus 10.0.0.0/28 --units 1 --registers 0-99
    """
    check_new(out)
    asked = discover.numbers(units, UNIT_MAX), discover.numbers(registers, ADDRESS_MAX)
    found = asyncio.run(_look(discover.endpoints(address), *asked, timeout, pause))
    if not found:
        raise Unavailable(
            f"no unit of {units} answers at {address}: is it Modbus TCP? Try other --units or a longer --timeout"
        )
    text = discover.pipeline_file(found)
    about = [
        {"address": str(u.endpoint), "unit": u.number, "identity": u.identity, "stopped": u.stopped} for u in found
    ]
    if out is None:
        context.console.data(text, {"units": about, "pipeline": text})
        return
    out.write_text(text)
    context.console.data(
        f"{out}: {len(found)} units; read it, then: pipeline check {out}", {"file": str(out), "units": about}
    )


async def _look(
    endpoints: list[Endpoint], units: range, registers: range, timeout_s: float, pause_s: float
) -> list[discover.Unit]:
    """One address after the other; of several, those where nothing is are passed over."""
    found: list[discover.Unit] = []
    for endpoint in endpoints:
        try:
            found += await discover.look(
                endpoint, units, registers, SystemClock(), timeout_s=timeout_s, pause_s=pause_s
            )
        except NotConnected:
            if len(endpoints) == 1:
                raise
    return found
