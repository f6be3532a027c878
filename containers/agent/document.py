"""What a site should run, as a document that lies in the repository: no source, no reference to the operator's files. Pure.

Secrets are in it, sealed for the site. It counts only with its statement, see `repository.statement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from containers.commands import File
from containers.oci import Image
from containers.profiles import Devices, Limits, Mount, Port, Profile
from containers.repository import seal
from containers.wanted import Desired
from pipelines.errors import ConfigError
from pipelines.settings import Settings
from pipelines.versions import Version

FORMAT = 1
MEDIA_TYPE = "application/vnd.sitestream.desired.v1+json"


class SealedFile(msgspec.Struct, frozen=True):
    """A file that only the site can read."""

    path: str
    mode: int
    uid: int
    sealed: bytes


class Service(msgspec.Struct, frozen=True):
    """See `wanted.Desired`, whose fields these are."""

    profile: Profile
    tags: tuple[str, ...]  # of `Document.images`
    settings: Settings
    secrets: tuple[SealedFile, ...]
    networks: tuple[str, ...]
    hosts: Mapping[str, str]
    mounts: tuple[Mount, ...]
    limits: Limits
    pipeline: str
    parts: Mapping[str, str]
    state: Mapping[str, Version]
    devices: Devices = Devices()
    port: Port | None = None


class Rules(msgspec.Struct, frozen=True):
    """When new containers may stay; see `gates.Policy`."""

    health_timeout_s: float
    soak_s: float
    errors_max: float


class Document(msgspec.Struct, frozen=True):
    """What one site should run."""

    site: str
    what: str  # name and fingerprint of the pipeline
    by: str  # user@host
    at: str  # ISO 8601, UTC
    rules: Rules
    images: Mapping[str, Image]  # by tag; their layers are blobs of the repository
    services: tuple[Service, ...]
    grants: tuple[str, ...] = ()  # what is run inside the site's own broker to make topics and rights
    format: int = FORMAT
    rollout: str = ""  # for which it was published: whoever takes that up does not publish again
    agent: tuple[
        str, ...
    ] = ()  # tags of the image of the agent that is to run there and of those under it, lowest first
    renews: int = 0  # the release that it is again, for who goes back
    rights: str = ""  # that it needs in a Kafka which is not the site's own, as `grants.Request.word`; for the operator
    settles: tuple[str, ...] = ()  # as `grants`, once it runs well: takes away what rights there are besides

    def wanted(self, private: str) -> tuple[Desired, ...]:
        """Its services, with their secrets opened by the site's private key. `ConfigError` if they are sealed for another."""
        return tuple(_opened(s, self.images, private) for s in self.services)


class _Head(msgspec.Struct, frozen=True):
    """What every version of this project reads."""

    format: int
    site: str


def of(
    site: str, what: str, by: str, at: str, rules: Rules, wanted: Sequence[Desired], images: Sequence[Image], public: str,
    grants: tuple[str, ...] = (), *, settles: tuple[str, ...] = (), rollout: str = "", rights: str = "",
    agent: Sequence[str] = (),
) -> Document:  # fmt: skip
    """The document for a site whose sealing key is `public`. `images` are those of the services and those under them, with
    layers that the repository has."""
    every = {image.tag: image for image in images}
    sealed = tuple(_sealed(d, public) for d in wanted)
    return Document(
        site, what, by, at, rules, every, sealed, grants, rollout=rollout, rights=rights, settles=settles, agent=tuple(agent),
    )  # fmt: skip


def renewed(old: Document, version: int, now: Document, by: str, at: str, rules: Rules, rollout: str) -> Document:
    """What `old`, of this version, says should run, for who goes back to it from `now`; the agent stays the newer one's."""
    images = {**old.images, **{tag: now.images[tag] for tag in now.agent}}
    needed = {*now.agent, *(tag for s in old.services for tag in s.tags)}
    return msgspec.structs.replace(
        old, by=by, at=at, rules=rules, rollout=rollout, agent=now.agent, renews=version,
        images={tag: image for tag, image in images.items() if tag in needed},
    )  # fmt: skip


def alike(one: Document, other: Document) -> bool:
    """Whether the same services are to run, with the same images, settings and secrets."""
    return {s.profile.service: s.parts for s in one.services} == {s.profile.service: s.parts for s in other.services}


def encode(document: Document) -> bytes:
    """As it lies in the repository."""
    return msgspec.json.encode(document, order="deterministic")


def decode(content: bytes, site: str) -> Document:
    """Read what was verified; `ConfigError` if it is for another site, or of a form that is not known here."""
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format != FORMAT:
            raise ConfigError(
                f"the release for {site} has format {head.format}, and this agent reads {FORMAT}: bring a newer agent to the "
                "site with  pipeline agent enrol"
            )
        if head.site != site:
            raise ConfigError(f"the release is for site {head.site}, and this is {site}: it is not used")
        found = msgspec.json.decode(content, type=Document)
        if missing := {*found.agent, *(t for s in found.services for t in s.tags)} - found.images.keys():
            raise ConfigError(f"the release for {site} lacks images that it names ({', '.join(sorted(missing))})")
    except msgspec.MsgspecError as e:
        raise ConfigError(
            f"the release for {site} cannot be read ({e}): publish it with the same version of Sitestream as the agent's, or "
            "bring a newer agent to the site with  pipeline agent enrol"
        ) from e
    return found


def _sealed(d: Desired, public: str) -> Service:
    secrets = tuple(SealedFile(f.path, f.mode, f.uid, seal.seal(public, f.content)) for f in d.secrets)
    return Service(
        d.profile, d.tags, d.settings, secrets, d.networks, dict(d.hosts), d.mounts, d.limits, d.pipeline, dict(d.parts),
        dict(d.state), d.devices, d.port,
    )  # fmt: skip


def _opened(s: Service, images: Mapping[str, Image], private: str) -> Desired:
    secrets = tuple(File(f.path, seal.open(private, f.sealed), f.mode, f.uid) for f in s.secrets)
    return Desired(
        s.profile, s.tags, tuple(images[t] for t in s.tags), (), s.settings, secrets, s.networks, s.hosts, s.mounts, s.limits,
        s.pipeline, s.parts, s.state, s.devices, s.port,
    )  # fmt: skip
