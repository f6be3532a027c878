"""What all commands share: options, exit codes, errors of one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from containers.console import Console
from containers.site import SiteFile, load_site
from pipelines.errors import ConfigError, SitestreamError
from pipelines.units import duration_s

USAGE, INTERRUPTED = 64, 130
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Context:
    """What the options say that every command has."""

    site_path: Path = Path("site.toml")
    console: Console = field(default_factory=Console)

    def site(self) -> SiteFile:
        """The site file."""
        return load_site(self.site_path)


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


def shared(command: F) -> F:
    """Gives a command the options that all have. They may stand before or after its name."""

    def set_site(ctx: click.Context, _: object, value: Path | None) -> None:
        ctx.ensure_object(Context).site_path = value or ctx.ensure_object(Context).site_path

    def set_output(ctx: click.Context, _: object, value: Any) -> None:
        console = ctx.ensure_object(Context).console
        console.output = value or console.output

    def set_colour(ctx: click.Context, _: object, no: bool) -> None:
        console = ctx.ensure_object(Context).console
        console.colour = console.colour and not no

    kind = click.Path(path_type=Path)
    options = [
        click.option("--site", metavar="FILE", type=kind, expose_value=False, callback=set_site, help="Site file [site.toml]."),
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


lock_timeout = click.option(
    "--lock-timeout",
    type=Duration(),
    default="0s",
    show_default=True,
    help="Wait so long while somebody else changes the site.",
)
