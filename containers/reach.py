"""How an operator's machine reaches the Kafka of one site, to see what is in its topics and to hand in commands."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

from containers import bus
from containers.engine import Engine
from containers.profiles import BROKER
from containers.site import OWN_BROKER, SiteFile
from containers.tunnel import Tunnel, relay
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, SitestreamError, Unavailable

T = TypeVar("T")


def at_kafka(site: SiteFile, brokers: str | None, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Do `work` at a site's Kafka, whose address it is given: `brokers`, or that of the site file; with the site's admin's
    certificate if the site has certificates.

    The site's own broker is reached through its engine, with the certificate of the site's operator. `Unavailable` if that does
    not answer, `ConfigError` if there is no such broker yet.
    """
    if not site.site.own_broker:
        return bus.as_admin(site, SystemClock(), lambda at: work(brokers or at))
    if brokers:
        return bus.as_operator(site, SystemClock(), brokers, work)
    with _engine(site) as engine:
        return _through(engine, site, work)


def _through(engine: Engine, site: SiteFile, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    name = site.site.site
    broker = engine.actual(name).current.get(BROKER.service)
    if broker is None:
        raise ConfigError(f"site {name} has no broker on its engine at {engine.url} yet: deploy it first")
    if broker.state != "running":
        raise Unavailable(f"the broker of site {name} {broker.trouble}: see  pipeline logs broker")
    host, _, port = OWN_BROKER.partition(":")
    loop = Tunnel(host, int(port), partial(engine.attached, broker.name, relay(int(port))))
    try:
        return bus.as_operator(site, SystemClock(), OWN_BROKER, work, lambda: loop)
    except SitestreamError as e:
        if not loop.trouble:
            raise
        raise Unavailable(
            f"the broker of site {name} was not reached in {broker.name} ({loop.trouble}): it may be starting; see  "
            "pipeline logs broker"
        ) from e
    finally:
        loop.close()


@contextmanager
def _engine(site: SiteFile) -> Iterator[Engine]:
    try:
        engine = Engine(site.site.engine, site.site.engine_tls, site.folder)
    except Unavailable as e:
        raise Unavailable(
            f"{e}. People reach the broker of site {site.site.site}, a container, through that engine alone: without it there is "
            "control's HTTP API for commands (docs/control.md), and at the site  docker logs"
        ) from e
    with closing(engine):
        yield engine
