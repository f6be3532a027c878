"""`pipeline certs`: the fleet's certificate authority."""

from __future__ import annotations

import click

from containers import bus
from containers.certs import CA_CERT, CA_KEY, DAYS, Authority, principal
from containers.cli_shared import Context, shared
from containers.console import Colour, coloured, table
from containers.fleet.tables import listed
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError

BROKER = "broker"


@click.group()
def certs() -> None:
    """Certificates with which services and brokers identify themselves.

    They lie in the folder 'certs' of the fleet, or beside a site file that stands alone. `pipeline deploy` issues and renews
    those of services; each is good for 90 days. Keep the folder as you would keep a password.
    """


@certs.command()
@shared
@click.pass_obj
def init(context: Context) -> None:
    """Make the fleet's authority, once.

    \b
    Example:
      pipeline certs init --site hall1.toml
    """
    ours = _authority(context, SystemClock())
    ours.init()
    context.console.data(f"made {ours.folder / CA_CERT} and {ours.folder / CA_KEY}", {"folder": str(ours.folder)})


@certs.command()
@click.argument("hosts", nargs=-1, required=True)
@shared
@click.pass_obj
def broker(context: Context, hosts: tuple[str, ...]) -> None:
    """Issue the certificate of a broker that is reached under HOSTS, names or addresses.

    \b
    Example:
      pipeline certs broker kafka 192.168.10.2 --site hall1.toml
    """
    ours = _authority(context, SystemClock())
    ours.issue(BROKER, hosts)
    path = ours.folder / f"{BROKER}.pem"
    context.console.data(
        f"made {path}: give it to the broker as ssl.keystore.location, with ssl.keystore.type=PEM", {"file": str(path)}
    )


@certs.command()
@shared
@click.pass_obj
def show(context: Context) -> None:
    """List all certificates: whose they are and how long they are good for.

    \b
    Examples:
      pipeline certs show --site hall1.toml
      pipeline certs show --site hall1.toml -o json | jq '.certificates[] | select(.days_left < 30)'
    """
    clock = SystemClock()
    ours = _authority(context, clock)
    assert ours.certificate
    rows = [(c.name, principal(c.name), c.expires, c.left(clock).days) for c in ours.listed()]
    shown = [
        [n, "-" if n == "ca" else p, f"{e:%Y-%m-%d}", coloured(str(days), _colour(days))] for n, p, e, days in rows
    ]
    value = [{"name": n, "principal": p, "expires": e.isoformat(), "days_left": days} for n, p, e, days in rows]
    context.console.data(table(["NAME", "PRINCIPAL", "EXPIRES", "DAYS LEFT"], shown), {"certificates": value})


def _authority(context: Context, clock: Clock) -> Authority:
    """That of the sites chosen; `ConfigError` if they have several."""
    found = {ours.folder: ours for ours in (bus.authority(site, clock) for site in context.sites())}
    if len(found) > 1:
        folders = listed(str(folder) for folder in found)
        raise ConfigError(
            f"the sites chosen have {len(found)} authorities ({folders}): choose sites of one with --site"
        )
    return next(iter(found.values()))


def _colour(days: int) -> Colour:
    return "red" if days < 7 else "yellow" if days < DAYS // 3 else "green"
