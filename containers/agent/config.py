"""What an agent is told when it is set up."""

from __future__ import annotations

from pathlib import Path

import msgspec

from containers.agent.disk import Disk
from containers.profiles import CONFIG_DIR, DATA_DIR, SECRETS_FOLDER, SETTINGS_FILE
from containers.repository.auth import Credentials
from containers.repository.registry import Registry
from containers.repository.trust import TrustStore
from pipelines.errors import ConfigError
from pipelines.settings import decode_strict

ROOT_FILE, CA_FILE = "root.json", "ca.pem"
USER_FILE, PASSWORD_FILE = f"{SECRETS_FOLDER}/registry_user", f"{SECRETS_FOLDER}/registry_password"
SOCKET = "/run/docker.sock"  # of the engine, in the agent's container
TRUST = "trust"


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the site's machine lends to an agent's container, so that an agent can make that of the next."""

    network: str  # that leads to the repository
    volume: str  # with these settings
    socket: str  # of the engine, a path on the machine
    group: int  # that may use it
    memory_bytes: int


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of an agent."""

    site: str
    repository: str
    poll_s: float
    plain: bool = False
    engine: str = f"unix://{SOCKET}"
    data: str = DATA_DIR
    frame: Frame | None = None  # without it the agent is exchanged by hand only


def load(path: Path = Path(CONFIG_DIR, SETTINGS_FILE)) -> Config:
    """Read them; `ConfigError`."""
    try:
        return decode_strict(path.read_bytes(), Config, str(path), fmt="json")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}): set the agent up with  pipeline agent enrol") from e


def set_up(config: Config, disk: Disk, folder: Path) -> TrustStore:
    """The trust store; at the very first start it is made from the root that came by hand, and so are the site's keys.

    A store that is lost later is not made anew by itself: it would forget what was seen, and an old release could come back.
    """
    trusted = TrustStore(Path(config.data, TRUST))
    if not disk.enrolled:
        try:
            trusted.init((folder / ROOT_FILE).read_bytes())
        except OSError as e:
            raise ConfigError(f"{folder / ROOT_FILE} cannot be read ({e.strerror}): enrol the site again") from e
        except ConfigError:  # it is whole already: we were stopped between the two
            assert trusted.state
        disk.enrol()
    return trusted


def registry(config: Config, folder: Path) -> Registry:
    """The repository that it asks."""
    ca, user = folder / CA_FILE, folder / USER_FILE
    credentials = None
    if user.exists():
        password = (folder / PASSWORD_FILE).read_text().strip()
        credentials = Credentials(user.read_text().strip(), password)
    return Registry(config.repository, credentials=credentials, ca=ca if ca.exists() else None, plain=config.plain)
