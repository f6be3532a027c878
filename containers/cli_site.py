"""The commands that speak with a site's engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from containers.cli_shared import Context, Duration, lock_timeout, shared
from containers.console import Console
from containers.deploy import Operator
from containers.engine import Engine
from containers.rollout import Container
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, SitestreamError


@contextmanager
def operator_of(site: SiteFile, console: Console) -> Iterator[Operator]:
    """Acts on a site, and says on the console what it does."""
    with closing(Engine(site.site.engine, site.site.engine_tls, site.folder)) as engine:
        yield Operator(site, engine, console)


@click.command()
@click.argument("services", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--tail", "lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many lines back."
)
@click.option("--since", type=Duration(), help="Only what is newer, such as 10m.")
@shared
@click.pass_obj
def logs(context: Context, services: tuple[str, ...], follow: bool, lines: int, since: float | None) -> None:
    """Show what the services of a site wrote: all of them, or SERVICES.

    \b
    Examples:
      pipeline logs --site hall1.toml
      pipeline logs -f process upload --site hall1.toml
    """
    with operator_of(context.site(), context.console) as operator:
        current = operator.engine.actual(operator.name).current
        if unknown := [s for s in services if s not in current]:
            raise ConfigError(
                f"site {operator.name} runs no {', '.join(unknown)}; it runs {', '.join(current) or 'nothing'}"
            )
        chosen = [c for s, c in current.items() if not services or s in services]
        width = max((len(c.service) for c in chosen), default=0)
        since_ns = None if since is None else SystemClock().now_ns() - int(since * 1e9)
        since_s = None if since_ns is None else since_ns // 10**9
        if follow:
            _follow(operator.engine, chosen, lines, width)
        for c in [] if follow else chosen:
            for line in operator.engine.logs(c.name, lines, since_s=since_s).splitlines():
                click.echo(f"{c.service:{width}} | {line}")


def _follow(engine: Engine, chosen: list[Container], lines: int, width: int) -> None:
    """One thread for each container feeds one queue; ends when all have ended."""
    arriving: queue.Queue[tuple[str, str | None]] = queue.Queue(maxsize=1000)

    def read(c: Container) -> None:
        try:
            for line in engine.follow(c.name, lines):
                arriving.put((c.service, line))
        except SitestreamError as e:
            arriving.put((c.service, f"({e})"))
        arriving.put((c.service, None))

    for c in chosen:
        threading.Thread(target=read, args=(c,), daemon=True).start()
    open_ends = len(chosen)
    while open_ends:
        service, line = arriving.get()
        open_ends -= line is None
        if line is not None:
            click.echo(f"{service:{width}} | {line}")


@click.command()
@click.option(
    "--keep-data", is_flag=True, help="Leave the volumes with what services keep, such as files not yet uploaded."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@lock_timeout
@shared
@click.pass_obj
def destroy(context: Context, keep_data: bool, yes: bool, lock_timeout: float) -> None:
    """Remove a site from its engine: containers, networks, images, settings, and its data.

    Kafka's topics and the object store are not touched.

    \b
    Examples:
      pipeline destroy --site hall1.toml
      pipeline destroy --site hall1.toml --keep-data -y
    """
    with operator_of(context.site(), context.console) as operator:
        what = "but its data" if keep_data else "and its data, such as files not yet uploaded,"
        if not yes:
            click.confirm(
                f"Remove all of site {operator.name} {what} from {operator.engine.url}?", abort=True, err=True
            )
        with operator.alone("destroyed", wait_s=lock_timeout, last=True):
            operator.destroy(keep_data=keep_data)
        context.console.data(
            f"{operator.name}: destroyed", {"site": operator.name, "result": "destroyed", "data_kept": keep_data}
        )
