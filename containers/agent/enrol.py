"""Sets an agent up at a site, once, over its engine: its container, the root that it trusts, keys that it makes itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from containers import names
from containers.agent.config import CA_FILE, PASSWORD_FILE, ROOT_FILE, USER_FILE, Config, Frame
from containers.agent.disk import PUBLIC
from containers.agent.profile import AGENT, container
from containers.agent.publish import agent_images
from containers.commands import (
    CreateNetwork,
    CreateVolume,
    File,
    FillVolume,
    RemoveContainer,
    RemoveVolume,
    StartContainer,
)
from containers.deploy import Operator
from containers.desired import network
from containers.profiles import DATA_DIR, INTERNAL, SETTINGS_FILE, UID
from containers.references import resolve
from containers.site import SiteFile
from pipelines.errors import ConfigError, Unavailable
from pipelines.units import duration_s, size_bytes

DEFAULT_SOCKET = "/var/run/docker.sock"
START_S_MAX = 60.0  # until it has told its key
_SECRET_FILES = {"registry_user": USER_FILE, "registry_password": PASSWORD_FILE}


@dataclass
class Enrolment:
    """The agent of one site is being set up; `root` is the newest of the fleet."""

    operator: Operator
    root: bytes

    @property
    def site(self) -> SiteFile:
        """The site."""
        return self.operator.site

    def carry_out(self, *, reset: bool = False) -> str:
        """Put the agent there, in place of the one that is; with `reset` with new keys and nothing remembered. The site's
        public keys."""
        engine, name = self.operator.engine, self.site.site.site
        images = agent_images(self.operator.base(pull=True), self.operator.store)
        self.operator.ship(images)
        volume = names.agent(name, f"config-{secrets.token_hex(4)}")
        socket = self.site.site.agent.socket or _socket_of(self.site.site.engine)
        frame = Frame(
            network=network(self.site, AGENT.networks[0]), volume=volume, socket=socket,
            group=engine.group_of(socket, images[-1].tag), memory_bytes=size_bytes(self.site.site.agent.memory),
        )  # fmt: skip
        files = tuple(self._files(frame))
        made = container(name, tuple(i.tag for i in images), frame, secrets.token_hex(8))
        if reset:
            self.operator.remove_agent()
        for old in engine.agents(name):
            engine.run(RemoveContainer(old))
        own, label = names.network(name, AGENT.networks[0]), {names.AGENT: name}
        if made.config["HostConfig"]["NetworkMode"] == own:
            engine.run(CreateNetwork(own, INTERNAL[AGENT.networks[0]], {names.SITE: name}))
        engine.run(CreateVolume(names.agent(name, "data"), label))
        engine.run(CreateVolume(volume, label))
        engine.run(FillVolume(volume, images[-1].tag, files))
        engine.run(made)
        engine.run(StartContainer(made.name))
        for left in engine.of_agent(name):
            if left not in (volume, names.agent(name, "data")):
                engine.run(RemoveVolume(left))
        return self._key(made.name)

    def _key(self, name: str) -> str:
        """What the agent says its public keys are."""
        engine, begun_s = self.operator.engine, self.operator.clock.monotonic_s()
        while True:
            if said := engine.files(name, f"{DATA_DIR}/{PUBLIC}").get(""):
                return said.content.decode().strip()
            seen = engine.state_of(name)
            if seen not in ("running", "created") or self.operator.clock.monotonic_s() - begun_s > START_S_MAX:
                raise Unavailable(
                    f"the agent {seen} and has not told its key; its log:\n{engine.logs(name, 20).rstrip()}"
                )
            time.sleep(0.2)

    def _files(self, frame: Frame) -> Iterator[File]:
        own, site = self.site.site.agent, self.site.site.site
        settings = Config(
            site=site, repository=own.repository, poll_s=duration_s(own.poll), plain=own.plain, frame=frame
        )
        yield File(SETTINGS_FILE, msgspec.json.format(msgspec.json.encode(settings)))
        yield File(ROOT_FILE, self.root)
        if own.ca:
            try:
                yield File(CA_FILE, self.site.resolve(own.ca).read_bytes())
            except OSError as e:
                raise ConfigError(f"{self.site.path}: agent.ca: {own.ca} cannot be read ({e.strerror})") from e
        for name, reference in own.secrets.items():
            content = resolve(reference, f"{self.site.path}: agent.secrets.{name}", self.site.folder)
            yield File(_SECRET_FILES[name], content, mode=0o400, uid=UID)


def _socket_of(engine: str) -> str:
    return engine.removeprefix("unix://") if engine.startswith("unix://") else DEFAULT_SOCKET


def note_key(site: SiteFile, public: str, *, replace: bool = False) -> bool:
    """Write a site's public keys into its file, below [agent]; False if they stand there. `ConfigError` if others do, unless
    they are to be replaced."""
    if site.site.agent.key == public:
        return False
    text, old = site.path.read_text(), site.site.agent.key
    if replace and old in text:
        site.path.write_text(text.replace(old, public) if old else _with_key(text, public))
        return True
    if old:
        raise ConfigError(
            f"{site.path}: agent.key is that of another agent; if this one is right, write instead:  key = {public!r}"
        )
    site.path.write_text(_with_key(text, public))
    return True


def _with_key(text: str, public: str) -> str:
    lines, new = text.splitlines(), f'key = "{public}"  # made at the site by  pipeline agent enrol'
    table = next((n for n, line in enumerate(lines, 1) if line.partition("#")[0].strip() == "[agent]"), None)
    if table:
        return "\n".join([*lines[:table], new, *lines[table:]]) + "\n"
    return "\n".join([*lines, "", "[agent]", new]) + "\n"
