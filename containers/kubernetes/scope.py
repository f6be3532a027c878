"""Where objects belong and how they are called and labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from containers import names

Object = dict[str, Any]
LABEL = "app.kubernetes.io"  # https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/


@dataclass(frozen=True, slots=True)
class Scope:
    """A site's namespace, which is its alone, so that a service's objects can be called as the service is."""

    namespace: str

    def selector(self, service: str) -> dict[str, str]:
        """Labels by which the pods of a service are found; they never change."""
        return {
            f"{LABEL}/name": names.PREFIX,
            f"{LABEL}/instance": self.namespace,
            f"{LABEL}/component": service,
        }

    def labels(self, service: str = "") -> dict[str, str]:
        """Labels of an object, of one service or of all."""
        own = self.selector(service)
        if not service:
            del own[f"{LABEL}/component"]
        return own | {f"{LABEL}/managed-by": "sitestream-pipeline"}

    def made(self, api: str, kind: str, name: str, service: str = "", /, **fields: Any) -> Object:
        """An object of the namespace."""
        about = {"name": name, "namespace": self.namespace, "labels": self.labels(service)}
        return {"apiVersion": api, "kind": kind, "metadata": about, **fields}

    def shared(self, annotations: Mapping[str, str]) -> list[Object]:
        """What all services have in common: the namespace, which admits nothing but restricted pods, and who the pods are."""
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        about = {"name": self.namespace, "labels": self.labels() | restricted, "annotations": dict(annotations)}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": about},
            self.made("v1", "ServiceAccount", names.PREFIX, automountServiceAccountToken=False),
        ]
