"""What must run on a site: for each service its image, settings, secrets and limits, and a fingerprint of all of them.

A service is replaced when its fingerprint changes and only then. The pipeline file is in every image, but what counts of it is
the part that the service uses: another window replaces `process` alone, another MQTT topic `collect` (and `control`, which talks
to the same broker by default).
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from connectors.control import devices
from connectors.firmware.options import PASSWORD, ROOT_FILE
from connectors.http import PushSource
from connectors.replay import FolderSource
from connectors.secrets import Secret
from containers import bus, control_port, images, names, schemas
from containers.cache import cache_dir
from containers.commands import File
from containers.images import Base, Contents
from containers.oci import LayerStore
from containers.profiles import (
    CONFIG_DIR,
    DATA_DIR,
    FIRMWARE,
    INGRESS,
    METRICS_PORT,
    PIPELINE_DIR,
    PROFILES,
    SECRETS_FOLDER,
    UID,
    Devices,
    Limits,
    Mount,
    Port,
    Profile,
    container_config,
)
from containers.site import SiteFile, listen_of
from containers.wanted import Desired, hash_of
from pipelines.errors import ConfigError
from pipelines.expr import Expr
from pipelines.plan import SOURCES, Plan, Step, foreign
from pipelines.runtime.identity import CA_FILE, CERT_FILE
from pipelines.schema import Col, Schema
from pipelines.settings import Settings
from pipelines.units import size_bytes

STORE_SECRETS = {
    "s3": ("s3_access_key", "s3_secret_key")
}  # by scheme of the store, as connectors.upload.store reads them


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


def services_at(site: SiteFile, plan: Plan) -> list[Profile]:
    """All services of a site, in the order in which they are replaced."""
    return [*([FIRMWARE] if site.site.firmware else []), *work_for(plan, site)]


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
    return [_desired(site, plan, base, p, certified.get(p.service), secrets, fetch) for p in services_at(site, plan)]


def check(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if the pipeline needs something that the site file does not give, or a dimension's file is not well.

    Looks at no secret and no engine.
    """
    schemas.check_files(plan, site.pipeline)
    for secret in _rules(site).secrets:
        _require_secret(site, "control", secret, f"which {site.site.devices} names")
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


def _rules(site: SiteFile) -> devices.Devices:
    rules = device_rules(site)
    return devices.parse(rules, site.site.devices) if rules else devices.Devices()


