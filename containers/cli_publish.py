"""`pipeline publish`: what sites that pull should run, for all at once or in waves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import click

from containers import cli_rollout
from containers.agent.publish import Published, Publisher
from containers.cli_attempt import attempt_of, plans_of, release_of
from containers.cli_means import Means, Press, means_options, pulling, where
from containers.cli_rollout import policy_options
from containers.cli_shared import Context
from containers.console import table
from containers.fleet.policy import Policy
from containers.site import SiteFile
from pipelines.errors import ConfigError


@click.command()
@policy_options
@means_options
@click.pass_obj
def publish(context: Context, policy: Policy, wait_s: float, means: Means) -> int:
    """Put what sites should run into their repository, signed; their agents fetch it within a minute or so.

    For sites with [agent] in their files; others are left out. Images are pushed once for all of them, secrets are sealed so that
    the site alone can read them. Publishing again, also the same, is a new release: a site tries again what failed there before.

    With --canary or --waves it is the rollout of `pipeline deploy`, for these sites alone: those of a wave are published for, and
    what their agents report decides whether the next wave follows. Exit codes are those of deploy.

    \b
    Examples:
      pipeline publish --group eu --passphrase file:/run/secrets/keys
      pipeline publish --site hall1 --good-for 30d
      pipeline status --group eu --watch                     how far they are
      pipeline publish --canary 2 --waves 10%,100% --max-failures 3 --wave-soak 1h
      pipeline publish --waves 100%                          all at once, and wait for how it goes
    """
    sites = pulling(context.sites())
    if policy.canary or policy.waves:
        return _in_waves(context, sites, means, policy, wait_s)
    if policy != Policy() or wait_s:
        raise ConfigError(
            "--max-parallel, --max-failures, --wave-soak and --wait are for waves, and without these everything is published at "
            "once: add --canary or --waves (--waves 100%: at once, and wait for how it goes)"
        )
    plans, press, made = plans_of(sites), Press(means, context.console), list[Published]()
    with ExitStack() as opened, context.console.working(f"publishing for {len(sites):,} sites") as working:
        publishers: dict[str, Publisher] = {}
        for site in sites:
            working(site.site.site)
            if where(site) not in publishers:
                publishers[where(site)] = opened.enter_context(press.at(site))
            made.append(publishers[where(site)].publish(site, plans[site.pipeline], press.bases.of(site)))
    rows = [[p.site, str(p.version), p.what, p.agent, ", ".join(p.services)] for p in made]
    value = [
        {"site": p.site, "release": p.version, "pipeline": p.what, "agent": p.agent, "services": p.services}
        for p in made
    ]
    context.console.data(table(["SITE", "RELEASE", "PIPELINE", "AGENT", "SERVICES"], rows), {"published": value})
    return 0


def _in_waves(context: Context, sites: Sequence[SiteFile], means: Means, policy: Policy, wait_s: float) -> int:
    if alone := [s for s in sites if s.fleet is None]:
        raise ConfigError(
            f"{alone[0].path} is a site file, which stands alone: --canary and --waves are for the sites of a fleet"
        )
    press, release, options = Press(means, context.console), release_of(sites), means.options()
    press.check(sites)
    return cli_rollout.begin(
        context, partial(attempt_of, press=press), release=release, sites=[s.site.site for s in sites], policy=policy,
        wait_s=wait_s, note=f"published {release}", options=options,
    )  # fmt: skip
