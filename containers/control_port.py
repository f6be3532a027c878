"""The port that control's HTTP API has on the site's machine, if the site file asks for it: `[services.control] listen`."""

from __future__ import annotations

import ipaddress

from connectors.control.api_names import CERTIFICATE, KEY, TOKENS
from containers.profiles import Port
from containers.site import SiteFile, listen_of
from pipelines.errors import ConfigError

INSIDE = 9471  # where it listens in its container


def check(site: SiteFile, *, has_control: bool) -> None:
    """`ConfigError` if the port would be of no use, or open to whoever listens in."""
    own = site.site.services.control
    field = f"{site.path}: services.control.listen = {own.listen!r}"
    if not own.listen:
        return
    if not has_control:
        raise ConfigError(f"{field}: the site has no control, for no pipeline commands and there is no devices.toml")
    if site.site.networks.ot:
        raise ConfigError(
            f"{field}: networks.ot = {site.site.networks.ot!r} is a network of your own, where control is reached at its own "
            f"address: write  listen = '0.0.0.0:{INSIDE}'  under [services.control.options] instead"
        )
    sealed = (CERTIFICATE.name, KEY.name)
    needed = [TOKENS.name]
    if not ipaddress.ip_address(listen_of(own.listen)[0]).is_loopback or any(name in own.secrets for name in sealed):
        needed += sealed
    for name in needed:
        if name not in own.secrets:
            why = (
                ""
                if name == TOKENS.name
                else "; without TLS only this machine may be listened to: listen = '127.0.0.1:…'"
            )
            raise ConfigError(
                f"{field} needs the secret {name!r}: add under [services.control.secrets] a line such as  "
                f"{name} = 'file:secrets/{name}'{why}"
            )


def port(site: SiteFile) -> Port | None:
    """The port, if there is one."""
    listen = site.site.services.control.listen
    return Port(*listen_of(listen), INSIDE) if listen else None


def options(site: SiteFile) -> dict[str, str]:
    """What the service is told of it."""
    return {"listen": f"0.0.0.0:{INSIDE}"} if site.site.services.control.listen else {}
