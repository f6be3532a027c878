"""A site whose services have the rights that they need and no others, on a real engine, and a container that has too many."""

from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.models.containers import Container
from paho.mqtt import publish

from containers import names
from containers.acls import bearer
from containers.child import free_port
from containers.commands import CreateNetwork
from containers.engine import Engine as Connected
from containers.firmware.shelf import Shelf
from containers.profiles import FIRMWARE, INGRESS, INTERNAL, PROFILES
from containers.repository.ring import Ring
from pipelines.clock import SystemClock
from tests.bed import find_part, wait_until
from tests.bed.engine import HOST_IN_CONTAINERS, Engine
from tests.bus.fleet import Fleet, running
from tests.containers.plant import Plant
from tests.privilege.parts import MQTT_USERS, GuardedMosquitto, GuardedS3, Machine

NAME = "least"
SIGNING_KEY = "campaigns-1.key"  # of firmware; the one that is most at hand
SERVICES = {**PROFILES, "firmware": FIRMWARE}
ROLES = [role for role in INTERNAL if role != INGRESS]  # of a site that publishes no port
INSIDE = Path(__file__).with_name("inside.py").read_text()
SITE = """\
site = "least"
pipeline = "tiny.py"
brokers = "{kafka}"
partitions = 1
store = "s3://{bucket}/least"
engine = "{engine}"
base_image = "{base}"
[firmware]
root = "firmware/metadata/1.root.json"
repository = "http://store:{web_port}"
mqtt = "mqtt://edge:{mqtt_port}"
mqtt_username = "firmware"
refresh = "2s"
[hosts]
"{host}" = "gateway"
edge = "{edge}"
store = "{store}"
[kafka]
security = "mtls"
admin = "{admin}"
certs = "{certs}"
[services.upload.options]
s3_endpoint = "http://store:{s3_port}"
[services.upload.secrets]
s3_access_key = "file:s3_access_key"
s3_secret_key = "file:s3_secret_key"
[services.collect.secrets]
mqtt = "file:mqtt_collect"
[services.control.secrets]
mqtt = "file:mqtt_control"
[services.firmware.secrets]
mqtt_password = "file:mqtt_firmware"
"""
PIPELINE = """\
from connectors import control, mqtt, parquet
from connectors.secrets import secret
from pipelines import Col, Key, Pipeline, Schema, agg, tumbling


class Reading(Schema):
    device = Key[str]()
    value = Col[float]("mm/s")


class Second(Schema):
    n = agg.count()


EDGE = "mqtt://edge:{port}"
tiny = Pipeline("tiny")
reading = tiny.read(
    mqtt.source(Reading, broker=EDGE, topic="tiny/{{device}}/v", silence="300ms", username="collect", password=secret("mqtt"))
)
second = reading.window(tumbling("1s", late="0s"), Second)
second.to(parquet.dataset("tiny/second", every="1s"))
command = control.command(
    topic="tiny/{{device}}/cmd", verb="mark", expires="30s", n=Second.n, broker=EDGE, username="control", password=secret("mqtt")
)
second.to(command)
"""
# What the container that has too many rights has: those of root that the acts need, but for one that harms (SYS_RESOURCE).
CAPABILITIES = [
    "CHOWN", "DAC_READ_SEARCH", "MKNOD", "NET_ADMIN", "NET_RAW", "SETGID", "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
    "SYS_MODULE", "SYS_NICE", "SYS_PTRACE", "SYS_RAWIO", "SYSLOG",
]  # fmt: skip
SLEEP = ["python3", "-c", "import time; time.sleep(3600)"]

Verdict = tuple[bool, str]


