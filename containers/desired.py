"""What must run on a site: for each service its image, settings, secrets and limits, and a fingerprint of all of them.

A service is replaced when its fingerprint changes and only then. The pipeline file is in every image, but what counts of it is
the part that the service uses: another window replaces `process` alone, another MQTT topic `collect` (and `control`, which talks
to the same broker by default).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from connectors.control import devices
from connectors.secrets import Secret
from containers import bus, images, names
from containers.commands import CreateContainer, File
from containers.fetch import cache_dir
from containers.images import Base, Contents
from containers.oci import Image, LayerStore
from containers.profiles import (
    CONFIG_DIR,
    DATA_DIR,
    METRICS_PORT,
    PIPELINE_DIR,
    PROFILES,
    SECRETS_FOLDER,
    SETTINGS_FILE,
    UID,
    Limits,
    Mount,
    Profile,
    container_config,
)
from containers.site import GATEWAY, SiteFile
from pipelines import dimensions
from pipelines.errors import ConfigError
from pipelines.expr import Expr
from pipelines.plan import SOURCES, Plan, Step, foreign
from pipelines.runtime.identity import CA_FILE, CERT_FILE
from pipelines.schema import Col, Schema
from pipelines.settings import Settings
from pipelines.units import size_bytes
from pipelines.versions import Version

STORE_SECRETS = {
    "s3": ("s3_access_key", "s3_secret_key")
}  # by scheme of the store, as connectors.upload.store reads them
IMAGE_PARTS = ("base image", "packages", "code", "pipeline", "dimensions")  # those parts that stand in its image


@dataclass(frozen=True)
class Desired:
    """A service as it must be. `parts` are what its fingerprint is made of, by name, each a hash."""

    profile: Profile
    tags: tuple[str, ...]  # of its image and of those under it, lowest first
    images: tuple[Image, ...] = field(repr=False)  # the same, if they could be made
    pins: tuple[tuple[str, ...], ...] = field(repr=False)  # the packages of each layer of packages, lowest first
    settings: Settings
    secrets: tuple[File, ...]
    networks: tuple[str, ...]
    hosts: Mapping[str, str]  # name -> IP address or `gateway`
    mounts: tuple[Mount, ...]  # besides the configuration
    limits: Limits
    pipeline: str  # name and fingerprint of the plan
    parts: Mapping[str, str]
    state: Mapping[str, Version]  # of each stateful step, if the service has any

    @property
    def service(self) -> str:
        """The service's name."""
        return self.profile.service

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change when the service must be replaced."""
        return _hash(dict(self.parts))

    @property
    def edition(self) -> str:
        """12 hex digits that change when the service would find something else in its image: the pipeline file is in every
        image, so another window changes all of them, and the edition of `process` alone."""
        return _hash({name: self.parts[name] for name in IMAGE_PARTS if name in self.parts})

    @property
    def tag(self) -> str:
        """Name of its image."""
        return self.tags[-1]

    @property
    def config_volume(self) -> str:
        """Name of the volume with settings and secrets; never changed once it is in use."""
        return names.config(self.settings.site, self.service, self.fingerprint)

    @property
    def config_files(self) -> tuple[File, ...]:
        """What is in that volume."""
        return (File(SETTINGS_FILE, msgspec.json.format(msgspec.json.encode(self.settings))), *self.secrets)

    @property
    def settings_shown(self) -> dict[str, Any]:
        """Its settings as plain values; there is no secret among them."""
        shown: dict[str, Any] = msgspec.to_builtins(self.settings)
        return shown

    @property
    def secret_names(self) -> list[str]:
        """Names of its secrets."""
        return [s.path.rpartition("/")[2] for s in self.secrets]

    def container_name(self, revision: int) -> str:
        """Name of its container of a revision."""
        return names.container(self.settings.site, self.service, revision)

    def container(self, revision: int, gateway: str) -> CreateContainer:
        """The container of a revision; `gateway` is the IP address of the site's machine in the first of its networks."""
        labels = {
            names.SITE: self.settings.site,
            names.SERVICE: self.service,
            names.REVISION: str(revision),
            names.FINGERPRINT: self.fingerprint,
            names.PIPELINE: self.pipeline,
            names.IMAGES: _json(self.tags[::-1]),
            names.CONFIG: self.config_volume,
            names.PARTS: _json(self.parts),
            names.STATE: _json(self.state),
            names.SETTINGS: _json(self.settings),
        }
        hosts = {name: gateway if address == GATEWAY else address for name, address in self.hosts.items()}
        mounts = (Mount(self.config_volume, CONFIG_DIR, read_only=True), *self.mounts)
        config = container_config(
            self.service,
            self.tag,
            networks=self.networks,
            hosts=hosts,
            mounts=mounts,
            limits=self.limits,
            labels=labels,
        )
        return CreateContainer(self.container_name(revision), config, self.networks[1:])


