"""What a site or its pipeline asks for and Kubernetes cannot give: each a `ConfigError` with its cure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from connectors.replay import FolderSource, ReplaySource
from containers.desired import readable
from containers.profiles import INTERNAL
from containers.site import GATEWAY, SiteFile, listen_of
from pipelines.errors import ConfigError
from pipelines.plan import Plan

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGES = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")


def check(site: SiteFile, plan: Plan, namespace: str, images: str) -> None:
    """`ConfigError` names the first thing that does not fit, where it stands and what to write."""
    for problem in _problems(site, plan, namespace, images):
        raise ConfigError(problem)


def _problems(site: SiteFile, plan: Plan, namespace: str, images: str) -> Iterator[str]:
    if not _NAMESPACE.fullmatch(namespace):
        yield (
            f"{namespace!r} cannot be the name of a namespace: give another with --namespace: lower-case letters, digits and "
            "'-', at most 63"
        )
    if not _IMAGES.fullmatch(images):
        yield f"--images {images!r} is not the place of images: write REGISTRY/PREFIX, such as 'registry.example:5000/plant'"
    if site.site.store.startswith("file:") and any(plan.sinks_of("parquet")):
        yield (
            f"{site.path}: store = {site.site.store!r} is a folder of one machine, and a pod may run on any: "
            "write a store of the network, such as 's3://bucket/folder'"
        )
    if site.site.own_broker:
        yield (
            f"{site.path}: kafka.broker = 'container': 'pipeline deploy' runs a site's own broker on a Docker engine, not in a "
            "cluster: leave it out, and name brokers that the cluster reaches as `brokers`"
        )
    if site.site.security == "mtls":
        yield (
            f"{site.path}: kafka.security = 'mtls': certificates are brought to Docker engines by 'pipeline deploy', not into a "
            "cluster: leave it out, and name brokers that the cluster reaches in plain text"
        )
    for name, address in site.site.hosts.items():
        if address == GATEWAY:
            yield (
                f"{site.path}: hosts.{name} = {GATEWAY!r}: a pod has no machine of its site's own: write an IP address, or leave "
                "the line out if the cluster's DNS knows the name"
            )
    for role in INTERNAL:
        if name := getattr(site.site.networks, role):
            yield (
                f"{site.path}: networks.{role} = {name!r} is a network of Docker: leave it out; pods go where the cluster's "
                "nodes can, as far as the network policies allow"
            )
    yield from _of_machines(site)
    for stream, source in readable(plan).items():
        if isinstance(source, ReplaySource | FolderSource):
            files = source.path if isinstance(source, ReplaySource) else source.folder
            yield (
                f"stream {stream}: reads the files {files!r}, and no pod has them: read from a broker, or compute "
                "recorded readings with 'pipeline backfill'"
            )


def _of_machines(site: SiteFile) -> Iterator[str]:
    """What services would have of their machine."""
    if site.site.services.collect.devices:
        yield (
            f"{site.path}: services.collect.devices: a pod gets no serial port without being privileged: read it through a "
            "gateway ('modbus+rtu://…'), or run that site on Docker"
        )
    if switch := site.site.services.control.options.get("off_switch"):
        yield (
            f"{site.path}: services.control.options.off_switch = {switch!r} is a folder of one machine, and a pod may run on "
            "any: leave it out; 'pipeline device off' switches off as well"
        )
    if listen := site.site.services.control.options.get("listen"):
        yield (
            f"{site.path}: services.control.options.listen = {listen!r}: nobody would find the pod: write it as "
            "services.control.listen, and a Service control leads there"
        )
    for service in ("collect", "control"):
        listen = getattr(site.site.services, service).listen
        if listen and not ipaddress.ip_address(listen_of(listen)[0]).is_unspecified:
            yield (
                f"{site.path}: services.{service}.listen = {listen!r}: a pod has no address of a machine: write "
                f"'0.0.0.0:{listen_of(listen)[1]}', the port of the Service {service} in the cluster"
            )
