"""Who we are to a registry: credentials from the environment or Docker's configuration, and what a challenge asks for."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError

USER_VARIABLE, PASSWORD_VARIABLE = "SITESTREAM_REGISTRY_USER", "SITESTREAM_REGISTRY_PASSWORD"
HELPER_TIMEOUT_S = 30
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Credentials:
    """A user and the password or token."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """As HTTP's basic authentication wants it."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """What a registry answers to those whom it does not know yet."""

    scheme: str  # 'basic' or 'bearer'
    parameters: Mapping[str, str]


def challenge(header: str) -> Challenge:
    """Read a WWW-Authenticate header."""
    scheme, _, rest = header.partition(" ")
    return Challenge(scheme.lower(), dict(_PARAMETER.findall(rest)))


def find_credentials(host: str, environment: Mapping[str, str] | None = None) -> Credentials | None:
    """Credentials for a registry: those of the environment, else those that `docker login` keeps; None: there are none.

    `ConfigError` if what is there cannot be used.
    """
    env = os.environ if environment is None else environment
    user, password = env.get(USER_VARIABLE, ""), env.get(PASSWORD_VARIABLE, "")
    if bool(user) != bool(password):
        raise ConfigError(f"only one of {USER_VARIABLE} and {PASSWORD_VARIABLE} is set: set both, or none")
    if user:
        return Credentials(user, password)
    folder = Path(env.get("DOCKER_CONFIG") or Path(env.get("HOME", "/"), ".docker"))
    return _of_docker(folder / "config.json", host)


def _of_docker(path: Path, host: str) -> Credentials | None:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
        entries: dict[str, dict[str, str]] = config.get("auths", {})
        found = next((entries[key] for key in (host, f"https://{host}", f"http://{host}") if key in entries), {})
        if helper:
            return _ask_helper(helper, host)
        if not found.get("auth"):
            return None
        user, _, password = base64.b64decode(found["auth"], validate=True).decode().partition(":")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, binascii.Error) as e:
        raise ConfigError(
            f"{path} cannot be read ({e}): mend it with  docker login {host} , or set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        ) from e
    return Credentials(user, password)


def _ask_helper(helper: str, host: str) -> Credentials | None:
    """Ask one of Docker's credential helpers."""
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, "get"], input=host.encode(), capture_output=True, timeout=HELPER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigError(
            f"{program}, which Docker's configuration names for {host}, cannot be run ({e}): install it, or set {USER_VARIABLE} "
            f"and {PASSWORD_VARIABLE}"
        ) from e
    if answer.returncode:
        return None  # it has none for this host
    said = json.loads(answer.stdout)
    if said["Username"] == "<token>":
        raise ConfigError(
            f"{program} keeps an identity token for {host}, which is not supported: set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    return Credentials(said["Username"], said["Secret"])
