"""What `pipeline device audit` and `pipeline firmware audit` share: whose records, since when, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import click
import msgspec

from containers.cli_shared import Context, Duration, F, brokers_option, shared
from containers.console import table
from containers.reach import at_kafka
from pipelines.clock import SystemClock


class Record(Protocol):
    """One change that is on record."""

    @property
    def at_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


R = TypeVar("R", bound=Record)
Read = Callable[[str, str, str, int], Coroutine[Any, Any, list[R]]]
"""Records of a site, from brokers; of one device only, if it is named; from a time on."""


def audit_options(command: F) -> F:
    """Gives a command `device`, `since_s` and `brokers`."""
    command = brokers_option(command)
    command = click.option("--since", "since_s", type=Duration(), help="Of the last while only, such as 1h.")(command)
    command = click.option("--device", default="", help="Of one device only.")(command)
    return shared(command)


def show(
    context: Context, read: Read[R], head: Sequence[str], cells: Callable[[R], Sequence[str]], *,
    device: str, since_s: float | None, brokers: str | None,
) -> None:  # fmt: skip
    """Show what is on record, with the time before the other `cells`."""
    file = context.site()
    site = file.site.site
    since_ns = 0 if since_s is None else SystemClock().now_ns() - int(since_s * 1e9)
    found = at_kafka(file, brokers, lambda at: read(at, site, device, since_ns))
    rows = [[moment(r.at_ns), *cells(r)] for r in found]
    text = table(["TIME", *head], rows) if rows else "nothing is on record"
    context.console.data(text, {"site": site, "records": [msgspec.to_builtins(r) for r in found]})


def moment(at_ns: int) -> str:
    """A time for people: UTC, to the second."""
    return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
