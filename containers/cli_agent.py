"""`pipeline publish`: what sites that pull should run; `pipeline agent`: the agents at such sites."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from containers import bases
from containers.agent.enrol import Enrolment, note_key
from containers.agent.publish import Published, Publisher
from containers.agent.report import registry_of
from containers.cli_deploy import plans_of
from containers.cli_keys import key_options, keys_of
from containers.cli_shared import Context, Duration, lock_timeout, shared
from containers.cli_site import operator_of
from containers.console import Console, table
from containers.deploy import Operator
from containers.desired import layer_store
from containers.engine import Engine
from containers.fleet.tables import listed
from containers.images import Base
from containers.site import SiteFile
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError

GOOD_FOR = "90d"
LOCAL_ENGINE = "unix:///var/run/docker.sock"
DAY_S = 86_400


@click.command()
@click.option("--good-for", type=Duration(), default=GOOD_FOR, show_default=True,
              help="After that sites do not begin with it any more; what runs goes on.")  # fmt: skip
@click.option("--engine", default=LOCAL_ENGINE, show_default=True,
              help="An engine that has the base image, if the cache here has not.")  # fmt: skip
@key_options
@click.pass_obj
def publish(
    context: Context, good_for: float, engine: str,
    folder: Path, extra: tuple[Path, ...], passphrase: str,
) -> None:  # fmt: skip
    """Put what sites should run into their repository, signed; their agents fetch it within a minute or so.

    For sites with [agent] in their files. Images are pushed once for all of them, secrets are sealed so that the site alone can
    read them. Publishing again, also the same, is a new release: a site tries again what failed there before.

    \b
    Examples:
      pipeline publish --group eu --passphrase file:/run/secrets/keys
      pipeline publish --site hall1 --good-for 30d
      pipeline status --group eu --watch                     how far they are
    """
    sites = _pulling(context.sites())
    keys = keys_of(folder, extra, passphrase)
    signers, roots, plans = keys.release_signers(), keys.roots(), plans_of(sites)
    days, made = max(1, int(good_for // DAY_S)), list[Published]()
    publishers: dict[str, Publisher] = {}
    with ExitStack() as opened, context.console.working(f"publishing for {len(sites):,} sites") as working:
        for site in sites:
            working(site.site.site)
            where = site.site.agent.push or site.site.agent.repository
            if where not in publishers:
                repo = opened.enter_context(registry_of(site))
                publishers[where] = Publisher(repo, signers, roots, layer_store(), SystemClock(), days)
            base = _base(site, engine, context.console)
            made.append(publishers[where].publish(site, plans[site.pipeline], base))
    rows = [[p.site, str(p.version), p.what, ", ".join(p.services)] for p in made]
    value = [{"site": p.site, "release": p.version, "pipeline": p.what, "services": p.services} for p in made]
    context.console.data(table(["SITE", "RELEASE", "PIPELINE", "SERVICES"], rows), {"published": value})


def _base(site: SiteFile, engine: str, console: Console) -> Base:
    """The base image with its layers: from the cache, else from an engine that need not be the site's."""
    if known := bases.recall(layer_store().folder / bases.FOLDER, site.site.base_image):
        return known
    with ExitStack() as opened:
        at = Engine(engine)
        opened.callback(at.close)
        return Operator(site, at, console).whole_base()


def _pulling(sites: list[SiteFile]) -> list[SiteFile]:
    found = [s for s in sites if s.pulls]
    if not found:
        names = listed(s.site.site for s in sites)
        raise ConfigError(
            f"{names}: no agent there pulls anything: bring them up to date with  pipeline deploy , or name a repository as "
            "agent.repository in their files and enrol them"
        )
    return found


@click.group()
def agent() -> None:
    """Agents: a site's own program that pulls what was published for it, where nobody gets at its engine from outside."""


@agent.command()
@click.option("--reset", is_flag=True, help="With new keys and nothing remembered, if what it kept was lost.")
@lock_timeout
@key_options
@click.pass_obj
def enrol(
    context: Context, reset: bool, lock_timeout: float, folder: Path, extra: tuple[Path, ...], passphrase: str
) -> None:
    """Set a site's agent up, over its engine: from a bench where the engine can be reached, or at the site itself.

    The site makes its keys and tells the public halves, which are written into the site's file; secrets are sealed for them.
    Doing it again exchanges the agent for the version here and leaves its keys and what it remembers.

    \b
    Examples:
      pipeline agent enrol --site hall1
      pipeline agent enrol --site hall1.toml --reset
    """
    (site,) = _pulling([context.site()])
    root = keys_of(folder, extra, passphrase).roots()[-1]
    with operator_of(site, context.console) as operator, operator.alone("given an agent", wait_s=lock_timeout):
        public = Enrolment(operator, root).carry_out(reset=reset)
    noted = note_key(site, public, replace=reset)
    text = f"{operator.name}: its agent is at work, key {public}" + (f", noted in {site.path}" if noted else "")
    context.console.data(text, {"site": operator.name, "key": public, "noted": noted})


@agent.command()
@lock_timeout
@shared
@click.pass_obj
def remove(context: Context, lock_timeout: float) -> None:
    """Take a site's agent away, with its keys; the services go on running, and are pushed to from now on.

    \b
    Example:
      pipeline agent remove --site hall1
    """
    site = context.site()
    with operator_of(site, context.console) as operator, operator.alone("rid of its agent", wait_s=lock_timeout):
        operator.remove_agent()
    context.console.data(
        f"{operator.name}: has no agent any more; take [agent] out of {site.path}",
        {"site": operator.name, "result": "removed"},
    )
