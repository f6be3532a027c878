"""The site file: one small TOML that says what differs from site to site. `site.example.toml` explains every line.

Secrets stand in it by reference only, `file:PATH` or `env:NAME` on the operator's machine. What many sites have in common
stands in a fleet folder: `containers.fleet`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from connectors.firmware import windows
from connectors.firmware.options import Options
from containers.toml_lines import line_of, with_line
from pipelines.errors import ConfigError, SitestreamError
from pipelines.runtime import sizing
from pipelines.runtime.broker_settings import flush_ms
from pipelines.settings import decode_strict
from pipelines.topics import valid_name
from pipelines.units import duration_s, size_bytes
from pipelines.urls import masked, parts_of

EXAMPLE = Path(__file__).parent / "site.example.toml"
PARTITIONS_MAX = 256
OWN_BROKER = "broker:9092"  # on the network `bus`
GATEWAY = "gateway"  # in [hosts]: the site's own machine, as the container sees it
DIALOUT = 20  # the group of serial ports on Debian and those that follow it
GROUP_MAX = 65_534
_DEVICE = re.compile(r"/dev/[A-Za-z0-9._:/-]{1,200}")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_BROKER = re.compile(r"[A-Za-z0-9_.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_ENGINE = re.compile(
    r"unix:///.+|(ssh://(?:\w[\w.-]*@)?\w[\w.-]*(?=:\d|$)|tcp://(?:\w[\w.-]*|\[[\da-fA-F:.]+\])(?=:\d))(:(?P<port>\d+))?"
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SECRET_REFERENCE = re.compile(r"(file|env):\S.*")
_LOOKS_SECRET = re.compile(r"password|passwd|secret|token|private_key|access_key", re.IGNORECASE)
_REPOSITORY = re.compile(r"(https?://)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[a-z0-9._-]+)*")
_AGENT_KEY = re.compile(r"[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=")
AGENT_SECRETS = ("registry_user", "registry_password")
POLL_S_MIN, POLL_S_MAX = 1.0, 86_400.0
_URL_LOGIN = re.compile(r"://[^/@\s]+:[^/@\s]*@")


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one service of this site has of its own. Empty or 0: the service's default."""

    memory: str = ""
    cpus: float = 0.0
    log_level: str = "INFO"
    options: dict[str, str] = {}
    devices: tuple[str, ...] = ()  # serial ports of the site's machine, for collect
    device_group: int = DIALOUT  # number of the group that may use them there
    listen: str = ""  # address and port of the site's machine, behind which collect or control listens
    secrets: dict[str, str] = {}  # name -> 'file:PATH' or 'env:NAME'


