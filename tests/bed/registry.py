"""A real image registry (Debian's docker-registry, distribution 2.8); plain, or with TLS, a password or tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from containers.certs import Authority
from containers.child import free_port
from pipelines.clock import SystemClock
from tests.bed.parts import Part, http_get

PASSWORD_HASH = "$2b$05$abcdefghijklmnopqrstuu7u/mP2/whKA24gizTsHK.pV5txOW522"  # bcrypt; the registry takes no other


class ImageRegistry(Part):
    """Blobs are plain files below `folder / data`. `token` are the settings of its token authentication."""

    user = "bed"
    password = "bed-secret"

    def __init__(
        self, folder: Path, *, tls: bool = False, auth: bool = False, token: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        port = free_port()
        self.folder, self.tls, self.ca = folder / "data", tls, folder / "ca.pem"
        self.host = host
        http: dict[str, object] = {"addr": f"{host}:{port}", "secret": "bed"}
        if tls:
            authority = Authority(folder, SystemClock())
            authority.init()
            authority.issue("registry", ["127.0.0.1", "localhost"])
            pair = str(folder / "registry.pem")
            http["tls"] = {"certificate": pair, "key": pair}
        settings = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder)}},
            "http": http,
        }
        if auth:
            (folder / "htpasswd").write_text(f"{self.user}:{PASSWORD_HASH}\n")
            settings["auth"] = {"htpasswd": {"realm": "bed", "path": str(folder / "htpasswd")}}
        if token:
            settings["auth"] = {"token": dict(token)}
        (folder / "registry.yml").write_text(yaml.safe_dump(settings))
        super().__init__("docker-registry", port, ["docker-registry", "serve", str(folder / "registry.yml")], folder)

    def answers(self) -> bool:
        """See `Part.answers`."""
        return http_get(self.port, "/v2/", self.host)[0] > 0

    @property
    def address(self) -> str:
        """`host:port`, with https:// before it if it has TLS."""
        return f"{'https://' if self.tls else ''}{self.host}:{self.port}"
