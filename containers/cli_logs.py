"""`pipeline logs`: what the services of the chosen sites wrote, read at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

from containers.cli_shared import Context, Duration, shared, stands_alone
from containers.cli_site import engine_of
from containers.console import Console
from containers.fleet.parallel import each
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, SitestreamError

WAITING_LINES_MAX = 1000  # of all containers that are followed; their engines hold the rest


@dataclass(frozen=True)
class Origin:
    """A container that writes."""

    site: SiteFile = field(hash=False)
    service: str
    container: str


@dataclass(frozen=True)
class Printer:
    """Writes lines with where they come from in front of them, in columns as wide as all of `origins` need."""

    console: Console
    origins: Sequence[Origin]
    alone: bool  # one site file: its name is not repeated in each line

    def __call__(self, origin: Origin, line: str) -> None:
        """One line."""
        site = origin.site.site.site
        self.console.data(f"{self.prefix(origin)}{line}", {"site": site, "service": origin.service, "line": line})

    def prefix(self, origin: Origin) -> str:
        """'site service | ', or 'service | ' of a site that stands alone."""
        site = max(len(o.site.site.site) for o in self.origins)
        service = max(len(o.service) for o in self.origins)
        first = "" if self.alone else f"{origin.site.site.site:{site}} "
        return f"{first}{origin.service:{service}} | "


@dataclass(frozen=True)
class Wanted:
    """Which lines."""

    services: tuple[str, ...]  # none: all
    lines: int
    since_s: int | None  # since the epoch
    later: bool = False  # only where they come from; they are followed

    def read(self, site: SiteFile) -> list[tuple[Origin, str]]:
        """All current containers of a site, and what those that are wanted wrote."""
        with engine_of(site) as engine:
            found = []
            for service, container in engine.actual(site.site.site).current.items():
                reads = not self.later and (not self.services or service in self.services)
                text = engine.logs(container.name, self.lines, since_s=self.since_s) if reads else ""
                found.append((Origin(site, service, container.name), text))
        return found


def chosen(origins: Sequence[Origin], services: Sequence[str], sites: Sequence[SiteFile]) -> list[Origin]:
    """Those of `services`, or all; `ConfigError` if none of the sites that answered runs one of them."""
    there = list(dict.fromkeys(o.service for o in origins))
    if unknown := [s for s in services if s not in there]:
        who = f"site {sites[0].site.site} runs no" if len(sites) == 1 else f"none of {len(sites):,} sites runs"
        they = "it runs" if len(sites) == 1 else "they run"
        raise ConfigError(f"{who} {', '.join(unknown)}; {they} {', '.join(there) or 'nothing'}")
    return [o for o in origins if not services or o.service in services]


@click.command()
@click.argument("services", nargs=-1)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--tail", "lines", type=click.IntRange(1, 100_000), default=100, show_default=True,
    help="How many lines back, of each service.",
)  # fmt: skip
@click.option("--since", type=Duration(), help="Only what is newer, such as 10m.")
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="For each site to answer.")
@shared
@click.pass_obj
def logs(
    context: Context, services: tuple[str, ...], following: bool, lines: int, since: float | None, timeout: float
) -> int:
    """Show what the services of the sites wrote: all of them, or SERVICES.

    Sites are read at the same time. One that does not answer is a line on stderr; exit code 1 if none does.

    \b
    Examples:
      pipeline logs --site hall1.toml
      pipeline logs -f process upload --site hall1.toml
      pipeline logs --group eu --since 10m process           the last ten minutes of all these sites
      pipeline logs --site 'plant-*' -o json | jq -r 'select(.line | test("ERROR")) | .site'
    """
    sites = context.sites()
    since_s = None if since is None else int(SystemClock().now_ns() / 1e9 - since)
    wanted = Wanted(services, lines, since_s, following)
    with context.console.working(f"asking {len(sites):,} sites"):
        found = each(sites, wanted.read, timeout_s=timeout)
    answered = told_offline(context.console, sites, found)
    if not answered:
        return 1
    texts = {origin: text for reading in found if isinstance(reading, list) for origin, text in reading}
    origins = chosen(list(texts), services, answered)
    show = Printer(context.console, origins, stands_alone(sites))
    if following:
        _follow(origins, wanted, show)
    for origin in origins:
        for line in texts[origin].splitlines():
            show(origin, line)
    return 0


def told_offline(
    console: Console, sites: Sequence[SiteFile], found: Sequence[object | SitestreamError]
) -> list[SiteFile]:
    """The sites that answered; of each other one line says why not. A site that stands alone: its error is raised."""
    for site, reading in zip(sites, found, strict=True):
        if isinstance(reading, SitestreamError):
            if stands_alone(sites):
                raise reading
            console(f"{site.site.site}: offline: {' '.join(str(reading).split())}", bad=True)
    return [site for site, reading in zip(sites, found, strict=True) if not isinstance(reading, SitestreamError)]


def _follow(origins: Sequence[Origin], wanted: Wanted, show: Printer) -> None:
    """One thread for each container feeds one queue; ends when all have ended."""
    arriving: queue.Queue[tuple[Origin, str | SitestreamError | None]] = queue.Queue(WAITING_LINES_MAX)

    def read(origin: Origin) -> None:
        try:
            with engine_of(origin.site) as engine:
                for line in engine.follow(origin.container, wanted.lines, since_s=wanted.since_s):
                    arriving.put((origin, line))
        except SitestreamError as e:
            arriving.put((origin, e))
        arriving.put((origin, None))

    for origin in origins:
        threading.Thread(target=read, args=(origin,), daemon=True).start()
    show_all(iter(arriving.get, ()), len(origins), show)


def show_all(arriving: Iterable[tuple[Origin, str | SitestreamError | None]], open_ends: int, show: Printer) -> None:
    """Shows lines as they arrive until so many ends (None) have; what broke off a container's lines goes to stderr."""
    if not open_ends:
        return
    for origin, line in arriving:
        if isinstance(line, SitestreamError):
            show.console(f"{show.prefix(origin)}{' '.join(str(line).split())}", bad=True)
        elif line is not None:
            show(origin, line)
        else:
            open_ends -= 1
            if not open_ends:
                return
