"""What is signed of an image besides its length and digest: for which devices it is, and what it may replace. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from pipelines.errors import BadData

IMAGE_BYTES_MAX = 512 * 2**20
HARDWARE_MAX = 32
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # of a model or a campaign
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `custom` part of an image's TUF target."""

    model: str
    hardware: tuple[str, ...]  # revisions on which it runs
    version: str
    security_version: int  # never lower than that of what it replaces


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says that it is."""

    device: str
    model: str
    hardware: str
    version: str
    security_version: int
    root: int = 1  # version of the root that it trusts


@dataclass(frozen=True)
class Image:
    """An image as it was signed."""

    path: str  # of the target: MODEL/VERSION/FILE
    length: int  # bytes
    sha256: str
    manifest: Manifest


def image_of(path: str, length: int, hashes: dict[str, str], custom: Any) -> Image:
    """From a verified target; `BadData` if what was signed makes no sense."""
    try:
        manifest = msgspec.convert(custom, Manifest)
    except msgspec.ValidationError as e:
        raise BadData(
            f"firmware {path}: its manifest is wrong ({e}): publish it with  pipeline firmware publish"
        ) from e
    rules = {
        "a sha256 must be signed": re.fullmatch(r"[0-9a-f]{64}", hashes.get("sha256", "")),
        f"an image has 1 to {IMAGE_BYTES_MAX} bytes, this one {length}": 0 < length <= IMAGE_BYTES_MAX,
        f"it lies below {manifest.model}/{manifest.version}/": path.startswith(f"{manifest.model}/{manifest.version}/"),
        "model: lower-case letters, digits, - and _": NAME.fullmatch(manifest.model),
        "version: letters, digits and . _ + -": VERSION.fullmatch(manifest.version),
        f"hardware: 1 to {HARDWARE_MAX} revisions": 0 < len(manifest.hardware) <= HARDWARE_MAX,
        "security_version: 0 or more": manifest.security_version >= 0,
    }
    if wrong := [rule for rule, kept in rules.items() if not kept]:
        raise BadData(f"firmware {path}: {'; '.join(wrong)}")
    return Image(path, length, hashes["sha256"], manifest)


def refusal(manifest: Manifest, device: Device) -> str:
    """Why an image must not go to a device; empty if it may. A device checks the same by itself."""
    if manifest.model != device.model:
        return f"it is for model {manifest.model}, the device is a {device.model}"
    if device.hardware not in manifest.hardware:
        return f"it is for hardware {', '.join(manifest.hardware)}, the device has {device.hardware}"
    if manifest.security_version < device.security_version:
        return f"its security version {manifest.security_version} is below the device's {device.security_version}"
    return ""