class Services(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings by service."""

    collect: ServiceSettings = ServiceSettings()
    process: ServiceSettings = ServiceSettings()
    upload: ServiceSettings = ServiceSettings()
    control: ServiceSettings = ServiceSettings()
    firmware: ServiceSettings = ServiceSettings()


class Firmware(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the devices of the site get firmware."""

    root: str = "firmware/metadata/1.root.json"  # file of the root that is trusted first


class Networks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Docker networks that exist already and are used instead of those which deploy makes. Empty: deploy makes one."""

    ot: str = ""
    bus: str = ""
    wan: str = ""
    ingress: str = ""


class EngineTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files with which a tcp:// engine is reached."""

    ca: str
    cert: str
    key: str


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How services identify themselves to `brokers`, or the site's own broker."""

    security: Literal["", "plaintext", "mtls"] = ""  # empty: mtls with the site's own broker, else plaintext
    admin: str = ""  # host:port of a broker as this machine sees it; empty: `brokers`
    certs: str = "certs"  # folder of the fleet's authority
    broker: Literal["", "container"] = ""  # container: the site has a broker of its own
    disk: str = ""  # what its topics may take
    memory: str = ""
    flush: str = ""  # what a power cut may cost


class RolloutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is demanded of new containers before they may stay."""

    health_timeout: str = "120s"
    soak: str = "0s"
    errors_max: float = 0.1


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The agent of a site that pulls what it should run. Without a `repository` the site is pushed to."""

    repository: str = ""  # host:port/folder, as the site reaches it
    push: str = ""  # the same, as operators reach it; empty: the same address
    key: str = ""  # the site's public keys, as `pipeline agent enrol` says them
    poll: str = "60s"
    ca: str = ""  # file: authority of the repository's certificate
    plain: bool = False  # http, where anybody on the way can read along
    socket: str = ""  # of the engine, on the site's machine; empty: that of `engine`, or /var/run/docker.sock
    memory: str = "256MiB"
    exchange: bool = True  # the agent for the version that publishes; False: only by `pipeline agent enrol`
    secrets: dict[str, str] = {}  # registry_user and registry_password, as 'file:PATH' or 'env:NAME'


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a site file."""

    site: str
    pipeline: str
    brokers: str = ""  # empty only if the site has its own
    partitions: int = 4
    store: str = ""
    devices: str = ""  # file of device profiles and issuers
    kafka: Kafka = Kafka()
    engine: str = "unix:///var/run/docker.sock"
    engine_tls: EngineTls | None = None
    base_image: str = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    hosts: dict[str, str] = {}
    networks: Networks = Networks()
    rollout: RolloutSettings = RolloutSettings()
    agent: AgentSettings = AgentSettings()
    firmware: Firmware | None = None
    services: Services = Services()

    @property
    def own_broker(self) -> bool:
        """Whether deploy runs a broker for this site."""
        return self.kafka.broker == "container"

    @property
    def bootstrap(self) -> str:
        """Kafka as the services see it: host:port, several with commas."""
        return OWN_BROKER if self.own_broker else self.brokers

    @property
    def security(self) -> Literal["plaintext", "mtls"]:
        """How services identify themselves."""
        return self.kafka.security or ("mtls" if self.own_broker else "plaintext")


@dataclass(frozen=True)
class SiteFile:
    """A site and where it was read from."""

    path: Path
    site: Site
    fleet: Path | None = None  # the fleet folder that it is part of
    groups: tuple[str, ...] = ()

    @property
    def pulls(self) -> bool:
        """Whether an agent at the site fetches what it should run; else it is pushed there."""
        return bool(self.site.agent.repository)

    @property
    def folder(self) -> Path:
        """What paths in the site are relative to: the fleet folder, or that of the site file if it stands alone."""
        return self.fleet or self.path.parent

    def resolve(self, path: str) -> Path:
        """A path of the site file, as seen from the working directory."""
        return self.folder / path

    @property
    def pipeline(self) -> str:
        """The pipeline's file, with ':variable' if the site file has one; as `pipelines.load.load` takes it."""
        file, colon, variable = self.site.pipeline.partition(":")
        return f"{self.resolve(file)}{colon}{variable}"


def load_site(path: Path) -> SiteFile:
    """Read and check a site file. `ConfigError` names the file, the line, the field and the cure."""
    try:
        text = path.read_text()
    except FileNotFoundError as e:
        raise ConfigError(
            f"{path}: there is no such site file: name it with --site FILE, or begin with a copy of {EXAMPLE}"
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e
    try:
        site = decode_strict(text.encode(), Site, str(path), fmt="toml")
    except ConfigError as e:
        raise ConfigError(with_line(str(e), str(path), text)) from e
    for field, check in checks(site):
        try:
            check()
        except SitestreamError as e:
            raise ConfigError(f"{path}:{line_of(field, text)}: {e}") from e
    return SiteFile(path, site)


def checks(site: Site) -> Iterator[tuple[str, Callable[[], object]]]:
    """(field, a call that raises if the field's value is wrong), for every field with a rule of its own."""
    yield "site", lambda: valid_name("site", site.site)
    yield "pipeline", lambda: _require(bool(site.pipeline), "pipeline is empty: name a Python file, such as 'press.py'")
    yield from _kafka_checks(site)
    yield (
        "partitions",
        lambda: _require(
            1 <= site.partitions <= PARTITIONS_MAX,
            f"partitions = {site.partitions}: write a number from 1 to {PARTITIONS_MAX}",
        ),
    )
    yield "store", lambda: _store(site.store)
    yield "engine", lambda: _engine(site.engine, site.engine_tls)
    for name, address in site.hosts.items():
        yield f"hosts.{name}", lambda name=name, address=address: _host(name, address)  # type: ignore[misc]  # bound per turn
    yield "rollout.health_timeout", lambda: duration_s(site.rollout.health_timeout)
    yield "rollout.soak", lambda: duration_s(site.rollout.soak)
    yield "rollout.errors_max", lambda: _share("rollout.errors_max", site.rollout.errors_max)
    yield from _agent_checks(site.agent)
    if site.firmware:
        yield from _firmware_checks(site.firmware)
    for service in SERVICES:
        for field, check in _service_checks(service, getattr(site.services, service)):
            yield f"services.{service}.{field}", check


def _agent_checks(agent: AgentSettings) -> Iterator[tuple[str, Callable[[], object]]]:
    for field, address in (("repository", agent.repository), ("push", agent.push)):
        yield (
            f"agent.{field}",
            lambda field=field, address=address: _require(  # type: ignore[misc]  # bound per turn
                not address or _REPOSITORY.fullmatch(address) is not None,
                f"agent.{field} = {address!r}: write host:port/folder, such as 'registry.example.com/press'",
            ),
        )
    yield (
        "agent.poll",
        lambda: _require(
            POLL_S_MIN <= duration_s(agent.poll) <= POLL_S_MAX,
            f"agent.poll = {agent.poll!r}: write a time from {POLL_S_MIN:g} s to {POLL_S_MAX:g} s, such as '60s'",
        ),
    )
    yield "agent.memory", lambda: size_bytes(agent.memory)
    yield (
        "agent.key",
        lambda: _require(
            not agent.key or _AGENT_KEY.fullmatch(agent.key) is not None,
            "agent.key is no key of a site: write it as  pipeline agent enrol  says it",
        ),
    )
    for name, value in agent.secrets.items():
        yield f"agent.secrets.{name}", lambda name=name, value=value: _agent_secret(name, value)  # type: ignore[misc]  # bound per turn


def _agent_secret(name: str, reference: str) -> None:
    _require(name in AGENT_SECRETS, f"agent.secrets.{name} is not known: there are {' and '.join(AGENT_SECRETS)}")
    _require(
        _SECRET_REFERENCE.fullmatch(reference) is not None,
        f"agent.secrets.{name} is not a reference: write 'file:PATH' or 'env:NAME', never the secret itself",
    )


def _firmware_checks(firmware: Firmware) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "firmware.repository", lambda: _url("firmware.repository", firmware.repository, "http", "https")
    yield "firmware.mqtt", lambda: _url("firmware.mqtt", firmware.mqtt, "mqtt", "mqtts")
    if firmware.http_url:
        yield "firmware.http_url", lambda: _url("firmware.http_url", firmware.http_url, "http")
    yield "firmware.window", lambda: windows.parse(firmware.window)
    yield "firmware.refresh", lambda: duration_s(firmware.refresh)
    yield "firmware.jitter", lambda: duration_s(firmware.jitter)
    yield "firmware.images_max", lambda: size_bytes(firmware.images_max)


def _kafka_checks(site: Site) -> Iterator[tuple[str, Callable[[], object]]]:
    own, kafka = site.own_broker, site.kafka
    if not own:
        yield "brokers", lambda: _brokers("brokers", site.brokers)
        if kafka.admin:
            yield "kafka.admin", lambda: _brokers("kafka.admin", kafka.admin)
        for field in ("disk", "memory", "flush"):
            unused = f"kafka.{field} is of a broker that deploy runs: add  broker = 'container' , or leave it out"
            yield f"kafka.{field}", lambda f=field, text=unused: _require(not getattr(kafka, f), text)  # type: ignore[misc]  # bound per turn
        return
    away = "the site has its own broker (kafka.broker = 'container'): leave it out"
    yield "brokers", lambda: _require(not site.brokers, f"brokers = {site.brokers!r}: {away}")
    yield "kafka.admin", lambda: _require(not kafka.admin, f"kafka.admin = {kafka.admin!r}: {away}")
    yield "kafka.security", lambda: _require(kafka.security != "plaintext", f"kafka.security = 'plaintext': {away}")
    yield "networks.bus", lambda: _require(not site.networks.bus, f"networks.bus = {site.networks.bus!r}: {away}")
    disk = "kafka.disk is missing: write what the topics of the site may take of its disk, such as disk = '20GiB'"
    yield "kafka.disk", lambda: _require(bool(kafka.disk), disk)
    yield "kafka.disk", lambda: size_bytes(kafka.disk)
    yield "kafka.memory", lambda: kafka.memory and sizing.heap_bytes(size_bytes(kafka.memory))
    yield "kafka.flush", lambda: kafka.flush and flush_ms(kafka.flush)


def _service_checks(service: str, own: ServiceSettings) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "memory", lambda: own.memory and size_bytes(own.memory)
    yield (
        "cpus",
        lambda: _require(0 <= own.cpus <= 1024, f"services.{service}.cpus = {own.cpus}: write a number such as 0.5"),
    )
    yield (
        "log_level",
        lambda: _require(
            own.log_level in _LOG_LEVELS,
            f"services.{service}.log_level = {own.log_level!r}: write {', '.join(_LOG_LEVELS)}",
        ),
    )
    yield "devices", lambda: _devices(service, own.devices)
    yield (
        "device_group",
        lambda: _require(
            1 <= own.device_group <= GROUP_MAX,
            f"services.{service}.device_group = {own.device_group}: write the number of the group that owns the ports there, "
            f"such as {DIALOUT} for dialout; not 0, which is root's",
        ),
    )
    yield "listen", lambda: _listen(service, own.listen)
    for name, value in own.options.items():
        yield f"options.{name}", lambda name=name, value=value: _option(service, name, value)  # type: ignore[misc]  # bound per turn
    for name, value in own.secrets.items():
        yield f"secrets.{name}", lambda name=name, value=value: _secret(service, name, value)  # type: ignore[misc]  # bound per turn


SERVICES = tuple(f.name for f in msgspec.structs.fields(Services))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _share(field: str, value: float) -> None:
    _require(0 <= value <= 1, f"{field} = {value:g}: write a share from 0 to 1, such as 0.1 for a tenth")


def _brokers(field: str, text: str) -> None:
    _require(
        bool(text),
        "there are no `brokers`: write brokers = 'host:port', or have deploy run one:  [kafka] broker = 'container'",
    )
    for broker in text.split(","):
        _require(
            _BROKER.fullmatch(broker.strip()) is not None,
            f"{field}: {broker.strip()!r} is not an address: write host:port, several with commas, such as 'kafka:9092'",
        )


def _store(url: str) -> None:
    _no_login("store", url)
    _require(
        not url or (_is_url(url) and re.match(r"(file:///.|[a-z0-9]+://[^/]+)", url) is not None),
        f"store = {url!r}: write 's3://bucket/folder', or 'file:///folder' for a folder of the site's own machine",
    )


def _engine(url: str, tls: EngineTls | None) -> None:
    _no_login("engine", url)
    found = _ENGINE.fullmatch(url)
    _require(
        found is not None and 0 < int(found["port"] or 22) < 65_536,
        f"engine = {url!r}: write 'unix:///var/run/docker.sock', 'ssh://user@host', 'ssh://user@host:2222' or 'tcp://host:2376'",
    )
    _require(
        tls is not None or not url.startswith("tcp://"),
        f"engine = {url!r}: without TLS whoever reaches this port is root on the machine: add [engine_tls] with ca, cert and key",
    )


def _url(field: str, url: str, *schemes: str) -> None:
    wanted = " or ".join(f"'{scheme}://host'" for scheme in schemes)
    _no_login(field, url)
    _require(parts_of(url, *schemes) is not None, f"{field} = {masked(url)!r}: write {wanted}")


def _is_url(text: str) -> bool:
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


def _host(name: str, address: str) -> None:
    _require(_HOST.fullmatch(name) is not None, f"hosts: {name!r} is not a host name")
    try:
        _require(address == GATEWAY or bool(ipaddress.ip_address(address)), "")
    except ValueError as e:
        raise ConfigError(
            f"hosts.{name} = {address!r}: write an IP address, or {GATEWAY!r} for the site's own machine"
        ) from e


def _devices(service: str, paths: tuple[str, ...]) -> None:
    _require(
        not paths or service == "collect",
        f"services.{service}.devices: only collect uses serial ports: leave it out here",
    )
    for path in paths:
        _require(
            _DEVICE.fullmatch(path) is not None and ".." not in path,
            f"services.{service}.devices: {path!r} is not a serial port: write a path such as '/dev/ttyUSB0', "
            "or better one below '/dev/serial/by-id', which stays the same",
        )


def listen_of(text: str) -> tuple[str, int]:
    """Address and port of '0.0.0.0:8443' or '[::]:8443'; ValueError if it is neither."""
    address, _, port = text.rpartition(":")
    plain = address.removeprefix("[").removesuffix("]")
    if (":" in plain) != address.startswith("[") or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ValueError(text)
    return str(ipaddress.ip_address(plain)), int(port)


def _listen(service: str, text: str) -> None:
    _require(
        not text or service in ("collect", "control"),
        f"services.{service}.listen: only collect and control listen: leave it out here",
    )
    try:
        listen_of(text or "0.0.0.0:1")
    except ValueError as e:
        raise ConfigError(
            f"services.{service}.listen = {text!r}: write an IP address of the site's machine and a port, such as '0.0.0.0:8443'"
        ) from e


def _option(service: str, name: str, value: str) -> None:
    _require(
        name != "off_switch" or re.fullmatch(r"/[^/:]+(/[^/:]+)*", value) is not None,
        f"services.{service}.options.off_switch = {value!r}: write a folder of the site's machine, such as '/srv/press/switch'",
    )
    _require(
        not _LOOKS_SECRET.search(name),
        f"services.{service}.options.{name} looks like a secret, and options can be seen by all: "
        f"put it under [services.{service}.secrets] as 'file:PATH' or 'env:NAME'",
    )
    _no_login(f"services.{service}.options.{name}", value)


def _no_login(field: str, url: str) -> None:
    _require(not _URL_LOGIN.search(url), f"{field} holds a password: use a secret instead")


def _secret(service: str, name: str, reference: str) -> None:
    _require(_SECRET_NAME.fullmatch(name) is not None, f"services.{service}.secrets: {name!r} is not a plain file name")
    _require(
        _SECRET_REFERENCE.fullmatch(reference) is not None,  # the value is not shown: it may be the secret itself
        f"services.{service}.secrets.{name} is not a reference: write 'file:PATH' or 'env:NAME', never the secret itself",
    )
