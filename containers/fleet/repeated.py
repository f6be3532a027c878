"""Shows the same again and again until interrupted: in place on a terminal, one after another for a file or a program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console as Rich
from rich.live import Live
from rich.text import Text

from containers.console import Console
from pipelines.clock import Clock, SystemClock

Shown = tuple[str, dict[str, object]]  # for people, for programs


def watch(
    console: Console,
    look: Callable[[], Shown],
    every_s: float,
    *,
    clock: Clock | None = None,
    pause: Callable[[float], None] = time.sleep,
    terminal: Rich | None = None,
) -> None:
    """Show what `look` gives, then wait for what is left of `every_s`. Ends by an exception only, such as Ctrl-C."""
    clock = clock or SystemClock()
    with shower(console, terminal) as show:
        while True:
            begun = clock.monotonic_s()
            text, value = look()
            show(datetime.fromtimestamp(clock.now_ns() // 10**9, UTC), text, value)
            pause(max(every_s - (clock.monotonic_s() - begun), 0.0))


Show = Callable[[datetime, str, dict[str, object]], None]


@contextmanager
def shower(console: Console, terminal: Rich | None = None) -> Iterator[Show]:
    """Gives what shows something in the place of what it showed before, or after it where no terminal is."""
    terminal = terminal or Rich(no_color=not console.colour, highlight=False)
    if console.output == "text" and terminal.is_terminal:
        with Live(console=terminal, auto_refresh=False) as live:
            yield lambda at, text, _: live.update(_picture(at, text), refresh=True)
        return
    shown = 0

    def show(at: datetime, text: str, value: dict[str, object]) -> None:
        nonlocal shown
        between = "\n" if shown else ""
        shown += 1
        console.data(f"{between}{_head(at)}\n{text}", {"at": at.isoformat(), **value})

    yield show


def _head(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _picture(at: datetime, text: str) -> Text:
    """Lines that are too long for the terminal are cut, so that the table stays one."""
    picture = Text.from_ansi(f"{_head(at)}\n{text}")
    picture.no_wrap, picture.overflow = True, "ellipsis"
    return picture
