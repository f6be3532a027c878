"""`pipeline`: the command of operators. Exit codes: 0 done or no change, 1 error, 2 changes (`plan --detailed-exitcode`),
3 failed and rolled back, 4 failed and not rolled back, 5 sites are pending, 64 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import click

from containers import (
    cli_agent,
    cli_attempt,
    cli_backfill,
    cli_certs,
    cli_deploy,
    cli_device,
    cli_devices,
    cli_doctor,
    cli_firmware,
    cli_fleet,
    cli_history,
    cli_keys,
    cli_kubernetes,
    cli_logs,
    cli_pipeline,
    cli_publish,
    cli_release,
    cli_rollout,
    cli_site,
    cli_twin,
)
from containers.cli_shared import Root, shared
from containers.packages import own_version


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(own_version(), message="%(version)s")
@shared
def main() -> None:
    """Bring pipelines to sites, and see how they are.

    \b
    A first time, from a pipeline file and a site file:
      pipeline check  --site hall1.toml
      pipeline plan   --site hall1.toml
      pipeline deploy --site hall1.toml
      pipeline status --site hall1.toml

    \b
    Many sites, from a fleet folder (docs/fleet.md):
      pipeline sites
      pipeline deploy --group eu --canary 2 --waves 10%,100%
      pipeline rollout status
      pipeline status --site 'plant-*' --group eu --watch
      pipeline doctor --group eu
    """


for command in (
    cli_pipeline.check,
    cli_fleet.sites,
    cli_pipeline.graph,
    cli_backfill.backfill,
    cli_release.build,
    cli_release.load,
    cli_deploy.plan,
    cli_deploy.deploy,
    cli_deploy.rollback,
    cli_publish.publish,
    cli_agent.agent,
    cli_rollout.group(cli_attempt.attempt_of),
    cli_history.command,
    cli_fleet.status,
    cli_logs.logs,
    cli_doctor.doctor,
    cli_site.destroy,
    cli_device.device,
    cli_devices.group,
    cli_certs.certs,
    cli_keys.keys,
    cli_firmware.firmware,
    cli_kubernetes.group,
):
    main.add_command(command)
cli_device.device.add_command(cli_twin.twin)

if __name__ == "__main__":
    main()
