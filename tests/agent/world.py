"""A site in memory whose agent can be killed between any two of its effects, with a real repository, trust store and disk."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from containers import files, names
from containers.agent import document, status
from containers.agent.disk import Disk
from containers.agent.document import Rules
from containers.agent.identity import sealing_key
from containers.agent.turn import Agent
from containers.commands import (
    Command,
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    Done,
    File,
    FillVolume,
    RemoveContainer,
    RemoveImage,
    RemoveVolume,
    StartContainer,
    StopContainer,
)
from containers.deployer import images_of
from containers.oci import Image, Layer, LayerStore
from containers.profiles import BROKER, PROFILES, Limits
from containers.repository import artifact
from containers.repository.base import Repository
from containers.repository.layout import Folder
from containers.repository.statement import sign
from containers.repository.trust import TrustStore
from containers.rollout import Actual, Container, Record
from containers.wanted import Desired
from pipelines.clock import ManualClock
from pipelines.errors import Unavailable
from pipelines.settings import Settings
from tests.repository.conformance import layer as blob
from tests.repository.plant import RELEASE_KEYS, START, at, make_root, signers

SITE = "hall1"
SERVICES = ("upload", "process")
LATER = 86_400


class Killed(BaseException):
    """The agent's process is gone."""


@dataclass
class Effects:
    """Counts what is done; from `kill_at` on nothing is done any more, as if the process were dead."""

    kill_at: int = 1 << 30
    kill_after: str = "nothing"  # the effect of which this is told
    told: list[str] = field(default_factory=list)

    def __call__(self, what: str, do: Callable[[], Any]) -> Any:
        if len(self.told) >= self.kill_at or any(self.kill_after in told for told in self.told):
            raise Killed(what)
        self.told.append(what)
        return do()


