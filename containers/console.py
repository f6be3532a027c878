"""What the operator sees: data on stdout, as text or as one JSON object; progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import click
from rich.console import Console as Rich
from rich.text import Text

JSON_VERSION = 1  # of every JSON object that goes to stdout
Colour = Literal["green", "yellow", "red", "cyan"]


@dataclass
class Console:
    """How to speak. Colours and the spinner only where a terminal listens."""

    output: Literal["text", "json"] = "text"
    colour: bool = True

    def data(self, text: str, value: dict[str, object]) -> None:
        """The result of a command: `text` for people, `value` for programs."""
        if self.output == "json":
            text = json.dumps({"version": JSON_VERSION, **value}, default=str)
        click.echo(text, color=None if self.colour else False)

    def __call__(self, text: str, *, bad: bool = False) -> None:
        """One line of progress, or several lines of a log."""
        rich = self.rich()
        if rich.is_terminal:
            rich.print(Text(text, style="red" if bad else ""))
        else:
            print(text, file=sys.stderr, flush=True)

    def error(self, message: str) -> None:
        """The one line that says what went wrong."""
        self(f"error: {message}", bad=True)

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[str], None]]:
        """Shows that something is going on, if there is a terminal to show it on; and what, as it is told."""
        rich = self.rich()
        if not rich.is_terminal:
            yield lambda phase: None
            return
        with rich.status(what) as status:
            yield lambda phase: status.update(f"{what}: {phase}")

    def rich(self) -> Rich:
        """The terminal, or what stands for one."""
        return Rich(stderr=True, no_color=not self.colour, highlight=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, as wide as they need to be; no frame, so that other programs can read it, too."""
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(_padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - len(click.unstyle(cell)))


def age(ns: int) -> str:
    """About how long, in its largest unit: '12s', '5m', '3h', '2d'."""
    s = max(ns, 0) // 10**9
    for unit, scale in (("d", 86_400), ("h", 3600), ("m", 60)):
        if s >= scale:
            return f"{s // scale}{unit}"
    return f"{s}s"


def coloured(text: str, colour: Colour) -> str:
    """Text in a colour; taken out again where no terminal listens."""
    return click.style(text, fg=colour)
