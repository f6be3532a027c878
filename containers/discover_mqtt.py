"""`pipeline devices discover mqtt`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from containers.cli_shared import Context, Duration, check_new, new_file, shared
from containers.console import Console, table
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from connectors.mqtt.connection import Version
    from connectors.mqtt.discover import Found
    from connectors.mqtt.survey import Survey

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LINES = 5  # of progress where no terminal listens
UNCLEAR_MAX = 20  # shown


@click.command("mqtt")
@click.argument("url")
@new_file
@click.option("--for", "seconds", type=Duration(), default="30s", show_default=True, help="How long to listen.")
@click.option("--topic", "topic_filter", default="#", show_default=True, help="Topic filter that is listened to.")
@click.option("--username", help="Who asks [anonymous].")
@click.option("--password-file", type=FILE, help="A file with the password.")
@click.option("--ca-file", type=FILE, help="Of mqtts://: the authority's certificates, PEM [the system's].")
@click.option("--certificate-file", type=FILE, help="The client's certificate, PEM.")
@click.option("--key-file", type=FILE, help="Its key, PEM.")
@click.option(
    "--version", type=click.Choice(["auto", "5", "3.1.1"]), default="auto", show_default=True, help="Of MQTT."
)
@shared
@click.pass_obj
def command(
    context: Context,
    url: str,
    out: Path | None,
    seconds: float,
    topic_filter: str,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    certificate_file: Path | None,
    key_file: Path | None,
    version: Version,
) -> None:
    """Listen to an MQTT broker for a while, and write a pipeline file for what was heard. Nothing is published.

    Topics that are alike become one source: levels that vary are the key. Formats, types, units and times are guessed from
    payloads. The broker keeps no session. Secrets are named in the file as their files are.

    \b
    Examples:
      pipeline devices discover mqtt mqtt://10.0.0.9 --out plant.py
      pipeline devices discover mqtt mqtts://edge --for 5m --topic 'plant/#' --username look --password-file pw --ca-file ca.pem
    """
    check_new(out)
    if seconds <= 0:
        raise ConfigError("--for 0s: listen for some time, such as 30s")
    files = {"password": password_file, "ca": ca_file, "certificate": certificate_file, "private_key": key_file}
    text, found = _discover(context.console, url, seconds, topic_filter, version, username, files)
    if out is None:
        context.console(report(found))
        context.console.data(text, {**values(found), "pipeline": text})
        return
    out.write_text(text)
    more = f"{out}: {len(found.streams) + len(found.sparkplug)} sources; read it, then: pipeline check {out}"
    context.console.data(f"{report(found)}\n\n{more}", {"file": str(out), **values(found)})


def _discover(
    console: Console,
    url: str,
    seconds: float,
    topic_filter: str,
    version: Version,
    username: str | None,
    files: dict[str, Path | None],
) -> tuple[str, Found]:
    try:
        from connectors.mqtt import discover, pipeline_text  # with the decoders of all formats
    except ImportError as e:
        raise ConfigError(f"{e}: install sitestream[mqtt]") from e
    from connectors.base import Context as Where
    from connectors.mqtt.connection import Connection
    from connectors.mqtt.reader import account_of
    from connectors.secrets import Secret

    given: dict[str, Any] = {n: Secret(str(f.absolute())) if f is not None else None for n, f in files.items()}
    connection = Connection(broker=url, username=username, version=version, share=None, **given)
    connection.check()
    clock = SystemClock()
    account = account_of(connection, Where("discover", secrets.token_hex(4), Path("/"), clock), "mqtt")
    with _shown(console, seconds) as progress:
        found = asyncio.run(discover.listen(connection, account, topic_filter, seconds, clock, progress))
    if not found.messages:
        raise Unavailable(
            f"nothing was said in {topic_filter!r} for {seconds:g} s: is anything published there, may this user read it? "
            "Listen longer with --for"
        )
    return pipeline_text.pipeline_file(found, connection), found


@contextmanager
def _shown(console: Console, seconds: float) -> Iterator[Callable[[float, Survey], None]]:
    """A bar while it listens; where no terminal listens to us, a line now and then."""
    rich = console.rich()
    if not rich.is_terminal:
        yield _Lines(console, seconds)
        return
    columns = TextColumn("listening"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=rich, transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda spent_s, survey: bar.update(task, completed=spent_s, description=_so_far(survey))


class _Lines:
    def __init__(self, console: Console, seconds: float) -> None:
        self._console, self._seconds, self._told = console, seconds, 0

    def __call__(self, spent_s: float, survey: Survey) -> None:
        part = int(spent_s / self._seconds * LINES)
        if part > self._told:
            self._told = part
            self._console(f"{spent_s:.0f} of {self._seconds:g} s: {_so_far(survey)}")


def _so_far(survey: Survey) -> str:
    topics = len(survey.topics) + len(survey.sparkplug.edges)
    return f"{survey.messages:,} messages in {topics:,} topics"


def report(found: Found) -> str:
    """What was heard, as a table, and what was not understood."""
    rows = [(s.topic, f"{len(s.devices):,}", f"{s.per_s:,.3g}", s.payload, s.example) for s in found.streams]
    for kind in found.sparkplug:
        groups = sorted({group for group, _, _ in kind.devices})
        per_s = sum(edge.data for edge in kind.devices.values()) / found.seconds
        metrics = ", ".join(list(kind.metrics)[:3])
        rows.append(
            (f"spBv1.0/{'|'.join(groups)}/#", f"{len(kind.devices):,}", f"{per_s:,.3g}", "Sparkplug B", metrics)
        )
    parts = [table(("TOPIC", "DEVICES", "READINGS/S", "FORMAT", "EXAMPLE"), rows)] if rows else []
    if found.unclear:
        lost = [(u.topic, f"{u.topics:,}", f"{u.per_s:,.3g}", u.why, u.example) for u in found.unclear[:UNCLEAR_MAX]]
        parts.append(table(("NOT UNDERSTOOD", "TOPICS", "MESSAGES/S", "WHY", "EXAMPLE"), lost))
    more = [f"{len(found.unclear) - UNCLEAR_MAX} more are not understood"] if len(found.unclear) > UNCLEAR_MAX else []
    more += [f"{s.topic}: {note}" for s in found.streams for note in s.notes]
    if found.unborn:
        more.append(
            f"{len(found.unborn)} Sparkplug devices were not born while they were listened to: listen longer, or have the host "
            "application ask for it (Node Control/Rebirth)"
        )
    return "\n\n".join([*parts, *(["\n".join([*more, *found.notes])] if more or found.notes else [])])


def values(found: Found) -> dict[str, object]:
    """The same for programs."""
    return {
        "broker": found.broker,
        "seconds": found.seconds,
        "messages": found.messages,
        "sources": [
            {"topic": s.topic, "devices": len(s.devices), "readings_per_s": s.per_s, "format": s.payload, "example": s.example,
             "notes": s.notes}
            for s in found.streams
        ],
        "sparkplug": [
            {"groups": sorted({g for g, _, _ in k.devices}), "devices": len(k.devices), "metrics": len(k.metrics)}
            for k in found.sparkplug
        ],
        "not_understood": [{"topic": u.topic, "topics": u.topics, "why": u.why, "example": u.example} for u in found.unclear],
        "unborn": ["/".join(name).rstrip("/") for name in found.unborn],
        "notes": found.notes,
    }  # fmt: skip
