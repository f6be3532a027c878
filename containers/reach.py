"""How an operator's machine reaches the Kafka of one site, to see what is in its topics."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from containers import bus
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError

T = TypeVar("T")


def at_kafka(site: SiteFile, brokers: str | None, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Do `work` at a site's Kafka, whose address it is given: `brokers`, or that of the site file; with the site's admin's
    certificate if the site has certificates. `ConfigError` if only the site's services reach it.
    """
    if site.site.own_broker and not brokers:
        raise ConfigError(
            f"the broker of site {site.site.site} is a container that only its services reach: "
            "`pipeline logs control` has what control does there, and its HTTP API takes commands (docs/control.md)"
        )
    return bus.as_admin(site, SystemClock(), lambda at: work(brokers or at))
