"""The rollouts of a fleet: how they go (options of deploy), how they stand, and having them paused, taken up or aborted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from containers.cli_shared import Context, Duration, shared
from containers.console import table
from containers.fleet import journal, view
from containers.fleet.drive import Attempt, Driver
from containers.fleet.events import Aborted, Paused, Resumed
from containers.fleet.journal import Header, Journal, Wish
from containers.fleet.policy import PARALLEL_MAX, Policy, Share
from containers.hold import operator_name
from pipelines.clock import Clock, SystemClock
from pipelines.errors import ConfigError
from pipelines.units import show_duration

F = TypeVar("F", bound=Callable[..., Any])
AttemptOf = Callable[[Context, Journal], AbstractContextManager[Attempt]]
"""Makes of a rollout (its header has release, sites, options) what brings one of its sites up to date."""


class Waves(click.ParamType):
    """'5%,25%,100%'."""

    name = "waves"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Percentages."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(_percent(part) for part in value.split(","))
            Policy(waves=found)
        except (ValueError, ConfigError):
            self.fail(f"{value!r}: write growing percentages up to 100%, such as 5%,25%,100%", param, ctx)
        return found


class Failures(click.ParamType):
    """'3' or '10%'."""

    name = "failures"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        """How many."""
        if isinstance(value, Share):
            return value
        try:
            found = Share(_percent(value), percent=True) if value.endswith("%") else Share(int(value))
            Policy(max_failures=found)
        except (ValueError, ConfigError):
            self.fail(f"{value!r}: write a number of sites, such as 3, or a percentage, such as 10%", param, ctx)
        return found


def _percent(text: str) -> float:
    number, sign, rest = text.strip().partition("%")
    if not sign or rest:
        raise ValueError(text)
    return float(number)


waiting = click.option(
    "--wait", "wait_s", type=Duration(), default="0s", show_default=True,
    help="How long to go on trying sites that are offline when nothing else is left to do.",
)  # fmt: skip


def policy_options(command: F) -> F:
    """Gives a command the options that say how a rollout goes, as one argument `policy`; and `wait_s`."""

    @functools.wraps(command)
    def with_policy(*args: Any, **options: Any) -> Any:
        names = ("canary", "waves", "max_parallel", "max_failures", "soak_s")
        return command(*args, policy=Policy(**{name: options.pop(name) for name in names}), **options)

    usual = Policy()
    made: Any = with_policy
    for option in reversed([
        click.option("--canary", type=click.IntRange(min=0), default=0, metavar="N",
                     help="Sites that go first; the others only if these are well."),
        click.option("--waves", type=Waves(), default=(), metavar="P%,…",
                     help="Go on in waves, such as 5%,25%,100%, each if the one before it went well [all at once]."),
        click.option("--max-parallel", type=click.IntRange(1, PARALLEL_MAX), default=usual.max_parallel, show_default=True,
                     help="Sites that are worked on at the same time."),
        click.option("--max-failures", type=Failures(), default=str(usual.max_failures), show_default=True, metavar="N|P%",
                     help="If more sites fail, nothing more is started."),
        click.option("--wave-soak", "soak_s", type=Duration(), default="0s", show_default=True,
                     help="From the end of a wave to the next one."),
        waiting,
    ]):  # fmt: skip
        made = option(made)
    return made  # type: ignore[no-any-return]  # a decorator gives what it was given


def begin(
    context: Context, attempt_of: AttemptOf, *, release: str, sites: Sequence[str], policy: Policy,
    wait_s: float, note: str = "", options: dict[str, str] | None = None, clock: Clock | None = None,
) -> int:  # fmt: skip
    """Roll a release out to sites; the exit code. `options`: what `attempt_of` must know if it is taken up again."""
    clock = clock or SystemClock()
    made = journal.create(
        folder(context),
        clock,
        who=operator_name(),
        release=release,
        policy=policy,
        sites=sites,
        note=note,
        options=options,
    )
    with closing(made), attempt_of(context, made) as attempt:
        return _carry_out(context, made, attempt, wait_s, clock)


def _carry_out(context: Context, of: Journal, attempt: Attempt, wait_s: float, clock: Clock) -> int:
    name = of.header.id
    code = Driver(of, attempt, view.watcher(context.console, name), wait_s, clock).run()
    result = of.schedule.result
    if result == "running":
        context.console(f"interrupted; to go on: pipeline rollout resume {name}")
    elif result == "pending":
        context.console(f"sites that are offline are left; to try again: pipeline rollout resume {name}")
    context.console.data(
        view.text(name, of.schedule, result), {"event": "result", **view.value(name, of.schedule, result)}
    )
    return code


def folder(context: Context) -> Path:
    """Where rollouts are on record: the fleet folder; this folder, if sites stand alone."""
    return context.fleet_folder() or Path()


def group(attempt_of: AttemptOf) -> click.Group:
    """`pipeline rollout`. `attempt_of` is how a site is brought up to date."""

    @click.command()
    @click.argument("name", metavar="[ID]", required=False)
    @waiting
    @shared
    @click.pass_obj
    def resume(context: Context, name: str | None, wait_s: float) -> int:
        """Take up a rollout that was paused, interrupted, or has sites left that were offline.

        If another terminal is carrying it out, it is told to go on; else this one does.

        \b
        Examples:
          pipeline rollout resume
          pipeline rollout resume 20260301T101502Z-3f2a --wait 8h
        """
        return _resume(context, attempt_of, name, wait_s)

    made = click.Group("rollout", help=_HELP)
    for command in (status, pause, resume, abort):
        made.add_command(command)
    return made


_HELP = """See how a rollout stands; pause it, take it up again or end it, also from another terminal.