def layer_store() -> LayerStore:
    """Where layers are kept on this machine."""
    return LayerStore(cache_dir() / "layers")


def network(site: SiteFile, name: str) -> str:
    """The Docker network that plays the part `name` (ot, bus, wan) at a site."""
    return getattr(site.site.networks, name) or names.network(site.site.site, name)


def work_for(plan: Plan, site: SiteFile | None = None) -> list[Profile]:
    """The services for which a plan has work, at that site, in the order in which they are replaced."""
    busy = {
        "collect": bool(readable(plan)), "process": bool(plan.outputs),
        "control": any(plan.sinks_of("control")) or bool(site and site.site.devices), "upload": any(plan.sinks_of("parquet")),
    }  # fmt: skip
    return [p for p in PROFILES.values() if busy[p.service]]


def desired(
    site: SiteFile,
    plan: Plan,
    base: Base,
    identities: bus.Files | None = None,
    *,
    secrets: bool = True,
    fetch: bool = False,
) -> list[Desired]:
    """Every service that the plan needs at the site; `identities` as `bus.identity_files` gives them.

    Reads our own code, the pipeline's files and the secrets; without `secrets` these have names and no content. With `fetch` all
    images are made, and packages for them fetched if need be; without it, only those that the cache has all for.
    `ConfigError` if something of that is missing.
    """
    check(site, plan)
    certified = identities or {}
    return [_desired(site, plan, base, p, certified.get(p.service), secrets, fetch) for p in work_for(plan, site)]


def check(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if the pipeline needs something that the site file does not give, or a dimension's file is not well.

    Looks at no secret and no engine.
    """
    dimensions.load(plan, dimensions.folder_of(site.pipeline))
    device_rules(site)
    check_given(site, plan)


def device_rules(site: SiteFile) -> str:
    """The text of the site's devices.toml, empty if it has none; `ConfigError` if it is missing or wrong."""
    if not site.site.devices:
        return ""
    path = site.resolve(site.site.devices)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{site.path}: devices: {path} cannot be read: {e}: docs/control.md says what it holds"
        ) from e
    devices.parse(text, str(path))
    return text


