"""Who may speak with whom: the networks of the profiles as network policies. What is not named here is denied.

A policy can name addresses and namespaces, not hosts. So an address is allowed alone; a Service of the cluster by its
namespace; any other name by its port, wherever it leads.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from connectors import http, opcua
from connectors.control import destination, devices
from containers.desired import pushed, readable
from containers.kubernetes.scope import Object, Scope
from containers.profiles import FIRMWARE, METRICS_PORT
from containers.wanted import Desired
from pipelines.errors import ConfigError
from pipelines.plan import Plan
from pipelines.urls import BROKER_PORTS

API = "networking.k8s.io/v1"
COLLECT = "collect"
DNS_PORT = 53
DEFAULT_PORTS = {**BROKER_PORTS, "http": 80, "https": 443, "opc.tcp": opcua.PORT, "tcp": 502}
NAMESPACE = "kubernetes.io/metadata.name"
DNS_PODS = {
    "namespaceSelector": {"matchLabels": {NAMESPACE: "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
_SERVICE = re.compile(r"(?:[^.]+\.)+([a-z0-9-]+)\.svc(?:\..+)?")  # kafka.NAMESPACE.svc.cluster.local


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service goes. No host: to any."""

    host: str
    port: int


def deny_all(scope: Scope) -> Object:
    """The policy that applies where no other does."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return scope.made(API, "NetworkPolicy", "default-deny", spec=spec)


def policy(scope: Scope, d: Desired, plan: Plan) -> Object:
    """In: metrics, for pods of the cluster. Out: DNS, and the endpoints of the service's networks."""
    dns = {"ports": [{"protocol": p, "port": DNS_PORT} for p in ("UDP", "TCP")], "to": [DNS_PODS]}
    ways = dict.fromkeys(e for role in d.profile.networks for e in endpoints(role, d, plan))
    spec = {
        "podSelector": {"matchLabels": scope.selector(d.service)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [_tcp(METRICS_PORT)], "from": [{"namespaceSelector": {}}]}, *_open(listens(d, plan))],
        "egress": [dns, *(_way(e, d.hosts) for e in ways)],
    }
    return scope.made(API, "NetworkPolicy", d.service, d.service, spec=spec)


def listens(d: Desired, plan: Plan) -> dict[int, int]:
    """The ports on which a service is spoken to over HTTP, each by that of its Service in front of it.

    `collect` always has them, for a cluster has ways of its own that lead there; `listen` only says another number.
    """
    if d.port is not None:
        return {d.port.outside: d.port.inside}
    ports = {source.address[1] for source in pushed(plan).values()} if d.service == COLLECT else ()
    return {port: port for port in sorted(ports)}


def service(scope: Scope, d: Desired, ports: Mapping[int, int]) -> Object:
    """Where a service is reached, by pods and by an Ingress or load balancer in front of it: in the cluster alone (ClusterIP)."""
    named = [{"name": port_name(inside), "port": port, "targetPort": inside} for port, inside in ports.items()]
    return scope.made(
        "v1", "Service", d.service, d.service, spec={"selector": scope.selector(d.service), "ports": named}
    )


def port_name(port: int) -> str:
    """What a pod's port is called."""
    return f"http-{port}"


def _open(ports: Mapping[int, int]) -> list[dict[str, Any]]:
    """Whoever has a token may come, from anywhere: where an Ingress comes from is not known here."""
    return [{"ports": [_tcp(inside) for inside in ports.values()]}] if ports else []


def endpoints(role: str, d: Desired, plan: Plan) -> list[Endpoint]:
    """Where a service goes in the network that plays the part `role` (ot, bus, wan)."""
    return list({"bus": _brokers, "ot": _devices, "wan": _store}[role](d, plan))


def _brokers(d: Desired, plan: Plan) -> Iterator[Endpoint]:
    for broker in d.settings.brokers.split(","):
        host, _, port = broker.strip().rpartition(":")
        yield Endpoint(host.strip("[]"), int(port))
    yield from map(_endpoint, d.asks)


def _devices(d: Desired, plan: Plan) -> Iterator[Endpoint]:
    """Sources that make their readings themselves, or are posted to, go nowhere."""
    if d.profile is FIRMWARE:
        yield _endpoint(d.settings.options["mqtt"])
        return
    if d.profile.sink == "control":
        yield from _commanded(d, plan)
        return
    for source in readable(plan).values():
        if url := getattr(source, "broker", None) or getattr(source, "server", None):
            yield _endpoint(url)
        if isinstance(source, http.PollSource):
            yield from (_endpoint(url) for _, url in source.urls)


def _commanded(d: Desired, plan: Plan) -> Iterator[Endpoint]:
    """The MQTT broker, if any device hears commands there, and the devices that are written to directly."""
    profiles = devices.parse(d.settings.devices, "devices.toml").profiles.values() if d.settings.devices else ()
    if any(plan.sinks_of("control")) or any(p.topic for p in profiles):
        yield _endpoint(destination(plan, d.settings.options.get("mqtt"))[0])
    for profile in profiles:
        if url := profile.modbus or (profile.opcua and profile.opcua.server):
            yield _endpoint(url)


def _store(d: Desired, plan: Plan) -> Iterator[Endpoint]:
    url = "repository" if d.profile is FIRMWARE else "s3_endpoint"
    yield _endpoint(d.settings.options.get(url, "https://"))


def _endpoint(url: str) -> Endpoint:
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise ConfigError(f"{url!r} is not an address: write one such as 'https://host:9000' or 'mqtt://host:1883'")
    return Endpoint(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])


def _way(to: Endpoint, hosts: Mapping[str, str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"ports": [_tcp(to.port)]}
    try:
        address = ipaddress.ip_address(hosts.get(to.host, to.host))
    except ValueError:
        if service := _SERVICE.fullmatch(to.host):
            rule["to"] = [{"namespaceSelector": {"matchLabels": {NAMESPACE: service[1]}}}]
        return rule
    return rule | {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]}


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
