"""A service's container, as Docker would be given it, in the words of Kubernetes.

Three things have no word there and are the kubelet's: the limit of processes (podPidsLimit), of logs (containerLogMaxSize), and
`noexec` for /tmp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from containers import names
from containers.kubernetes import storage
from containers.kubernetes.network import port_name
from containers.kubernetes.scope import Object, Scope
from containers.profiles import HEALTH_PATH, METRICS_PORT, SECOND_NS
from containers.wanted import Desired

METRICS_PATH = "/metrics"
SCALES = "process"  # the one service that may have several pods: Kafka shares the partitions out among them


def deployment(scope: Scope, d: Desired, image: str, listens: Sequence[int]) -> Object:
    """A service's pods, which listen on those ports besides that of the metrics.

    The old ones end before new ones start, as with Docker: two versions side by side would each find the state, the session or
    the spool of the other. How many there are of `process` is the autoscaler's to say.
    """
    template = {
        "metadata": {"labels": scope.selector(d.service), "annotations": _annotations(d)},
        "spec": pod(d, image, listens),
    }
    spec: dict[str, Any] = {} if d.service == SCALES else {"replicas": 1}
    spec |= {
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": scope.selector(d.service)},
        "template": template,
    }
    return scope.made("apps/v1", "Deployment", d.service, d.service, spec=spec)


def pod(d: Desired, image: str, listens: Sequence[int]) -> dict[str, Any]:
    """The specification of a service's pods."""
    config = d.container(1, "").config
    host = config["HostConfig"]
    spec = {
        "serviceAccountName": names.PREFIX,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": config["StopTimeout"],
        "securityContext": _user(config["User"]),
        "containers": [
            {
                "name": d.service,
                "image": image,
                "ports": [
                    {"name": "metrics", "containerPort": METRICS_PORT},
                    *({"name": port_name(port), "containerPort": port} for port in listens),
                ],
                "resources": {"limits": _limits(host)},
                "securityContext": _confined(host),
                **_probes(config["Healthcheck"]),
                "volumeMounts": storage.mounts(host),
            }
        ],
        "volumes": storage.volumes(d),
    }
    aliases = _aliases(host["ExtraHosts"])
    return spec | ({"hostAliases": aliases} if aliases else {})


def _user(user: str) -> dict[str, Any]:
    """Docker's default filter of system calls is the runtime's default here. Volumes belong to the group."""
    uid, gid = map(int, user.split(":"))
    return {
        "runAsNonRoot": uid != 0,
        "runAsUser": uid,
        "runAsGroup": gid,
        "fsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _confined(host: dict[str, Any]) -> dict[str, Any]:
    return {
        "readOnlyRootFilesystem": host["ReadonlyRootfs"],
        "allowPrivilegeEscalation": "no-new-privileges" not in host["SecurityOpt"],
        "capabilities": {"drop": host["CapDrop"]},
    }


def _limits(host: dict[str, Any]) -> dict[str, str]:
    """What is not said of requests is then the same: a pod gets what it may use."""
    mib, rest = divmod(host["Memory"], 2**20)
    return {"cpu": f"{host['NanoCpus'] // 10**6}m", "memory": f"{host['Memory']}" if rest else f"{mib}Mi"}


def _probes(check: dict[str, Any]) -> dict[str, Any]:
    """Ready when healthy. Alive while it answers at all: a broker that is away is no reason to start again."""
    often = {"periodSeconds": check["Interval"] // SECOND_NS, "timeoutSeconds": check["Timeout"] // SECOND_NS}
    start = check["Retries"] + check["StartPeriod"] // check["Interval"]
    alive, healthy = ({"path": path, "port": "metrics"} for path in (METRICS_PATH, HEALTH_PATH))
    return {
        "startupProbe": {"httpGet": alive, **often, "failureThreshold": start},
        "livenessProbe": {"httpGet": alive, **often, "failureThreshold": check["Retries"]},
        "readinessProbe": {"httpGet": healthy, **often, "failureThreshold": check["Retries"]},
    }


def _aliases(hosts: list[str]) -> list[dict[str, Any]]:
    """'name:address' each -> names by address."""
    by_address: dict[str, list[str]] = {}
    for host in hosts:
        name, _, address = host.partition(":")
        by_address.setdefault(address, []).append(name)
    return [{"ip": address, "hostnames": found} for address, found in by_address.items()]


def _annotations(d: Desired) -> dict[str, str]:
    """The fingerprint, by which other settings of the same image are seen, and where Prometheus finds the metrics."""
    return {
        names.FINGERPRINT: d.fingerprint,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/path": METRICS_PATH,
    }
