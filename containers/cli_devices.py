"""`pipeline devices`: how the devices of a site are, and what hangs on its network. docs/devices.md is the guide."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase

import click

from containers import discover_modbus, discover_mqtt, discover_opcua
from containers.cli_shared import Context, Duration, brokers_option, shared
from containers.fleet.repeated import Shown, shower
from containers.reach import at_kafka
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.load import load
from pipelines.runtime.tail import following


@click.group("devices", invoke_without_command=True)
@click.option("--device", "patterns", multiple=True, metavar="NAME", help="A device, or some: 'press-*'. Repeatable.")
@click.option("--stream", default="", help="Those with readings in this stream.")
@click.option("--bad", is_flag=True, help="Only those with which something is not well.")
@click.option("--stale", type=Duration(), default="5m", show_default=True,
              help="Silent for longer is stale, where the source does not say (stale=).")  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Devices to show, the worst first."
)
@click.option("--watch", "every_s", type=click.FloatRange(1, 3600), is_flag=False, flag_value=5.0, metavar="[SECONDS]",
              help="Show it anew every so many seconds [5], until interrupted.")  # fmt: skip
@brokers_option
@shared
@click.pass_context
def group(
    ctx: click.Context, patterns: tuple[str, ...], stream: str, bad: bool, stale: float, limit: int, every_s: float | None,
    brokers: str | None,
) -> None:  # fmt: skip
    """Show the devices of a site: last reading, quality, age, firmware, settings and last command. Or discover some.

    \b
    Examples:
      pipeline devices --site hall1.toml
      pipeline devices --bad --watch                         every 5 s; --watch 2: every 2 s
      pipeline devices --device 'press-*' --stream vibration
      pipeline devices -o json | jq -r '.devices[] | select(.problems != []) | .device'
    """
    if ctx.invoked_subcommand is not None:
        return
    from containers.devices import show  # what it decodes is not needed by `discover`
    from containers.devices.seen import Seen

    context = ctx.ensure_object(Context)
    site, clock = context.site(), SystemClock()
    seen = Seen(load(site.pipeline).plan(), site.site.site)
    if stream and stream not in seen.streams:
        raise ConfigError(
            f"--stream {stream}: {site.pipeline} has no such stream: it has {', '.join(sorted(seen.streams))}"
        )

    def shown() -> Shown:
        limits = show.Limits(clock.now_ns(), int(stale * 1e9), limit)
        chosen = seen.chosen(lambda n: not patterns or any(fnmatchcase(n, p) for p in patterns), stream)
        found = show.judged(list(chosen), limits, bad=bad)
        return show.text(found, seen, stream, limits), {"site": site.site.site, **show.value(found, seen, limits)}

    async def look(at: str) -> None:
        async with following(at, seen.back) as read:
            await read(seen.take)
            if every_s is None:
                context.console.data(*shown())
                return
            with shower(context.console) as show_again:
                while True:
                    begun = clock.monotonic_s()
                    await read(seen.take)
                    show_again(datetime.fromtimestamp(clock.now_ns() // 10**9, UTC), *shown())
                    await clock.sleep(max(every_s - (clock.monotonic_s() - begun), 0.0))

    at_kafka(site, brokers, look)


@group.group()
def discover() -> None:
    """Look at what is there, and write a pipeline file to begin with."""


discover.add_command(discover_opcua.command)
discover.add_command(discover_modbus.command)
discover.add_command(discover_mqtt.command)
