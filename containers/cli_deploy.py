"""The commands that change what runs at sites: one site file that stands alone, or the sites of a fleet as a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from containers import cli_rollout, rollout, saved_plan, show_plan
from containers.cli_rollout import policy_options
from containers.cli_shared import INTERRUPTED, Context, Duration, lock_timeout, pushed, shared, stands_alone
from containers.cli_site import operator_of
from containers.console import Console
from containers.deploy import Operator
from containers.deployer import Deployment
from containers.fleet.attempt import Begin, SiteAttempt
from containers.fleet.drive import Attempt
from containers.fleet.folder import load_fleet
from containers.fleet.journal import FOLDER, Journal
from containers.fleet.parallel import each
from containers.fleet.policy import Policy
from containers.saved_plan import SavedPlan
from containers.site import SiteFile
from containers.walk import Progress, Rollout
from pipelines.errors import ConfigError, SitestreamError
from pipelines.load import load
from pipelines.plan import Plan
from pipelines.units import duration_s

CHANGES = 2
LOGS = "sites"  # in the folder of a rollout: what was reported of each site

health_timeout_option = click.option(
    "--health-timeout", type=Duration(), help="For each service to become healthy [rollout.health_timeout: 120s]."
)


def plans_of(sites: Sequence[SiteFile]) -> dict[str, Plan]:
    """The plan of each pipeline that these sites have, by what the site files call it. Each file is run once."""
    return {name: load(name).plan() for name in dict.fromkeys(s.pipeline for s in sites)}


@click.command()
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if something would change.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Save it, for  pipeline deploy --plan FILE."
)
@click.option("--timeout", type=Duration(), default="60s", show_default=True, help="For each site to answer.")
@shared
@click.pass_obj
def plan(context: Context, detailed_exitcode: bool, out: Path | None, timeout: float) -> int:
    """Show what a deploy would change, and why. Changes nothing.

    Sites are read at the same time. One that is offline is shown as such; exit code 1 if none can be read.

    \b
    Examples:
      pipeline plan --site hall1.toml
      pipeline plan --site hall1.toml --detailed-exitcode    0 no change, 2 changes
      pipeline plan --group eu --out eu.plan                 then: pipeline deploy --group eu --plan eu.plan
    """
    sites = pushed(context, context.sites())
    plans = plans_of(sites)

    def read(site: SiteFile) -> Deployment:
        with operator_of(site, context.console) as operator:
            return operator.plan(plans[site.pipeline])

    with context.console.working(f"reading {len(sites):,} sites"):
        found = each(sites, read, timeout_s=timeout)
    named = {s.site.site: reading for s, reading in zip(sites, found, strict=True)}
    seen = {name: todo for name, todo in named.items() if isinstance(todo, Deployment)}
    if stands_alone(sites):
        _show_one(context.console, named)
    else:
        context.console.data(show_plan.fleet_text(named), show_plan.fleet_value(named))
    if out:
        SavedPlan({name: saved_plan.expected(todo) for name, todo in seen.items()}).save(out)
    if not seen:
        return 1
    return CHANGES if detailed_exitcode and any(todo.needed for todo in seen.values()) else 0


def _show_one(console: Console, named: Mapping[str, Deployment | SitestreamError]) -> None:
    ((name, todo),) = named.items()
    if isinstance(todo, SitestreamError):
        raise todo
    console.data(show_plan.text(name, todo), show_plan.value(name, todo))


@click.command()
@health_timeout_option
@lock_timeout
@click.option(
    "--soak", type=Duration(), help="For how long all that is new must stay well before it counts [rollout.soak]."
)
@click.option("--no-rollback", is_flag=True, help="Leave a version that failed as it is, to look at it.")
@click.option("--plan", "planned", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Only what a saved plan says; sites that have changed since are refused.")  # fmt: skip
@policy_options
@shared
@click.pass_obj
def deploy(
    context: Context, health_timeout: float | None, lock_timeout: float, soak: float | None, no_rollback: bool,
    planned: Path | None, policy: Policy, wait_s: float,
) -> int:  # fmt: skip
    """Bring sites to what their pipeline files and site files say.

    Builds and ships while everything runs, then replaces the services that changed one by one. Each has to pass its gate: it is
    up and healthy, takes in its input, and does not dead-letter what the version before could use. With --soak all of them
    must stay so for a while. If one fails, all that were replaced go back: exit code 3 (4 if that fails, too). The other
    services are not touched.

    The sites of a fleet are brought up to date at the same time, or in waves. One that fails holds up nobody until there are
    more than --max-failures. Those that are offline stay pending: exit code 5, and `pipeline rollout resume` tries them again.

    \b
    Examples:
      pipeline deploy --site hall1.toml
      pipeline deploy --site hall1.toml --lock-timeout 2m    wait for a colleague's deploy to end
      pipeline deploy --group eu --canary 2 --waves 10%,50%,100% --max-failures 3
      pipeline deploy --wait 8h                              the whole fleet, and try those that are offline for so long
    """
    sites = pushed(context, context.sites())
    given = {"health_timeout": health_timeout, "soak": soak, "lock_timeout": lock_timeout}
    options = {name: str(value) for name, value in given.items() if value is not None}
    options |= {"no_rollback": "yes"} if no_rollback else {}
    if planned:
        expected = saved_plan.load(planned)
        sites = [s for s in sites if s.site.site in expected.sites]
        if not sites:
            raise ConfigError(f"{planned}: no site in this plan is among those chosen")
        options["plan"] = str(planned.absolute())
    if stands_alone(sites):
        return _alone(context, sites[0], _change(options, sites), lock_timeout)
    release = ", ".join(sorted({f"{p.pipeline} {p.fingerprint}" for p in plans_of(sites).values()}))
    return _begin(context, sites, release, policy, wait_s, options)


@click.command()
@click.argument("revision", type=int, required=False)
@health_timeout_option
@lock_timeout
@policy_options
@shared
@click.pass_obj
def rollback(
    context: Context,
    revision: int | None,
    health_timeout: float | None,
    lock_timeout: float,
    policy: Policy,
    wait_s: float,
) -> int:
    """Go back to an earlier revision: the one before the present, or REVISION of a single site.

    Its containers, images, settings and secrets are still on the engine, so nothing is built or shipped.

    \b
    Examples:
      pipeline rollback --site hall1.toml
      pipeline rollback 7 --site hall1.toml
      pipeline rollback --group eu                           each of these sites to the revision before its present one
    """
    sites = pushed(context, context.sites())
    if revision is not None and len(sites) > 1:
        raise ConfigError(f"revision {revision} is of one site, and {len(sites):,} are chosen: name it with --site")
    options = {"action": "rollback", "lock_timeout": str(lock_timeout)}
    options |= {"health_timeout": str(health_timeout)} if health_timeout is not None else {}
    options |= {"revision": str(revision)} if revision is not None else {}
    if stands_alone(sites):
        return _alone(context, sites[0], _change(options, sites), lock_timeout)
    return _begin(context, sites, "the revision before", policy, wait_s, options)


@dataclass(frozen=True)
class _Change:
    """What is to be done to sites."""

    purpose: str
    begin: Begin
    finish: Callable[[Operator], None] = lambda _: None


def _change(options: Mapping[str, str], sites: Sequence[SiteFile], mark: str = "") -> _Change:
    """`mark` is the same whenever a rollout is taken up, so that no site goes back twice."""

    def timeout_s(operator: Operator) -> float:
        return _seconds(options, "health_timeout", operator.site.site.rollout.health_timeout)

    if options.get("action") == "rollback":
        revision = int(options["revision"]) if "revision" in options else None

        def back(operator: Operator) -> Rollout | None:
            return operator.roll_back(revision, timeout_s=timeout_s(operator), mark=mark)

        return _Change("rolled back", back)
    plans, saved = plans_of(sites), options.get("plan")
    expected = saved_plan.load(Path(saved)).sites if saved else {}

    def begin(operator: Operator) -> Rollout | None:
        return operator.deploy(
            plans[operator.site.pipeline], timeout_s=timeout_s(operator), roll_back="no_rollback" not in options,
            soak_s=_seconds(options, "soak", operator.site.site.rollout.soak), as_planned=expected.get(operator.name),
        )  # fmt: skip

    return _Change("deployed", begin, lambda operator: operator.revoke(plans[operator.site.pipeline]))


def _seconds(options: Mapping[str, str], name: str, of_site: str) -> float:
    """What the command line says, else the site file."""
    return float(options[name]) if name in options else duration_s(of_site)


def _alone(context: Context, site: SiteFile, change: _Change, lock_timeout_s: float) -> int:
    """A site file that is no part of a fleet: no rollout, and all that is reported is shown."""
    name = site.site.site
    working = context.console.working(f"{name} is being {change.purpose}")
    with ExitStack() as stack:
        operator, progress = stack.enter_context(operator_of(site, context.console)), stack.enter_context(working)
        stack.enter_context(operator.alone(change.purpose, wait_s=lock_timeout_s))
        code = _carry_out(context, operator, change.begin(operator), progress)
        if code == 0:
            change.finish(operator)
        return code


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


def _begin(
    context: Context, sites: Sequence[SiteFile], release: str, policy: Policy, wait_s: float, options: dict[str, str]
) -> int:
    names = [s.site.site for s in sites]
    return cli_rollout.begin(
        context, attempt_of, release=release, sites=names, policy=policy, wait_s=wait_s, options=options
    )


@contextmanager
def attempt_of(context: Context, of: Journal) -> Iterator[Attempt]:
    """What brings one site of a rollout up to date, as the files are now."""
    folder, header = cli_rollout.folder(context), of.header
    sites = {s.site.site: s for s in load_fleet(folder).sites if s.site.site in header.sites}
    change = _change(header.options, list(sites.values()), mark=header.id)
    logs = folder / FOLDER / header.id / LOGS
    logs.mkdir(exist_ok=True)
    yield SiteAttempt(sites, change.begin, change.finish, change.purpose, float(header.options["lock_timeout"]), logs)
