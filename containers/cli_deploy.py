"""The commands that change what runs at sites: one site file that stands alone, or the sites of a fleet as a rollout."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from containers import cli_rollout, rollout, saved_plan, show_plan
from containers.agent.planned import planned
from containers.agent.report import registry_of
from containers.cli_attempt import Change, attempt_of, change_of, plans_of, pulled, release_of
from containers.cli_means import Bases, Means, Press, engine_option, means_options
from containers.cli_rollout import policy_options
from containers.cli_shared import INTERRUPTED, Context, Duration, lock_timeout, shared, stands_alone
from containers.cli_site import operator_of
from containers.console import Console
from containers.deploy import Operator
from containers.deployer import Deployment
from containers.fleet.events import Kind, Outcome
from containers.fleet.parallel import each
from containers.fleet.policy import Policy
from containers.fleet.select import in_turn
from containers.fleet.tables import listed
from containers.saved_plan import SavedPlan
from containers.site import SiteFile
from containers.walk import Progress, Rollout
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError, SitestreamError, Unavailable

CHANGES = 2
_CODES: Mapping[Kind, int] = {"done": 0, "unchanged": 0, "failed": 3, "broken": 4, "offline": 5}

health_timeout_option = click.option(
    "--health-timeout", type=Duration(), help="For each service to become healthy [rollout.health_timeout: 120s]."
)


@click.command()
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if something would change.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Save it, for  pipeline deploy --plan FILE."
)
@click.option("--timeout", type=Duration(), default="60s", show_default=True, help="For each site to answer.")
@engine_option
@shared
@click.pass_obj
def plan(context: Context, detailed_exitcode: bool, out: Path | None, timeout: float, engine: str) -> int:
    """Show what a deploy would change, and why. Changes nothing.

    Sites are read at the same time: their engines, or, where an agent pulls, its last report. One that is offline or silent is
    shown as such; exit code 1 if none can be read.

    \b
    Examples:
      pipeline plan --site hall1.toml
      pipeline plan --site hall1.toml --detailed-exitcode    0 no change, 2 changes
      pipeline plan --group eu --out eu.plan                 then: pipeline deploy --group eu --plan eu.plan
    """
    sites = context.sites()
    plans = plans_of(sites)
    bases = Bases(engine, context.console)
    for site in sites:
        if site.pulls:  # those that are pushed to have it on their engines
            bases.of(site)

    def read(site: SiteFile) -> Deployment:
        if site.pulls:
            with registry_of(site) as repo:
                return planned(repo, site, plans[site.pipeline], bases.of(site), SystemClock())
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
@click.option("--plan", "planned_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Only what a saved plan says; sites that have changed since are refused.")  # fmt: skip
@policy_options
@means_options
@click.pass_obj
def deploy(
    context: Context, health_timeout: float | None, lock_timeout: float, soak: float | None, no_rollback: bool,
    planned_file: Path | None, policy: Policy, wait_s: float, means: Means,
) -> int:  # fmt: skip
    """Bring sites to what their pipeline files and site files say.

    Builds and ships while everything runs, then replaces the services that changed one by one. Each has to pass its gate: it is
    up and healthy, takes in its input, and does not dead-letter what the version before could use. With --soak all of them
    must stay so for a while. If one fails, all that were replaced go back: exit code 3 (4 if that fails, too). The other
    services are not touched.

    The sites of a fleet are brought up to date at the same time, or in waves. One that fails holds up nobody until there are
    more than --max-failures. Those that are offline stay pending: exit code 5, and `pipeline rollout resume` tries them again.

    Sites with [agent] in their files are part of it: what they should run is published, signed with the keys of the fleet, and
    what their agents report tells how it went.

    \b
    Examples:
      pipeline deploy --site hall1.toml
      pipeline deploy --site hall1.toml --lock-timeout 2m    wait for a colleague's deploy to end
      pipeline deploy --group eu --canary 2 --waves 10%,50%,100% --max-failures 3
      pipeline deploy --wait 8h                              the whole fleet, and try those that are offline for so long
      pipeline deploy --passphrase file:/run/secrets/keys    where sites pull, and the keys are locked
    """
    sites = context.sites()
    given = {"health_timeout": health_timeout, "soak": soak, "lock_timeout": lock_timeout}
    options = {name: str(value) for name, value in given.items() if value is not None}
    options |= {"no_rollback": "yes"} if no_rollback else {}
    if planned_file:
        expected = saved_plan.load(planned_file)
        sites = [s for s in sites if s.site.site in expected.sites]
        if not sites:
            raise ConfigError(f"{planned_file}: no site in this plan is among those chosen")
        options["plan"] = str(planned_file.absolute())
    if no_rollback and (pull := [s.site.site for s in sites if s.pulls]):
        raise ConfigError(
            f"--no-rollback: {listed(pull)}: an agent there pulls, and goes back by itself: leave it out, or choose other sites"
        )
    return _carried_out(context, sites, options, means, policy, wait_s)


@click.command()
@click.argument("revision", type=int, required=False)
@health_timeout_option
@lock_timeout
@policy_options
@means_options
@click.pass_obj
def rollback(
    context: Context,
    revision: int | None,
    health_timeout: float | None,
    lock_timeout: float,
    policy: Policy,
    wait_s: float,
    means: Means,
) -> int:
    """Go back to an earlier revision: the one before the present, or REVISION of a single site.

    Its containers, images, settings and secrets are still on the engine, so nothing is built or shipped.

    For a site that pulls, what ran before the release that is published now is published again, under a new number; REVISION is
    the number of a release of it.

    \b
    Examples:
      pipeline rollback --site hall1.toml
      pipeline rollback 7 --site hall1.toml
      pipeline rollback --group eu                           each of these sites to the revision before its present one
    """
    sites = context.sites()
    if revision is not None and len(sites) > 1:
        raise ConfigError(f"revision {revision} is of one site, and {len(sites):,} are chosen: name it with --site")
    options = {"action": "rollback", "lock_timeout": str(lock_timeout)}
    options |= {"health_timeout": str(health_timeout)} if health_timeout is not None else {}
    options |= {"revision": str(revision)} if revision is not None else {}
    return _carried_out(context, sites, options, means, policy, wait_s)


def _carried_out(
    context: Context, sites: Sequence[SiteFile], options: dict[str, str], means: Means, policy: Policy, wait_s: float
) -> int:
    """Do it at all sites, as a rollout unless it is a site file that stands alone; the exit code."""
    back, press = options.get("action") == "rollback", None
    if pull := [s for s in sites if s.pulls]:
        press = Press(means, context.console)
        press.check(pull, builds=not back)
        options |= means.options()
    if not stands_alone(sites):
        return cli_rollout.begin(
            context, partial(attempt_of, press=press), release="the revision before" if back else release_of(sites),
            sites=[s.site.site for s in in_turn(sites)], policy=policy, wait_s=wait_s, options=options,
        )  # fmt: skip
    change = change_of(options, sites)
    if press:
        return _alone_pulled(context, sites[0], change, press)
    return _alone(context, sites[0], change, float(options["lock_timeout"]))


def _alone_pulled(context: Context, site: SiteFile, change: Change, press: Press) -> int:
    """A site file that is no part of a fleet, and whose agent pulls."""
    name = site.site.site
    attempt = pulled(change, press, {name: site}, secrets.token_hex(8), lambda: True)
    with context.console.working(f"{name} is being {change.purpose}") as working:
        try:
            outcome = attempt(name, working)
        except Unavailable as e:
            outcome = Outcome("offline", str(e))
    why = f": {outcome.message}" if outcome.message else ""
    state = "pending" if outcome.kind == "offline" else outcome.kind
    value = {"site": name, "result": state, "revision": outcome.revision, "why": outcome.message}
    context.console.data(f"{name}: {state}, revision {outcome.revision}{why}", value)
    return _CODES[outcome.kind]


def _alone(context: Context, site: SiteFile, change: Change, lock_timeout_s: float) -> int:
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
