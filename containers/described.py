"""What an engine says of containers and volumes, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from containers import drift, names
from containers.profiles import METRICS_PORT
from containers.rollout import Container, Record


def container(seen: Mapping[str, Any], health: str) -> Container:
    """A container as the Engine API describes it."""
    labels, state = seen["Config"]["Labels"], seen["State"]
    addresses = [n["IPAddress"] for n in seen["NetworkSettings"]["Networks"].values() if n["IPAddress"]]
    return Container(
        name=seen["Name"].lstrip("/"),
        id=seen["Id"][:12],
        service=labels[names.SERVICE],
        revision=int(labels[names.REVISION]),
        fingerprint=labels[names.FINGERPRINT],
        pipeline=labels[names.PIPELINE],
        images=tuple(json.loads(labels[names.IMAGES])),
        config=labels[names.CONFIG],
        state=state["Status"],
        health=health,
        exit_code=state["ExitCode"],
        restarts=seen["RestartCount"],
        started_at=state["StartedAt"],
        address=f"{addresses[0]}:{METRICS_PORT}" if addresses else "",
        parts=json.loads(labels[names.PARTS]),
        versions={step: (v[0], v[1]) for step, v in json.loads(labels.get(names.STATE, "{}")).items()},
        settings=json.loads(labels[names.SETTINGS]),
        drift=drift.found(labels[names.SERVICE], seen),
    )


def record(labels: Mapping[str, str]) -> Record:
    """The record that a volume's labels hold."""
    return Record(**json.loads(labels[names.RECORD]))
