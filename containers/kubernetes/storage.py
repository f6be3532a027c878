"""What a pod finds on its disk: settings and secrets as Docker's configuration volume has them, and a claim for what it keeps."""

from __future__ import annotations

import shlex
from typing import Any

from connectors.upload.options import limits_of
from containers.kubernetes.scope import Object, Scope
from containers.profiles import CONFIG_DIR, DATA_DIR, SETTINGS_FILE, TMP_MIB_MAX
from containers.site import ServiceSettings, SiteFile
from containers.wanted import Desired

CLAIM_MIB_MIN = 1024  # the least that common provisioners give
SPOOL_PART = 0.8  # of the upload's claim; the rest is for its journal and what a file system needs itself
_MIB = 2**20


def config_map(scope: Scope, d: Desired) -> Object:
    """The settings. Another fingerprint is another map, so that a pod that goes back finds what it had."""
    (settings, *_) = d.config_files
    assert isinstance(settings.content, bytes)
    data = {settings.path: settings.content.decode()}
    return scope.made("v1", "ConfigMap", _map_name(d), d.service, immutable=True, data=data)


def claim(scope: Scope, d: Desired) -> Object:
    """The claim for what a service keeps, of the cluster's default storage class. It may grow later, by the same manifest."""
    needed = limits_of(d.settings.options).spool_bytes_max / SPOOL_PART if d.service == "upload" else 0
    size = f"{max(CLAIM_MIB_MIN, -(-int(needed) // _MIB))}Mi"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return scope.made("v1", "PersistentVolumeClaim", _claim_name(d), d.service, spec=spec)


def volumes(d: Desired) -> list[dict[str, Any]]:
    """The volumes of a pod, each called as `mounts` does."""
    sources: list[dict[str, Any]] = [
        {"configMap": {"name": _map_name(d), "items": [_item(SETTINGS_FILE, SETTINGS_FILE)]}}
    ]
    if d.secrets:
        # The kubelet adds the right to read for the pod's group, which is its user's own.
        items = [_item(name, s.path) | {"mode": s.mode} for name, s in zip(d.secret_names, d.secrets, strict=True)]
        sources.append({"secret": {"name": secret_name(d.service), "items": items}})
    found: list[dict[str, Any]] = [
        {"name": "config", "projected": {"sources": sources, "defaultMode": 0o444}},
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": f"{TMP_MIB_MAX}Mi"}},
    ]
    if d.profile.keeps:
        found.append({"name": "data", "persistentVolumeClaim": {"claimName": _claim_name(d)}})
    return found


def mounts(host: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a container has its volumes, from the same words for Docker."""
    called = {CONFIG_DIR: "config", DATA_DIR: "data"}
    found = [{"name": called[m["Target"]], "mountPath": m["Target"], "readOnly": m["ReadOnly"]} for m in host["Mounts"]]
    return [*found, *({"name": "tmp", "mountPath": target, "readOnly": False} for target in host["Tmpfs"])]


def secret_command(site: SiteFile, scope: Scope, d: Desired) -> str:
    """What the operator runs (bash) to bring a service's secrets into the cluster, or to change them: references, no values."""
    own: ServiceSettings = getattr(site.site.services, d.service)
    words = ["kubectl", "create", "secret", "generic", secret_name(d.service), "--namespace", scope.namespace]
    files = []
    for name, reference in sorted(own.secrets.items()):
        kind, _, where = reference.partition(":")
        source = shlex.quote(str(site.resolve(where))) if kind == "file" else f'<(printf %s "${{{where}}}")'
        files.append(f"--from-file={name}={source}")
    return " ".join([*words, *files, "--dry-run=client -o yaml | kubectl apply -f -"])


def secret_name(service: str) -> str:
    """The Secret that the operator makes for a service."""
    return f"{service}-secrets"


def _item(key: str, path: str) -> dict[str, Any]:
    return {"key": key, "path": path}


def _map_name(d: Desired) -> str:
    return f"{d.service}-{d.fingerprint}"


def _claim_name(d: Desired) -> str:
    return f"{d.service}-data"
