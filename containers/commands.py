"""What is done to a site's engine, as values: decisions make them, `engine.Engine.run` executes them, tests compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class File:
    """A file for an image or a volume; a folder if its path ends with a slash. Its content is never shown: it may be secret."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o444
    uid: int = 0


@dataclass(frozen=True, slots=True)
class CreateNetwork:
    """A bridge network; an internal one leads nowhere but to its own members and the site's machine."""

    name: str
    internal: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoveNetwork:
    """Remove a network if it is there."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateVolume:
    """An empty volume; with labels it also serves as a record, made in one step."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FillVolume:
    """Put files into a volume, through a container of `image` that is never started."""

    name: str
    image: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Remove a volume if it is there."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Create, not start. `config` is the body of the Engine API's call; `networks` are joined besides the one in there."""

    name: str
    config: Mapping[str, Any]
    networks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container; no matter if it runs."""

    name: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """SIGTERM, then SIGKILL after the time to drain; no matter if it does not run."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Remove a container, running or not, if it is there. Its named volumes stay."""

    name: str


@dataclass(frozen=True, slots=True)
class RenameContainer:
    """Give a container, running or not, another name that is free."""

    name: str
    to: str


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Remove an image unless something uses it."""

    tag: str


@dataclass(frozen=True, slots=True)
class Done:
    """Whether a program in a container succeeded, and what it wrote."""

    well: bool
    output: str = ""
    errors: str = ""


Command: TypeAlias = (
    CreateNetwork
    | RemoveNetwork
    | CreateVolume
    | FillVolume
    | RemoveVolume
    | CreateContainer
    | StartContainer
    | StopContainer
    | RemoveContainer
    | RenameContainer
    | RemoveImage
)