@dataclass
class LeastSite(Plant):
    """`edge` is the machine of the MQTT broker, `world` that of the store, `lan` one more that this machine has a way to."""

    fleet: Fleet = field(kw_only=True)
    edge: Machine = field(kw_only=True)
    world: Machine = field(kw_only=True)
    lan: Machine = field(kw_only=True)
    web_port: int = field(kw_only=True)
    metadata: str = field(kw_only=True)  # an address as clouds give machines their credentials at

    def write(self, **_: str) -> None:
        """Write the site file, the pipeline file and the secrets."""
        assert isinstance(self.s3, GuardedS3)
        text = SITE.format(
            kafka=self.kafka.advertised_bootstrap, bucket=self.s3.bucket, engine=self.engine.url, base=self.engine.base_image,
            host=HOST_IN_CONTAINERS, edge=self.edge.address, store=self.world.address, admin=self.kafka.tls_bootstrap,
            certs=self.fleet.authority.folder, s3_port=self.s3.port,
            web_port=self.web_port, mqtt_port=self.mosquitto.port,
        )  # fmt: skip
        (self.folder / "site.toml").write_text(text)
        (self.folder / "tiny.py").write_text(PIPELINE.format(port=self.mosquitto.port))
        (self.folder / "s3_access_key").write_text(self.s3.user)
        (self.folder / "s3_secret_key").write_text(self.s3.password)
        for user, password in MQTT_USERS.items():
            (self.folder / f"mqtt_{user}").write_text(password)

    def readings_flow(self) -> None:
        """See `Plant.readings_flow`."""
        before = self.counted()
        messages: list[Any] = [(f"tiny/d{i}/v", f'{{"value": {i}}}', 1, False) for i in range(5)]
        login: Any = {"username": "device", "password": MQTT_USERS["device"]}
        publish.multiple(messages, hostname=self.edge.address, port=self.mosquitto.port, auth=login)
        wait_until(lambda: self.counted() >= before + 5, 40, "the readings to reach the store")

    def pid(self, service: str) -> int:
        """The service's process as this machine sees it."""
        return int(self.container(service).attrs["State"]["Pid"])

    def address(self, service: str, role: str) -> str:
        """Where a service is on one of its networks."""
        networks = self.container(service).attrs["NetworkSettings"]["Networks"]
        return str(networks[names.network(NAME, role)]["IPAddress"])

    def gateway(self, role: str) -> str:
        """This machine's own address on a network of the site."""
        return _subnet(self.engine, role)[1]


def ask(container: Container, asked: Mapping[str, Any], *, program: str = INSIDE, user: str = "") -> Any:
    """What a program says within a container, asked by JSON and answering by it."""
    said: Any = container.exec_run(["python3", "-c", program, json.dumps(asked)], user=user)
    code, text = said.exit_code, said.output.decode()
    assert code == 0, text
    return json.loads(text.splitlines()[-1])


def attempt(
    container: Container, acts: Mapping[str, Sequence[Any]], how: str = "try", **options: Any
) -> dict[str, Verdict]:
    """For each act whether it is allowed, and what happened."""
    found = ask(container, {how: acts, **options.pop("more", {})}, **options)
    return {name: (allowed, said) for name, (allowed, said) in found.items()}


@contextmanager
def deployed(folder: Path, engine: Engine) -> Iterator[LeastSite]:
    """The site, with everything that belongs to it."""
    with ExitStack() as stack:
        roles = {role: names.network(NAME, role) for role in ROLES}
        connected = Connected(engine.url)
        stack.callback(connected.close)
        for role, name in roles.items():  # as deploy would, for the edge must be there before the services are
            connected.run(CreateNetwork(name, INTERNAL[role], {names.SITE: NAME}))
        fleet = stack.enter_context(running(folder / "fleet"))
        number = free_port() % 250
        bridge, gateway, last = _subnet(engine, "ot")
        edge = stack.enter_context(Machine("edge", last, gateway, bridge=bridge))
        world = stack.enter_context(Machine("wan", f"198.18.{number}.2", f"198.18.{number}.1"))
        lan = stack.enter_context(Machine("lan", f"198.19.{number}.2", f"198.19.{number}.1"))
        world.also_at(metadata := f"169.254.{number}.254")
        web_port = free_port()
        for part in ("mqtt", "s3", "site"):
            (folder / part).mkdir()
        signed = Shelf(folder / "site/firmware", Ring(folder / "site/firmware-keys"), SystemClock())
        signed.keys.init()
        for machine in (world, lan):
            stack.callback(machine.serve(web_port, signed.folder, folder / f"{machine.name}.log").stop)
        mosquitto = stack.enter_context(GuardedMosquitto(folder / "mqtt", edge))
        s3 = stack.enter_context(GuardedS3(folder / "s3", world))
        s3.let_upload(NAME)
        parts: tuple[Any, ...] = (engine, fleet.kafka, mosquitto, s3)
        site = LeastSite(
            NAME, folder / "site", *parts, fleet=fleet, edge=edge, world=world, lan=lan, web_port=web_port, metadata=metadata
        )  # fmt: skip
        site.write()
        code, err = site.deploy()
        stack.callback(_removed, site)
        assert code == 0, err
        yield site


