"""What all commands share: options, exit codes, errors of one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from containers.console import Console
from containers.fleet.folder import FLEET_FILE, SITES_FOLDER, load_fleet
from containers.fleet.tables import listed
from containers.site import SiteFile, load_site
from pipelines.errors import ConfigError, SitestreamError
from pipelines.units import duration_s

USAGE, INTERRUPTED = 64, 130
FLEET_VARIABLE = "SITESTREAM_FLEET"
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Context:
    """What the options say that every command has."""

    chosen: list[str] = field(default_factory=list)  # --site: site files, or names of a fleet's sites
    groups: list[str] = field(default_factory=list)
    fleet: Path | None = None
    console: Console = field(default_factory=Console)

    def sites(self) -> list[SiteFile]:
        """The sites that a command is for: those chosen, or all of the fleet, or that of site.toml if there is no fleet."""
        files = [Path(chosen) for chosen in self.chosen if _is_file(chosen)]
        if not files:
            folder = self.fleet_folder()
            return load_fleet(folder).select(self.chosen, self.groups) if folder else [load_site(Path("site.toml"))]
        if len(files) < len(self.chosen) or self.groups or self.fleet:
            raise ConfigError(
                f"--site {files[0]} is a site file, which stands alone: to choose from a fleet give names of sites, such as "
                f"--site {files[0].stem}"
            )
        return [_alone(path) for path in files]

    def site(self) -> SiteFile:
        """The site, for a command that is for one."""
        found = self.sites()
        if len(found) > 1:
            names = listed(s.site.site for s in found)
            raise ConfigError(
                f"this command is for one site, and {len(found):,} are chosen ({names}): name it with --site"
            )
        return found[0]

    def fleet_folder(self) -> Path | None:
        """The fleet's folder: the one that is named, else this one if it is one; None if there is none."""
        named = self.fleet or os.environ.get(FLEET_VARIABLE)
        if named or Path(FLEET_FILE).exists():
            return Path(named or "")
        if self.chosen or self.groups:
            raise ConfigError(
                f"there is no {FLEET_FILE} here to choose sites from: name the fleet folder with --fleet DIR, or a site file "
                "with --site FILE.toml"
            )
        return None


def stands_alone(sites: Sequence[SiteFile]) -> bool:
    """Whether a command is for one site file that is no part of a fleet."""
    return len(sites) == 1 and sites[0].fleet is None


def _is_file(chosen: str) -> bool:
    return chosen.endswith(".toml") or "/" in chosen


def _alone(path: Path) -> SiteFile:
    folder = path.absolute().parent.parent
    if path.absolute().parent.name == SITES_FOLDER and (folder / FLEET_FILE).exists():
        raise ConfigError(f"{path} is part of a fleet: choose it with --fleet {folder} --site {path.stem}")
    return load_site(path)


class Root(click.Group):
    """Errors become one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line and exit."""
        console = kwargs.setdefault("obj", Context()).console
        try:
            kwargs["standalone_mode"] = False
            code = super().main(*args, **kwargs)
        except click.UsageError as e:
            e.show()
            code = USAGE
        except SitestreamError as e:
            console.error(str(e))
            code = 1
        except (click.Abort, KeyboardInterrupt):
            console.error("interrupted")
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has left
            sys.stderr.close()
            code = 0
        sys.exit(code if isinstance(code, int) else 0)


new_file = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the pipeline file there [standard output]."
)


def check_new(out: Path | None) -> None:
    """`ConfigError` if there is something at `--out` already."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} is there already: name another file with --out, or remove it")


def shared(command: F) -> F:
    """Gives a command the options that all have. They may stand before or after its name."""

    def add_sites(ctx: click.Context, _: object, values: tuple[str, ...]) -> None:
        ctx.ensure_object(Context).chosen.extend(values)

    def add_groups(ctx: click.Context, _: object, values: tuple[str, ...]) -> None:
        ctx.ensure_object(Context).groups.extend(values)

    def set_fleet(ctx: click.Context, _: object, value: Path | None) -> None:
        ctx.ensure_object(Context).fleet = value or ctx.ensure_object(Context).fleet

    def set_output(ctx: click.Context, _: object, value: Any) -> None:
        console = ctx.ensure_object(Context).console
        console.output = value or console.output

    def set_colour(ctx: click.Context, _: object, no: bool) -> None:
        console = ctx.ensure_object(Context).console
        console.colour = console.colour and not no

    kind = click.Path(path_type=Path)
    options = [
        click.option("--site", metavar="NAME", multiple=True, expose_value=False, callback=add_sites,
                     help="A site of the fleet, or some: 'plant-*'; or a site file that stands alone [site.toml]. Repeatable."),
        click.option("--group", metavar="NAME", multiple=True, expose_value=False, callback=add_groups,
                     help="Sites of a group of the fleet. With --site both must hold. Repeatable."),
        click.option("--fleet", metavar="DIR", type=kind, expose_value=False, callback=set_fleet,
                     help="Fleet folder [where fleet.toml is: here, or SITESTREAM_FLEET]."),
        click.option("-o", "--output", type=click.Choice(["text", "json"]), expose_value=False, callback=set_output,
                     help="How results are written [text]."),
        click.option("--no-color", is_flag=True, expose_value=False, callback=set_colour, help="Plain text."),
    ]  # fmt: skip
    for option in options:
        command = option(command)
    return command


class Duration(click.ParamType):
    """'90s', '2m'."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return duration_s(str(value))
        except ConfigError as e:
            self.fail(str(e), param, ctx)


brokers_option = click.option("--brokers", help="Kafka as this machine sees it, if not as the site file says.")
lock_timeout = click.option(
    "--lock-timeout",
    type=Duration(),
    default="0s",
    show_default=True,
    help="Wait so long while somebody else changes the site.",
)
