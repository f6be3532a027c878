"""The commands that speak with a site's engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from containers.cli_shared import Context, lock_timeout, shared
from containers.console import Console
from containers.deploy import Operator
from containers.engine import Engine
from containers.site import SiteFile


@contextmanager
def engine_of(site: SiteFile) -> Iterator[Engine]:
    """The engine of a site, for as long as it is needed."""
    with closing(Engine(site.site.engine, site.site.engine_tls, site.folder)) as engine:
        yield engine


@contextmanager
def operator_of(site: SiteFile, console: Console) -> Iterator[Operator]:
    """Acts on a site, and says on the console what it does."""
    with engine_of(site) as engine:
        yield Operator(site, engine, console)


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

    The object store is not touched, nor are Kafka's topics unless the site has a broker of its own: those are its data.

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
