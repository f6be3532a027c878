"""What the agent's container may do: as little as any service's, and the engine's socket, which is everything.

Whoever has the socket is root on the machine. So this is the smallest of all containers: no port, no device network, no bus, no
shell, no code that computes; and it does nothing but what a signed document says.
"""

from __future__ import annotations

import json
from pathlib import Path

from containers import names
from containers.agent.config import SOCKET, Frame
from containers.commands import CreateContainer
from containers.profiles import CONFIG_DIR, DATA_DIR, Limits, Mount, Profile, container_config

AGENT = Profile("agent", "containers.agent", ("wan",), "256MiB", keeps=True, extras=("agent",), cpus=1.0)
ALIVE_FILE = Path("/tmp/alive")  # noqa: S108 - the container's own
ALIVE_S_MAX = 1800  # since it last got on: longer than the longest pause, or the fetch of a layer over a slow link
_PROBE = f"import os,sys\nfrom time import time as now\nsys.exit(now()-os.stat('{ALIVE_FILE}').st_mtime>{ALIVE_S_MAX})"


NEXT = "next"  # what the container of an agent is called, after the site's, that has not proved itself yet
TOKEN_VARIABLE = "SITESTREAM_AGENT"  # noqa: S105 - by which a process knows its container; no secret


def container(site: str, tags: tuple[str, ...], frame: Frame, token: str, what: str = "") -> CreateContainer:
    """The agent's container, or with `what` another of that name. `tags`: of its image and those under it, lowest first;
    `token`: that no other container has."""
    labels = {names.AGENT: site, names.AGENT_TOKEN: token, names.IMAGES: json.dumps(tags[::-1])}
    mounts = (
        Mount(frame.volume, CONFIG_DIR, read_only=True),
        Mount(names.agent(site, "data"), DATA_DIR, read_only=False),
        Mount(frame.socket, SOCKET, read_only=True),  # the file, that is: what is said through it is not restricted
    )
    limits = Limits(frame.memory_bytes, AGENT.cpus)
    config = container_config(
        AGENT, tags[-1], networks=(frame.network,), hosts={}, mounts=mounts, limits=limits, labels=labels
    )
    config["Env"] = [f"XDG_CACHE_HOME={DATA_DIR}", f"{TOKEN_VARIABLE}={token}"]
    config["Healthcheck"] |= {"Test": ["CMD", "python3", "-I", "-S", "-c", _PROBE]}
    config["HostConfig"] |= {"GroupAdd": [str(frame.group)]}
    return CreateContainer(names.agent(site, what), config, ())