@dataclass
class SimEngine:
    """Holds containers, volumes and images in memory; `down`: no answer. Containers of `bad` images end at once, those of `ill`
    ones are never healthy, those of `mortal` ones end some seconds after they were started."""

    clock: ManualClock
    effects: Effects
    containers: dict[str, Container] = field(default_factory=dict)
    volumes_: dict[str, Mapping[str, str]] = field(default_factory=dict)
    content: dict[str, dict[str, File]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    ill: set[str] = field(default_factory=set)
    mortal: dict[str, float] = field(default_factory=dict)  # image -> seconds
    started_s: dict[str, float] = field(default_factory=dict)
    down: Callable[[Command | None], bool] = lambda _: False
    fence: Callable[[], None] = lambda: None
    stuck: str = "nothing"  # what the site's own broker does not do

    def _up(self, command: Command | None = None) -> None:
        if self.down(command):
            raise Unavailable("the Docker engine cannot be reached")

    def actual(self, site: str) -> Actual:
        self._up()
        records = [Record(**json.loads(v[names.RECORD])) for v in self.volumes_.values() if names.RECORD in v]
        configs = sorted(n for n, v in self.volumes_.items() if names.CONFIG in v)
        found = sorted(self.containers.values(), key=lambda c: (c.service, c.revision))
        return Actual(tuple(found), tuple(sorted(records, key=lambda r: r.revision)), tuple(configs))

    def container(self, name: str, *, probe: bool = True) -> Container | None:
        self._up()
        c = self.containers.get(name)
        if c and self.clock.monotonic_s() - self.started_s.get(name, 1e99) > self.mortal.get(c.image, 1e99):
            self.containers[name] = c = replace(c, state="exited", exit_code=7)
        return c

    def said(self, name: str) -> str:
        return ""

    def logs(self, name: str, lines: int) -> str:
        return f"log of {name}"

    def files(self, name: str, folder: str) -> dict[str, File]:
        self._up()
        return self.content.get(self.containers[name].config, {})

    def volumes(self, prefix: str) -> tuple[float, dict[str, Mapping[str, str]]]:
        self._up()
        return self.clock.now_ns() / 1e9, {n: v for n, v in self.volumes_.items() if n.startswith(prefix)}

    def has(self, image: Image) -> bool:
        self._up()
        return self.images.get(image.tag) == image.id

    def lacking(self, images: list[Image]) -> list[int]:
        return [len(i.layers) for i in images]

    def load(self, image: Image, store: LayerStore, lacking: int) -> None:
        self._up()
        for layer in image.layers:
            assert store.path(layer).exists()
        self.effects(f"load {image.tag}", lambda: self.images.update({image.tag: image.id}))

    def execute(self, name: str, words: Sequence[str]) -> Done:
        self.fence()
        self._up()
        well = self.containers[name].state == "running" and self.stuck not in words
        self.effects(f"execute {' '.join(words)} in {name}", lambda: None)
        return Done(well, "[0,2]", "" if well else "no leader")

    def unused_images(self) -> list[Command]:
        used = {tag for c in self.containers.values() for tag in c.images}
        return [RemoveImage(tag) for tag in self.images if tag not in used]

    def gateway(self, network: str) -> str:
        return "10.0.0.1"

    def run(self, command: Command, *, fenced: bool = True) -> None:
        if fenced:
            self.fence()
        self._up(command)
        self.effects(str(command)[:100], lambda: self._run(command))

    def _run(self, command: Command) -> None:
        match command:
            case CreateVolume(name, labels):
                self.volumes_.setdefault(name, dict(labels))
            case FillVolume(name, _, content):
                self.content[name] = {f.path: f for f in content}
            case RemoveVolume(name):
                self.volumes_.pop(name, None)
            case CreateContainer():
                assert command.name not in self.containers, "there is such a container already"
                self.containers[command.name] = _created(command)
            case StartContainer(name):
                c = self.containers[name]
                ends = c.image in self.bad
                self.started_s[name] = self.clock.monotonic_s()
                health = "starting" if c.image in self.ill else "healthy"
                self.containers[name] = replace(
                    c, state="exited" if ends else "running", exit_code=int(ends), health=health
                )
            case StopContainer(name):
                self.containers[name] = replace(self.containers[name], state="exited")
            case RemoveContainer(name):
                self.containers.pop(name, None)
            case RemoveImage(tag):
                self.images.pop(tag, None)
            case CreateNetwork():
                pass

    @property
    def running(self) -> dict[str, str]:
        """service -> image of what runs; fails if a service runs twice."""
        now = [c for c in self.containers.values() if c.state == "running"]
        assert len({c.service for c in now}) == len(now), "a service runs twice"
        return {c.service: c.image for c in now}


def _created(command: CreateContainer) -> Container:
    labels = command.config["Labels"]
    return Container(
        name=command.name, id=command.name, service=labels[names.SERVICE], revision=int(labels[names.REVISION]),
        fingerprint=labels[names.FINGERPRINT], pipeline=labels[names.PIPELINE],
        images=tuple(json.loads(labels[names.IMAGES])), config=labels[names.CONFIG], state="created", health="starting",
        exit_code=0, restarts=0, started_at="", address="", parts=json.loads(labels[names.PARTS]),
    )  # fmt: skip


@dataclass
class World:
    """`publish` as the operator does it; `agent` is its process, which `killed` ends; what it is, is on the disk."""

    folder: Path
    effects: Effects = field(default_factory=Effects)
    clock: ManualClock = field(default_factory=lambda: ManualClock(at(START) + LATER * 10**9))
    said: list[str] = field(default_factory=list)
    services: tuple[str, ...] = SERVICES
    site: str = SITE
    grants: tuple[str, ...] = ()
    shared: Repository | None = None  # with other sites; else one of its own
    root: bytes = b""  # that it was given by hand; else that of `RELEASE_KEYS`

    def __post_init__(self) -> None:
        self.engine = SimEngine(self.clock, self.effects)
        self.repo: Repository = self.shared or Folder(self.folder / "repository")
        self.disk = Disk(self.folder / "data")
        if not self.disk.enrolled:
            TrustStore(self.disk.folder / "trust").init(self.root or make_root())
            self.disk.enrol()
        self.identity = self.disk.identity()
        self.agent = self.born()

    def born(self) -> Agent:
        """A new process, which knows what is on the disk."""
        engine: Any = self.engine
        return Agent(
            self.site, engine, self.repo, TrustStore(self.disk.folder / "trust"), Disk(self.disk.folder), self.identity,
            self._report, "0.1.0", self.clock, self.clock.advance,
        )  # fmt: skip

    def _report(self, text: str, *, bad: bool = False) -> None:
        self.said.append(text)

    def report(self) -> status.Status:
        """What the site reported last."""
        found = artifact.get_document(self.repo, status.path(self.site), status.TAG)
        assert found
        return status.decode(found.content, self.site, self.identity.public)

    def tag(self, service: str, number: int) -> str:
        """Name of a service's image in a release."""
        return f"sitestream/{service}:{number}"

    def expected(self, number: int) -> dict[str, str]:
        """What runs when a release does."""
        return {s: self.tag(s, number) for s in self.services}

    def wanted(self, number: int) -> tuple[Desired, ...]:
        """The services of a release."""
        return tuple(self._service(s, number) for s in self.services)

    def image(self, name: str, number: int) -> Image:
        """An image of a release, which is in the repository when this returns."""
        tag, path = self.tag(name, number), self.folder / f"layer-{name}-{number}.gz"
        made = blob(path, gzip.compress(f"{tag}".encode(), mtime=0))
        image = Image(tag, json.dumps({"tag": tag}), (Layer(f"sha256:{number:064d}", made.digest, made.size),))
        artifact.put_image(self.repo, artifact.IMAGES, image.config.encode(), [made], tag.rpartition(":")[2] + name)
        return image

    def _service(self, service: str, number: int) -> Desired:
        tag, image = self.tag(service, number), self.image(service, number)
        settings = Settings(site=self.site, brokers="kafka:9092", pipeline="tiny.py", options={"b": "1", "a": "2"})
        secret = File("secrets/key", f"secret of {number}".encode(), 0o400, 65532)
        return Desired(
            {**PROFILES, "broker": BROKER}[service], (tag,), (image,), (), settings, (secret,),
            (names.network(self.site, "bus"),), {"kafka": "gateway"}, (), Limits(2**20, 1.0), f"tiny {number}",
            {"code": str(number)}, {},
        )  # fmt: skip

    def publish(
        self,
        number: int,
        *,
        days: float = 30,
        by: Any = None,
        version: int = 0,
        site: str = "",
        agent: int = 0,
        **more: Any,
    ) -> None:
        """Release `number`, signed as version `number` unless told otherwise."""
        rules = Rules(health_timeout_s=5.0, soak_s=3.0, errors_max=0.1)
        wanted, public = self.wanted(number), sealing_key(self.identity.public)
        images = [*images_of(wanted), *([self.image("agent", agent)] if agent else [])]
        named = [self.tag("agent", agent)] if agent else []
        made = document.of(
            site or self.site, f"tiny {number}", "me@here", "2026-06-02T00:00:00+00:00", rules, wanted, images, public,
            self.grants, agent=named, **more,
        )  # fmt: skip
        self.put(document.encode(made), version or number, days=days, by=by)

    def put(self, content: bytes, version: int, *, days: float = 30, by: Any = None) -> None:
        """Any document."""
        path = artifact.site_name(self.site)
        expires = START + timedelta(days=days)
        statement = sign(content, path, version, expires, RELEASE_KEYS[:1] if by is None else by)
        also = [artifact.kept(version)]
        artifact.put_document(self.repo, path, artifact.DESIRED, content, document.MEDIA_TYPE, statement, also=also)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Every write to the disk and to the repository is an effect, too."""

        def write(path: Path, content: bytes, mode: int = 0o600) -> None:
            self.effects(f"write {path.name}", lambda: files.write_whole(path, content, mode))

        with patch("containers.agent.disk.write_whole", write), patch("containers.repository.trust.write_whole", write):
            yield

    def copied(self, folder: Path) -> World:
        """The same site elsewhere, with a new process."""
        shutil.copytree(self.folder, folder)
        new = World(folder, clock=ManualClock(self.clock.now_ns()))
        for part in ("containers", "volumes_", "content", "images"):
            setattr(new.engine, part, dict(getattr(self.engine, part)))
        return new

    def killed(self, at_effect: int = 1 << 30, *, after: str = "nothing") -> bool:
        """Start the process and let it work until it is killed before an effect, or after one of which this is told; False if
        it came to its turn's end before."""
        self.effects.told.clear()
        self.effects.kill_at, self.effects.kill_after = at_effect, after
        try:
            with self.counted():
                self.agent = self.born()
                self.agent.start()
                self.agent.turn()
        except Killed:
            return True
        finally:
            self.engine.fence = lambda: None
            self.effects.kill_at, self.effects.kill_after = 1 << 30, "nothing"
        return False


def strangers() -> Any:
    """Keys that nobody trusts."""
    return signers(1)
