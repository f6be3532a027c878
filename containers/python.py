"""The Python of a base image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError

VERSION_MIN = (3, 11)
GLIBC_MINOR_MIN = 5  # the oldest that any wheel names


@dataclass(frozen=True)
class Python:
    """The Python of a base image, as it says itself."""

    version: tuple[int, int]
    machine: str  # x86_64, aarch64, …
    glibc: str  # '2.36'; empty if the C library is another

    def check(self, base: str) -> None:
        """`ConfigError` if our code or wheels cannot run there."""
        if self.version < VERSION_MIN:
            raise ConfigError(
                f"base image {base} has Python {dotted(self.version)}, and {dotted(VERSION_MIN)} or newer is needed: name "
                f"another as `base_image` in the site file, such as python:{dotted(sys.version_info[:2])}-slim"
            )
        if not self.glibc:
            raise ConfigError(
                f"base image {base} has no glibc (Alpine has musl): name another as `base_image` in the site file, such as "
                f"python:{dotted(self.version)}-slim"
            )

    @property
    def markers(self) -> dict[str, str]:
        """What requirements may depend on (PEP 508)."""
        return {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": self.machine} | {
            "python_version": dotted(self.version), "python_full_version": f"{dotted(self.version)}.0",
        }  # fmt: skip

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there (PEP 600), newest first."""
        newest = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{n}_{self.machine}" for n in range(newest, GLIBC_MINOR_MIN - 1, -1)]
        return [*tags, *(f"manylinux{old}_{self.machine}" for old in ("2014", "2010", "1"))]


def dotted(version: Sequence[int]) -> str:
    """'3.11' of (3, 11)."""
    return ".".join(map(str, version))
