"""The commands that speak with a site's engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from containers import rollout, show_plan
from containers.cli_shared import INTERRUPTED, Context, Duration, shared
from containers.console import coloured, table
from containers.deploy import Operator
from containers.engine import Engine
from containers.rollout import Container
from containers.walk import Progress, Rollout
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, SitestreamError
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.units import duration_s

CHANGES = 2


_health_timeout = click.option(
    "--health-timeout", type=Duration(), help="For each service to become healthy [rollout.health_timeout: 120s]."
)


@contextmanager
def _operator(context: Context) -> Iterator[Operator]:
    site = context.site()
    engine = Engine(site.site.engine, site.site.engine_tls, site.path.parent)
    try:
        yield Operator(site, engine, context.console)
    finally:
        engine.close()


def _plan_of(operator: Operator) -> Plan:
    return load(operator.site.pipeline).plan()


@click.command()
@shared
@click.pass_obj
def build(context: Context) -> None:
    """Build the images of a site's services on its engine, and leave what runs alone.

    Needs the package index the first time only. `deploy` builds what is missing by itself.

    \b
    Example:
      pipeline build --site hall1.toml
    """
    with _operator(context) as operator, context.console.working("building images"):
        made = operator.build(_plan_of(operator))
    text = table(["SERVICE", "IMAGE"], [[d.service, d.image.tag] for d in made])
    context.console.data(text, {"images": {d.service: d.image.tag for d in made}})


@click.command()
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if something would change.")
@shared
@click.pass_obj
def plan(context: Context, detailed_exitcode: bool) -> int:
    """Show what a deploy would change, and why. Changes nothing.

    \b
    Examples:
      pipeline plan --site hall1.toml
      pipeline plan --site hall1.toml --detailed-exitcode    0 no change, 2 changes
    """
    with _operator(context) as operator:
        todo = operator.plan(_plan_of(operator))
        context.console.data(show_plan.text(operator.name, todo), show_plan.value(operator.name, todo))
    return CHANGES if detailed_exitcode and todo.needed else 0


@click.command()
@_health_timeout
@click.option(
    "--soak", type=Duration(), help="For how long all that is new must stay well before it counts [rollout.soak]."
)
@click.option("--no-rollback", is_flag=True, help="Leave a version that failed as it is, to look at it.")
@shared
@click.pass_obj
def deploy(context: Context, health_timeout: float | None, soak: float | None, no_rollback: bool) -> int:
    """Bring a site to what its pipeline file and site file say.

    Builds and ships while everything runs, then replaces the services that changed one by one. Each has to pass its gate: it is
    up and healthy, takes in its input, and does not dead-letter what the version before could use. With --soak all of them
    must stay so for a while. If one fails, all that were replaced go back: exit code 3 (4 if that fails, too). The other
    services are not touched.

    \b
    Examples:
      pipeline deploy --site hall1.toml
      pipeline deploy --site hall1.toml --soak 10m
      pipeline deploy --site hall1.toml --health-timeout 5m
    """
    with _operator(context) as operator:
        pipeline = _plan_of(operator)
        rules = operator.site.site.rollout
        timeout_s = duration_s(rules.health_timeout) if health_timeout is None else health_timeout
        soak_s = duration_s(rules.soak) if soak is None else soak
        working = context.console.working(f"deploying {pipeline.pipeline} to {operator.name}")
        with working as progress, operator.alone():
            todo = operator.deploy(pipeline, timeout_s=timeout_s, roll_back=not no_rollback, soak_s=soak_s)
            code = _carry_out(context, operator, todo, progress)
            if code == 0:
                operator.revoke(pipeline)
            return code


@click.command()
@click.argument("revision", type=int, required=False)
@_health_timeout
@shared
@click.pass_obj
def rollback(context: Context, revision: int | None, health_timeout: float | None) -> int:
    """Go back to an earlier revision: the one before the present, or REVISION.

    Its containers, images, settings and secrets are still on the engine, so nothing is built or shipped.

    \b
    Examples:
      pipeline rollback --site hall1.toml
      pipeline rollback 7 --site hall1.toml
    """
    with _operator(context) as operator:
        timeout_s = duration_s(operator.site.site.rollout.health_timeout) if health_timeout is None else health_timeout
        with context.console.working(f"rolling {operator.name} back") as progress, operator.alone():
            return _carry_out(context, operator, operator.roll_back(revision, timeout_s=timeout_s), progress)


def _carry_out(context: Context, operator: Operator, todo: Rollout | None, progress: Progress) -> int:
    name = operator.name
    if todo is None:
        revision = operator.engine.actual(name).revision
        context.console.data(
            f"{name}: no change, revision {revision}", {"site": name, "result": "no change", "revision": revision}
        )
        return 0
    todo.progress = progress
    state = todo.run()
    if state != "broken":
        operator.prune()
    revision = operator.engine.actual(name).revision
    swapped = [s.service for s in todo.swaps]
    text = f"{name}: {state}, revision {revision}" + (f" ({', '.join(swapped)})" if swapped else "")
    context.console.data(text, {"site": name, "result": state, "revision": revision, "services": swapped})
    return INTERRUPTED if todo.interrupted else rollout.EXIT_CODES[state]


@click.command()
@shared
@click.pass_obj
def status(context: Context) -> None:
    """Show the services of a site.

    \b
    Examples:
      pipeline status --site hall1.toml
      pipeline status --site hall1.toml -o json | jq '.services[].health'
    """
    with _operator(context) as operator:
        actual = operator.engine.actual(operator.name)
        name = operator.name
    now = list(actual.current.values())
    lines = [f"site {name}, revision {actual.revision}" if now else f"site {name}: nothing is deployed"]
    if now:
        head = ["SERVICE", "STATE", "HEALTH", "RESTARTS", "SINCE", "IMAGE", "METRICS"]
        lines += ["", table(head, [_row(c) for c in now])]
    broken_off = bool(rollout.repair(actual))
    if broken_off:
        lines += ["", "A deploy was broken off, or somebody stopped a container: deploy again to mend it."]
    value = {"site": name, "revision": actual.revision, "services": [_facts(c) for c in now], "broken_off": broken_off}
    context.console.data("\n".join(lines), value)


def _row(c: Container) -> list[str]:
    health = coloured(c.health, "green" if c.health == "healthy" else "red" if c.health == "unhealthy" else "yellow")
    state = c.state if c.state == "running" else coloured(c.state, "red")
    return [
        c.service,
        state,
        health if c.state == "running" else "-",
        str(c.restarts),
        c.started_at[:19] + "Z",
        c.image,
        c.address or "-",
    ]


def _facts(c: Container) -> dict[str, object]:
    return {
        "service": c.service, "state": c.state, "health": c.health, "restarts": c.restarts, "since": c.started_at,
        "image": c.image, "revision": c.revision, "pipeline": c.pipeline, "container": c.name, "id": c.id,
        "metrics": f"http://{c.address}/metrics" if c.address else None,
    }  # fmt: skip


@click.command()
@click.argument("services", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--tail", "lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many lines back."
)
@click.option("--since", type=Duration(), help="Only what is newer, such as 10m.")
@shared
@click.pass_obj
def logs(context: Context, services: tuple[str, ...], follow: bool, lines: int, since: float | None) -> None:
    """Show what the services of a site wrote: all of them, or SERVICES.

    \b
    Examples:
      pipeline logs --site hall1.toml
      pipeline logs -f process upload --site hall1.toml
    """
    with _operator(context) as operator:
        current = operator.engine.actual(operator.name).current
        if unknown := [s for s in services if s not in current]:
            raise ConfigError(
                f"site {operator.name} runs no {', '.join(unknown)}; it runs {', '.join(current) or 'nothing'}"
            )
        chosen = [c for s, c in current.items() if not services or s in services]
        width = max((len(c.service) for c in chosen), default=0)
        since_ns = None if since is None else SystemClock().now_ns() - int(since * 1e9)
        since_s = None if since_ns is None else since_ns // 10**9
        if follow:
            _follow(operator.engine, chosen, lines, width)
        for c in [] if follow else chosen:
            for line in operator.engine.logs(c.name, lines, since_s=since_s).splitlines():
                click.echo(f"{c.service:{width}} | {line}")


def _follow(engine: Engine, chosen: list[Container], lines: int, width: int) -> None:
    """One thread for each container feeds one queue; ends when all have ended."""
    arriving: queue.Queue[tuple[str, str | None]] = queue.Queue(maxsize=1000)

    def read(c: Container) -> None:
        try:
            for line in engine.follow(c.name, lines):
                arriving.put((c.service, line))
        except SitestreamError as e:
            arriving.put((c.service, f"({e})"))
        arriving.put((c.service, None))

    for c in chosen:
        threading.Thread(target=read, args=(c,), daemon=True).start()
    open_ends = len(chosen)
    while open_ends:
        service, line = arriving.get()
        open_ends -= line is None
        if line is not None:
            click.echo(f"{service:{width}} | {line}")


@click.command()
@click.option(
    "--keep-data", is_flag=True, help="Leave the volumes with what services keep, such as files not yet uploaded."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@shared
@click.pass_obj
def destroy(context: Context, keep_data: bool, yes: bool) -> None:
    """Remove a site from its engine: containers, networks, images, settings, and its data.

    Kafka's topics and the object store are not touched.

    \b
    Examples:
      pipeline destroy --site hall1.toml
      pipeline destroy --site hall1.toml --keep-data -y
    """
    with _operator(context) as operator:
        what = "but its data" if keep_data else "and its data, such as files not yet uploaded,"
        if not yes:
            click.confirm(
                f"Remove all of site {operator.name} {what} from {operator.engine.url}?", abort=True, err=True
            )
        with operator.alone():
            operator.destroy(keep_data=keep_data)
        context.console.data(
            f"{operator.name}: destroyed", {"site": operator.name, "result": "destroyed", "data_kept": keep_data}
        )