def _removed(site: LeastSite) -> None:
    for container in site.engine.client.containers.list(filters={"label": f"{names.SITE}={NAME}"}):
        container.remove(force=True)  # nobody waits for them to drain
    site.run("destroy", "-y")


def _subnet(engine: Engine, role: str) -> tuple[str, str, str]:
    """Bridge, gateway and last address of a network."""
    network = engine.client.networks.get(names.network(NAME, role))
    config = network.attrs["IPAM"]["Config"][0]
    return f"br-{str(network.id)[:12]}", config["Gateway"], str(ipaddress.ip_network(config["Subnet"])[-2])


@contextmanager
def loose(site: LeastSite, folder: Path) -> Iterator[Container]:
    """The image of `upload` with too many rights, and with keys that may do everything."""
    folder.chmod(0o755)
    shutil.copy(find_part("sh"), folder / "sh")
    shutil.copy(site.folder / "firmware-keys" / SIGNING_KEY, folder)
    (folder / "program").touch()
    (folder / "program").chmod(0o4755)
    secrets = folder / "secrets"
    site.fleet.secrets(bearer(NAME, "admin"), secrets)
    (secrets / "s3_access_key").write_text(site.s3.access_key)
    (secrets / "s3_secret_key").write_text(site.s3.secret_key)
    (secrets / "mqtt").write_text(MQTT_USERS["device"])
    assert isinstance(site.s3, GuardedS3)
    settings = site.inside("upload", "print(open('/run/sitestream/settings.json').read())")
    (folder / "settings.json").write_text(settings)
    upload, first, *more = site.container("upload"), *(names.network(NAME, role) for role in ROLES)
    others = [f"{site.container(s).labels[names.CONFIG]}:/mnt/{s}" for s in SERVICES]
    binds = [
        "/sys:/sys",
        f"{folder}:/run/sitestream",
        f"{site.engine.folder}/docker.sock:/var/run/docker.sock",
        *others,
    ]
    config = {
        "Image": upload.attrs["Image"],
        "User": "0",
        "Entrypoint": SLEEP,
        "Env": [f"S3_SECRET_KEY={site.s3.password}"],
        "HostConfig": {
            "PidMode": "host",
            "IpcMode": "host",
            "UTSMode": "host",
            "CgroupnsMode": "host",
            "CapAdd": CAPABILITIES,
            "SecurityOpt": ["seccomp=unconfined"],
            "MaskedPaths": [],
            "ReadonlyPaths": [],
            "Binds": binds,
            "ExtraHosts": upload.attrs["HostConfig"]["ExtraHosts"],
            "NetworkMode": first,
        },
    }
    with _started(site, config) as container:
        for network in more:
            site.engine.client.networks.get(network).connect(container)
        yield container


@contextmanager
def twin(site: LeastSite, service: str) -> Iterator[Container]:
    """A container with the rights and limits of a service, in which the service does not run."""
    seen = site.container(service).attrs
    config = {**seen["Config"], "Entrypoint": SLEEP, "Labels": {}, "HostConfig": seen["HostConfig"] | {"Mounts": []}}
    with _started(site, config | {"HostConfig": config["HostConfig"] | {"NetworkMode": "none"}}) as container:
        yield container


@contextmanager
def _started(site: LeastSite, config: Mapping[str, Any]) -> Iterator[Container]:
    api: Any = site.engine.client.api
    made = api.create_container_from_config(config)["Id"]
    container = site.engine.client.containers.get(made)
    try:
        container.start()
        container.reload()
        yield container
    finally:
        container.remove(force=True)