def check_given(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if the pipeline needs something that the site file does not give. Reads nothing."""
    bus.check(site, plan)
    if any(plan.sinks_of("parquet")) and not site.site.store:
        raise ConfigError(
            f"{site.path}: the pipeline writes Parquet tables and there is no `store`: add store = 's3://bucket/folder'"
        )
    for stream, source in readable(plan).items():
        for path in getattr(source, "ports", ()):
            if path not in site.site.services.collect.devices:
                raise ConfigError(
                    f"{site.path}: the stream {stream} is read from the serial port {path}, and collect may not use it: add "
                    f'under [services.collect] a line such as  devices = ["{path}"]'
                )
    _check_listen(site, plan)
    control_port.check(site, has_control=any(p.service == "control" for p in work_for(plan, site)))
    for profile in services_at(site, plan):
        for secret, whose in _secrets_needed(site, plan, profile.service).items():
            _require_secret(site, profile.service, secret, whose)


def _require_secret(site: SiteFile, service: str, secret: str, whose: str) -> None:
    if secret not in getattr(site.site.services, service).secrets:
        raise ConfigError(
            f"{site.path}: {service} needs the secret {secret!r} {whose}: add under "
            f"[services.{service}.secrets] a line such as  {secret} = 'file:secrets/{secret}'"
        )


def pushed(plan: Plan) -> dict[str, PushSource[Any]]:
    """The sources whose devices come to `collect` by themselves."""
    return {stream: source for stream, source in readable(plan).items() if isinstance(source, PushSource)}


def _check_listen(site: SiteFile, plan: Plan) -> None:
    listen, sources, own_ot = site.site.services.collect.listen, pushed(plan), site.site.networks.ot
    field = f"{site.path}: services.collect.listen = {listen!r}"
    if listen and not sources:
        raise ConfigError(f"{field}: the pipeline has no source to which anything is posted: leave it out")
    if listen and own_ot:
        raise ConfigError(
            f"{field}: networks.ot = {own_ot!r} is a network of your own, where devices reach collect at its own address: leave "
            "one of them out"
        )
    if listen and len({s.address[1] for s in sources.values()}) > 1:
        raise ConfigError(
            f"{field}: one port is published, and the pipeline's sources listen on several: give them the same"
        )
    places: dict[tuple[Any, str], str] = {}
    for stream, source in sources.items():
        if (other := places.setdefault((source.address, source.path), stream)) != stream:
            raise ConfigError(
                f"streams {other} and {stream} are both posted to {source.path}: give each a path of its own"
            )
        if ipaddress.ip_address(source.address[0]).is_loopback:
            raise ConfigError(
                f"stream {stream}: listen={source.listen!r} can be reached from within its container alone: leave it out"
            )


def check_reached(site: SiteFile, plan: Plan) -> None:
    """`ConfigError` if devices post readings and reach nothing, or a schema registry is out of reach, at a site with an engine; a
    cluster has other ways.
    """
    schemas.check_reached(site, plan)
    if site.site.services.collect.listen or site.site.networks.ot:
        return
    for stream in pushed(plan):
        raise ConfigError(
            f"{site.path}: the stream {stream} is posted to collect, and nobody reaches it: add under [services.collect] the "
            "address and port of the site's machine where devices find it, such as  listen = '0.0.0.0:8443'"
        )


def _port(site: SiteFile, plan: Plan) -> Port | None:
    """The port that collect has on the site's machine."""
    listen = site.site.services.collect.listen
    return Port(*listen_of(listen), next(iter(pushed(plan).values())).address[1]) if listen else None


def _secrets_needed(site: SiteFile, plan: Plan, service: str) -> dict[str, str]:
    """Names of the secrets that a service will ask for, and what for."""
    firmware = site.site.firmware
    if service == FIRMWARE.service and firmware:
        return {PASSWORD: f"of the MQTT user {firmware.mqtt_username}"} if firmware.mqtt_username else {}
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
    contents = contents_of(site, plan, base, profile)
    settings = _settings(site, profile)
    secrets = _secret_files(site, profile, with_secrets)
    port = {"collect": _port(site, plan), "control": control_port.port(site)}.get(service)
    networks = tuple(network(site, n) for n in (*profile.networks, *([INGRESS] if port else [])))
    mounts = tuple(_mounts(site, profile, plan))
    limits = Limits(size_bytes(own.memory or profile.memory), own.cpus or profile.cpus)
    devices = Devices(own.devices, own.device_group)
    frame = container_config(
        profile,
        "",
        networks=networks,
        hosts=site.site.hosts,
        mounts=mounts,
        limits=limits,
        labels={},
        devices=devices,
        port=port,
    )
    parts = {
        "base image": base.id,
        "packages": hash_of(contents.pins),
        "code": contents.code,
        "pipeline": hash_of(identity(_part(plan, service))),
        "settings": hash_of(settings),
        "secrets": _slow_hash(site.site.site, secrets),
        "container": hash_of((frame, networks)),
    }
    beside = schemas.files(plan, site.pipeline, service)
    parts |= {kind: _digests(files) for kind, files in beside.items() if files}
    if certified is not None:
        parts["certificate"] = certificate_of(certified)
    pipeline = "" if profile.lean else f"{plan.pipeline} {plan.fingerprint}"
    state = plan.versions if service == "process" else {}
    return Desired(
        profile,
        (*contents.tags_below, images.service_tag(profile, contents)),
        images.made(profile, contents, layer_store(), fetch=fetch),
        contents.pins,
        settings,
        (*secrets, *(certified or ())),
        networks,
        site.site.hosts,
        mounts,
        limits,
        pipeline,
        parts,
        state,
        devices,
        port,
        tuple(dict.fromkeys(schemas.registries(plan).values())) if service == "process" else (),
    )


def _secret_files(site: SiteFile, profile: Profile, with_secrets: bool) -> tuple[File, ...]:
    own: dict[str, str] = getattr(site.site.services, profile.service).secrets
    secrets = tuple(
        File(
            f"{SECRETS_FOLDER}/{name}",
            read_secret(site, profile.service, name, ref) if with_secrets else b"",
            mode=0o400,
            uid=profile.uid,
        )
        for name, ref in sorted(own.items())
    )
    if profile is FIRMWARE:
        secrets += (File(f"{SECRETS_FOLDER}/{ROOT_FILE}", _root(site), mode=0o400, uid=UID),)
    return secrets


def certificate_of(certified: tuple[File, ...]) -> str:
    """The part of a fingerprint that stands for a service's certificate. It is no secret, and another key comes with another
    certificate only.
    """
    certificate = [str(f.content) for f in certified if f.path.endswith((CERT_FILE, CA_FILE))]
    return hash_of(certificate) if certificate else "due"


def contents_of(site: SiteFile, plan: Plan, base: Base, profile: Profile) -> Contents:
    """What the image of a service holds, to do a plan's work."""
    streams: dict[str, Any] = dict(plan.sources)
    readers = {
        "collect": [s.reader for s in readable(plan).values()],
        "process": [s.decoder for s in streams.values() if foreign(s)],
        "control": _rules(site).writers,
    }.get(profile.service, [])
    beside = schemas.files(plan, site.pipeline, profile.service).values()
    return images.contents(
        profile, site.pipeline, readers, base, {path: data for files in beside for path, data in files.items()}
    )


def _digests(files: Mapping[str, bytes]) -> str:
    return hash_of({path: hashlib.sha256(data).hexdigest() for path, data in files.items()})


def _root(site: SiteFile) -> bytes:
    """The root of trust for firmware; `ConfigError` if it is not there or is something else, such as a private key."""
    assert site.site.firmware
    path = site.resolve(site.site.firmware.root)
    field = f"{site.path}: firmware.root"
    try:
        content = path.read_bytes()
        signed = msgspec.json.decode(content)["signed"]["_type"] == "root"
    except OSError as e:
        raise ConfigError(
            f"{field}: the file {path} cannot be read ({e.strerror}): put 1.root.json of the repository there"
        ) from e
    except (msgspec.DecodeError, LookupError, TypeError):
        signed = False
    if not signed:
        raise ConfigError(f"{field}: {path} is no signed root: name 1.root.json of the firmware repository")
    return content


def _options(site: SiteFile, profile: Profile) -> dict[str, str]:
    own: dict[str, str] = getattr(site.site.services, profile.service).options
    if profile.service == "control":
        return own | control_port.options(site)
    if profile is not FIRMWARE or not site.site.firmware:
        return own
    table = msgspec.to_builtins(site.site.firmware)
    return {name: value for name, value in table.items() if value and name != "root"} | own


def _settings(site: SiteFile, profile: Profile) -> Settings:
    own, s = getattr(site.site.services, profile.service), site.site
    return Settings(
        site=s.site,
        brokers=s.bootstrap,
        pipeline="" if profile.lean else images.pipeline_in_image(site.pipeline, PIPELINE_DIR),
        partitions=s.partitions,
        data_dir=DATA_DIR,
        store=s.store if profile.sink == "parquet" else "",
        secrets_dir=f"{CONFIG_DIR}/{SECRETS_FOLDER}",
        kafka_security=s.security,
        metrics_port=METRICS_PORT,
        log_level=own.log_level,
        devices=device_rules(site) if profile.service == "control" else "",
        options=_options(site, profile),
    )


def _mounts(site: SiteFile, profile: Profile, plan: Plan) -> Iterator[Mount]:
    if profile.keeps:
        yield Mount(names.data(site.site.site, profile.service), DATA_DIR, read_only=False)
    if profile.sink == "parquet" and site.site.store.startswith("file:"):
        folder = urlsplit(site.site.store).path
        yield Mount(folder, folder, read_only=False)
    watched = readable(plan).values() if profile.service == "collect" else ()
    for folder in dict.fromkeys(s.folder for s in watched if isinstance(s, FolderSource)):
        yield Mount(folder, folder, read_only=False)  # what was read is moved to done/ in it
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
    if service == FIRMWARE.service:
        return ()
    if service == "collect":
        return readings
    if service == "process":
        steps = [(s.name, s.kind, s.ups, s.row, s.spec if _computed(s) else None) for s in plan.steps]
        return plan.pipeline, plan.fingerprint, plan.outputs, list(plan.sources), steps
    served = list(plan.sinks_of(PROFILES[service].sink or ""))
    written = [(plan.topic("", s.name), s.row, sink) for s, sink in served]
    borrows_broker = service == "control" and not all(sink.broker for _, sink in served)
    lent = [(stream, source) for stream, source in readings if getattr(source, "broker", None)]
    return (written, lent) if borrows_broker else (written,)


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


def _slow_hash(site: str, secrets: tuple[File, ...]) -> str:
    """Changes with any secret. Costly on purpose: it stands in a label, where a weak secret must not be guessed from it."""
    if not secrets:
        return "none"
    text = msgspec.json.encode([(s.path, s.content) for s in secrets])
    return hashlib.scrypt(text, salt=f"{names.PREFIX}/{site}".encode(), n=2**14, r=8, p=1, dklen=6).hex()
