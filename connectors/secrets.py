"""Secrets by reference: a pipeline file names one, the service that needs it reads the file of that name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Secret:
    """The name of a file in the site's `secrets_dir`; never its content."""

    name: str

    def file(self, secrets_dir: Path) -> Path:
        """Where it is; `ConfigError` if there is no such file."""
        path = secrets_dir / self.name
        if not path.is_file():
            raise ConfigError(f"secret {self.name!r} is missing: put it into the file {path}")
        return path

    def read(self, secrets_dir: Path) -> str:
        """Its content without the line end; `ConfigError` if it is missing or cannot be read."""
        path = self.file(secrets_dir)
        try:
            return path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"secret {self.name!r} in {path} cannot be read: {e}") from e


def secret(name: str) -> Secret:
    """Refer to a secret by name: `password=secret("edge-mqtt")`."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"secret name {name!r} cannot be used: it is the plain name of a file in `secrets_dir`")
    return Secret(name)