def check_given(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if the pipeline needs something that the site file does not give. Reads nothing."""
    if any(plan.sinks_of("parquet")) and not site.site.store:
        raise ConfigError(
            f"{site.path}: the pipeline writes Parquet tables and there is no `store`: add store = 's3://bucket/folder'"
        )
    for profile in work_for(plan, site):
        given = getattr(site.site.services, profile.service).secrets
        for secret, whose in _secrets_needed(site, plan, profile.service).items():
            if secret not in given:
                raise ConfigError(
                    f"{site.path}: {profile.service} needs the secret {secret!r} {whose}: add under "
                    f"[services.{profile.service}.secrets] a line such as  {secret} = 'file:secrets/{secret}'"
                )


def _secrets_needed(site: SiteFile, plan: Plan, service: str) -> dict[str, str]:
    """Names of the secrets that a service will ask for, and what for."""
    needed = dict.fromkeys(sorted(_secrets_in(_part(plan, service))), "which the pipeline file names")
    if service == "upload":
        needed |= dict.fromkeys(
            STORE_SECRETS.get(site.site.store.partition(":")[0], ()), f"for the store {site.site.store}"
        )
    return needed


def _desired(
    site: SiteFile,
    plan: Plan,
    base: Base,
    profile: Profile,
    certified: tuple[File, ...] | None,
    with_secrets: bool,
    fetch: bool,
) -> Desired:
    service, own = profile.service, getattr(site.site.services, profile.service)
    facts = _facts(site, plan, service)
    contents = contents_of(site, plan, base, profile)
    settings = _settings(site, profile)
    secrets = tuple(
        File(
            f"{SECRETS_FOLDER}/{name}",
            read_secret(site, service, name, ref) if with_secrets else b"",
            mode=0o400,
            uid=UID,
        )
        for name, ref in sorted(own.secrets.items())
    )
    networks = tuple(network(site, n) for n in profile.networks)
    mounts = tuple(_mounts(site, profile))
    limits = Limits(size_bytes(own.memory or profile.memory), own.cpus or profile.cpus)
    frame = container_config(
        service, "", networks=networks, hosts=site.site.hosts, mounts=mounts, limits=limits, labels={}
    )
    parts = {
        "base image": base.id,
        "packages": _hash(contents.pins),
        "code": contents.code,
        "pipeline": _hash(identity(_part(plan, service))),
        "settings": _hash(settings),
        "secrets": _slow_hash(site.site.site, secrets),
        "container": _hash((frame, networks)),
    }
    if facts:
        parts["dimensions"] = _hash({path: hashlib.sha256(data).hexdigest() for path, data in facts.items()})
    if certified is not None:  # a certificate is no secret, and another key comes with another certificate only
        certificate = [str(f.content) for f in certified if f.path.endswith((CERT_FILE, CA_FILE))]
        parts["certificate"] = _hash(certificate) if certificate else "due"
    pipeline = f"{plan.pipeline} {plan.fingerprint}"
    state = plan.versions if service == "process" else {}
    return Desired(
        profile,
        tuple(dict.fromkeys([contents.packages_tag, contents.parent_tag, images.service_tag(profile, contents)])),
        images.made(profile, contents, layer_store(), fetch=fetch),
        tuple(pins for pins in (contents.common, contents.extra) if pins),
        settings,
        (*secrets, *(certified or ())),
        networks,
        site.site.hosts,
        mounts,
        limits,
        pipeline,
        parts,
        state,
    )


def contents_of(site: SiteFile, plan: Plan, base: Base, profile: Profile) -> Contents:
    """What the image of a service holds, to do a plan's work."""
    streams: dict[str, Any] = dict(plan.sources)
    readers = {
        "collect": [s.reader for s in readable(plan).values()],
        "process": [s.decoder for s in streams.values() if foreign(s)],
    }.get(profile.service, [])
    return images.contents(profile, site.pipeline, readers, base, _facts(site, plan, profile.service))


def _facts(site: SiteFile, plan: Plan, service: str) -> Mapping[str, bytes]:
    return dimensions.files(plan, dimensions.folder_of(site.pipeline)) if service == "process" else {}


def _settings(site: SiteFile, profile: Profile) -> Settings:
    own, s = getattr(site.site.services, profile.service), site.site
    return Settings(
        site=s.site,
        brokers=s.brokers,
        pipeline=images.pipeline_in_image(site.pipeline, PIPELINE_DIR),
        partitions=s.partitions,
        data_dir=DATA_DIR,
        store=s.store if profile.sink == "parquet" else "",
        secrets_dir=f"{CONFIG_DIR}/{SECRETS_FOLDER}",
        kafka_security=s.kafka.security,
        metrics_port=METRICS_PORT,
        log_level=own.log_level,
        devices=device_rules(site) if profile.service == "control" else "",
        options=own.options,
    )


def _mounts(site: SiteFile, profile: Profile) -> Iterator[Mount]:
    if profile.keeps:
        yield Mount(names.data(site.site.site, profile.service), DATA_DIR, read_only=False)
    if profile.sink == "parquet" and site.site.store.startswith("file:"):
        folder = urlsplit(site.site.store).path
        yield Mount(folder, folder, read_only=False)
    if profile.service == "control" and (switch := site.site.services.control.options.get("off_switch")):
        yield Mount(switch, switch, read_only=True)  # deploy makes no such folder: whoever has the switch owns it


def read_secret(site: SiteFile, service: str, name: str, reference: str) -> bytes:
    """The content of a secret that a site file refers to; `ConfigError` if it is not there, or empty."""
    kind, _, where = reference.partition(":")
    field = f"{site.path}: services.{service}.secrets.{name}"
    try:
        content = os.environ[where].encode() if kind == "env" else site.resolve(where).read_bytes()
    except KeyError as e:
        raise ConfigError(f"{field}: the environment variable {where} is not set: export it before you deploy") from e
    except OSError as e:
        raise ConfigError(
            f"{field}: the file {site.resolve(where)} cannot be read ({e.strerror}): put the secret there"
        ) from e
    if not content.strip():
        raise ConfigError(f"{field}: {reference} is empty")
    return content


def _part(plan: Plan, service: str) -> Any:
    """What of a plan decides how a service works."""
    readings = list(readable(plan).items())
    if service == "collect":
        return readings
    if service == "process":
        steps = [(s.name, s.kind, s.ups, s.row, s.spec if _computed(s) else None) for s in plan.steps]
        return plan.pipeline, plan.fingerprint, plan.outputs, list(plan.sources), steps
    served = list(plan.sinks_of(PROFILES[service].sink or ""))
    written = [(plan.topic("", s.name), s.row, sink) for s, sink in served]
    borrows_broker = service == "control" and not all(sink.broker for _, sink in served)
    return (written, readings) if borrows_broker else (written,)


def _computed(step: Step) -> bool:
    """Whether `process` does what the step says; other sources are what `collect` makes of them."""
    return step.kind not in SOURCES or foreign(step.spec)


def readable(plan: Plan) -> dict[str, Any]:
    """The sources that `collect` reads; the others are topics which other programs write."""
    return {stream: source for stream, source in plan.sources.items() if getattr(source, "reader", None)}


def identity(value: Any) -> Any:
    """A value of lists, texts and numbers that is equal for equal descriptions in any process, and shows every difference."""
    if isinstance(value, type) and issubclass(value, Schema):
        absent = [(n, c.absent) for n, c in value.columns().items() if isinstance(c, Col)]
        return [value.__name__, identity(value.measured()), identity(absent)]
    if isinstance(value, Expr):
        return [value.qualified, value.formula()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *(identity(getattr(value, f.name)) for f in dataclasses.fields(value))]
    if isinstance(value, Mapping):
        return sorted([str(k), identity(v)] for k, v in value.items())
    if isinstance(value, set | frozenset):
        return sorted((identity(v) for v in value), key=repr)
    if isinstance(value, list | tuple):
        return [identity(v) for v in value]
    return repr(value)


def _secrets_in(value: Any) -> Iterator[str]:
    """Names of all secrets that a description refers to."""
    if isinstance(value, Secret):
        yield value.name
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _secrets_in([getattr(value, f.name) for f in dataclasses.fields(value)])
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _secrets_in(v)


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _hash(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:12]


def _slow_hash(site: str, secrets: tuple[File, ...]) -> str:
    """Changes with any secret. Costly on purpose: it stands in a label, where a weak secret must not be guessed from it."""
    if not secrets:
        return "none"
    text = msgspec.json.encode([(s.path, s.content) for s in secrets])
    return hashlib.scrypt(text, salt=f"{names.PREFIX}/{site}".encode(), n=2**14, r=8, p=1, dklen=6).hex()
