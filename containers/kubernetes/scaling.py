"""How many pods `process` has: as many as it takes to keep up, at most one for each partition."""

from __future__ import annotations

from containers.kubernetes.scope import Object, Scope
from containers.wanted import Desired
from pipelines import metrics

LAG_RECORDS_MAX = 1000  # frames that may wait for each pod before another is started
CALM_S = (
    600  # without need for as long, before one is taken away: those who stay take over its partitions and their state
)


def autoscaler(scope: Scope, d: Desired) -> Object:
    """By the lag that the pods themselves export; an adapter must serve it as a metric of pods."""
    (lag,) = metrics.lag.describe()
    target = {"type": "AverageValue", "averageValue": str(LAG_RECORDS_MAX)}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": d.service},
        "minReplicas": 1,
        "maxReplicas": d.settings.partitions,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": lag.name}, "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_S}},
    }
    return scope.made("autoscaling/v2", "HorizontalPodAutoscaler", d.service, d.service, spec=spec)


def disruption_budget(scope: Scope, d: Desired) -> Object:
    """When nodes are emptied, one pod goes after the other; one that is not healthy keeps nobody waiting."""
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": scope.selector(d.service)},
    }
    return scope.made("policy/v1", "PodDisruptionBudget", d.service, d.service, spec=spec)
