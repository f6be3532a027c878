"""What a Docker engine says of itself and its machine, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What an engine says of itself and its machine."""

    version: str
    api: tuple[int, ...]
    time_s: float  # by its own clock, since the epoch
    driver: str
    image_bytes: int  # of all images, of others too
    limits: Mapping[str, bool]  # whether it can limit memory, pids and cpu
    seccomp: bool
    warnings: tuple[str, ...] = ()


def facts(info: Mapping[str, Any], api: str, image_bytes: int) -> Facts:
    """From what the Engine API calls info, the version of that API, and what images take."""
    limits = {"memory": info.get("MemoryLimit"), "pids": info.get("PidsLimit"), "cpu": info.get("CpuCfsQuota")}
    return Facts(
        version=info["ServerVersion"],
        api=tuple(int(n) for n in api.split(".")),
        time_s=datetime.fromisoformat(info["SystemTime"]).timestamp(),
        driver=info["Driver"],
        image_bytes=image_bytes,
        limits={name: bool(can) for name, can in limits.items()},
        seccomp=any(o.startswith("name=seccomp") and "unconfined" not in o for o in info.get("SecurityOptions") or []),
        warnings=tuple(info.get("Warnings") or ()),
    )
