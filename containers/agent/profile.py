"""What the agent's container may do: as little as any service's, and the engine's socket, which is everything.

Whoever has the socket is root on the machine. So this is the smallest of all containers: no port, no device network, no bus, no
shell, no code that computes; and it does nothing but what a signed document says.
"""

from __future__ import annotations

import json
from pathlib import Path

from containers import names
from containers.agent.config import SOCKET
from containers.commands import CreateContainer
from containers.profiles import CONFIG_DIR, DATA_DIR, Limits, Mount, Profile, container_config

AGENT = Profile("agent", "containers.agent", ("wan",), "256MiB", keeps=True, extras=("agent",), cpus=1.0)
ALIVE_FILE = Path("/tmp/alive")  # noqa: S108 - the container's own
ALIVE_S_MAX = 1800  # since it last got on: longer than the longest pause, or the fetch of a layer over a slow link
_PROBE = f"import os,sys\nfrom time import time as now\nsys.exit(now()-os.stat('{ALIVE_FILE}').st_mtime>{ALIVE_S_MAX})"


def container(
    site: str, network: str, tags: tuple[str, ...], config_volume: str, socket: str, group: int, limits: Limits
) -> CreateContainer:
    """The agent's container. `network`: the one that leads to the repository; `tags`: of its image and those under it, lowest
    first; `group`: that may use the `socket`, a path on the site's machine."""
    labels = {names.AGENT: site, names.IMAGES: json.dumps(tags[::-1])}
    mounts = (
        Mount(config_volume, CONFIG_DIR, read_only=True),
        Mount(names.agent(site, "data"), DATA_DIR, read_only=False),
        Mount(socket, SOCKET, read_only=True),  # the file, that is: what is said through it is not restricted
    )
    config = container_config(
        AGENT, tags[-1], networks=(network,), hosts={}, mounts=mounts, limits=limits, labels=labels
    )
    config["Env"] = [f"XDG_CACHE_HOME={DATA_DIR}"]
    config["Healthcheck"] |= {"Test": ["CMD", "python3", "-I", "-S", "-c", _PROBE]}
    config["HostConfig"] |= {"GroupAdd": [str(group)]}
    return CreateContainer(names.agent(site), config, ())