\b
Examples:
  pipeline rollout status
  pipeline rollout pause
  pipeline rollout resume
"""


def _resume(context: Context, attempt_of: AttemptOf, name: str | None, wait_s: float) -> int:
    clock, fleet = SystemClock(), folder(context)
    name = journal.find(fleet, name)
    resumed = Resumed(clock.now_ns() / 1e9, operator_name())
    record = _still_open(fleet, name)
    if record.driven:
        return _told(context, name, resumed, "goes on in the terminal that carries it out")
    with closing(journal.reopen(fleet, name)) as taken, attempt_of(context, taken) as attempt:
        if taken.schedule.status == "paused":
            taken.record(resumed)
        return _carry_out(context, taken, attempt, wait_s, clock)


@click.command()
@click.argument("name", metavar="[ID]", required=False)
@shared
@click.pass_obj
def status(context: Context, name: str | None) -> None:
    """Show how the newest rollout stands, or the one with this ID.

    \b
    Examples:
      pipeline rollout status
      pipeline rollout status -o json | jq '.sites[] | select(.state == "failed")'
    """
    fleet = folder(context)
    name = journal.find(fleet, name)
    record = journal.read(fleet, name)
    word, header = journal.standing(record), record.header
    facts = {
        "at": header.at,
        "who": header.who,
        "release": header.release,
        "note": header.note,
        "driven": record.driven,
    }
    head = f"{header.note or header.release} by {header.who}, {header.at}"
    context.console.data(
        f"{head}\n{view.text(name, record.schedule, word)}", {**view.value(name, record.schedule, word), **facts}
    )


@click.command()
@click.argument("name", metavar="[ID]", required=False)
@shared
@click.pass_obj
def pause(context: Context, name: str | None) -> int:
    """Start no more sites for now. Those that are worked on are finished.

    \b
    Example:
      pipeline rollout pause; pipeline rollout status; pipeline rollout resume
    """
    return _told(context, name, Paused(SystemClock().now_ns() / 1e9, operator_name()), "paused")


@click.command()
@click.argument("name", metavar="[ID]", required=False)
@shared
@click.pass_obj
def abort(context: Context, name: str | None) -> int:
    """Start no more sites of this rollout, ever. Those that are worked on are finished.

    Sites that have the new version keep it: `pipeline rollback` brings them back.

    \b
    Example:
      pipeline rollout abort
    """
    return _told(context, name, Aborted(SystemClock().now_ns() / 1e9, operator_name()), "aborted")


def _told(context: Context, name: str | None, event: Wish, result: str) -> int:
    fleet = folder(context)
    name = journal.find(fleet, name)
    _still_open(fleet, name)
    driven = journal.wish(fleet, name, event)
    context.console.data(f"rollout {name}: {result}", {"rollout": name, "result": result, "driven": driven})
    return 0


def _still_open(fleet: Path, name: str) -> journal.Record:
    record = journal.read(fleet, name)
    if record.schedule.complete:
        raise ConfigError(f"rollout {name} is over ({record.schedule.result}): to change the sites again, deploy")
    if record.schedule.status in ("halted", "aborted"):
        raise ConfigError(f"rollout {name} is {record.schedule.status}, for good: to go on, deploy again")
    return record


@click.command()
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@shared
@click.pass_obj
def history(context: Context, limit: int) -> None:
    """Show the rollouts of a fleet, newest first: who, when, what, and how it went.

    \b
    Examples:
      pipeline history
      pipeline history -n 1 -o json
    """
    fleet = folder(context)
    entries = journal.history(fleet, limit)
    head = ["ID", "WHEN", "WHO", "WHAT", "TOOK", "RESULT", "SITES"]
    text = table(head, [_line(e) for e in entries]) if entries else f"{fleet}: there was no rollout yet"
    context.console.data(text, {"rollouts": [_entry(e) for e in entries]})


def _line(e: journal.Entry) -> list[str]:
    took_s = None if e.ended_s is None else round(e.ended_s - _began(e.header).timestamp())
    took = "-" if took_s is None else show_duration(max(0, took_s) * 10**9)
    header = e.header
    return [header.id, header.at, header.who, header.note or header.release, took, e.result, view.count_text(e.counts)]


def _entry(e: journal.Entry) -> dict[str, object]:
    header = e.header
    ended = None if e.ended_s is None else datetime.fromtimestamp(e.ended_s, UTC).isoformat(timespec="seconds")
    return {
        "rollout": header.id, "at": header.at, "who": header.who, "release": header.release, "note": header.note,
        "ended": ended, "result": e.result, "counts": e.counts,
    }  # fmt: skip


def _began(header: Header) -> datetime:
    return datetime.fromisoformat(header.at)
