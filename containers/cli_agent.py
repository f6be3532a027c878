"""`pipeline agent`: the agents at sites that pull."""

from __future__ import annotations

from pathlib import Path

import click

from containers.agent.enrol import Enrolment, note_key
from containers.cli_keys import key_options, keys_of
from containers.cli_means import pulling
from containers.cli_shared import Context, lock_timeout, shared
from containers.cli_site import operator_of


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
    (site,) = pulling([context.site()])
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
