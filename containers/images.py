"""The images, as values: files and a Dockerfile, and a tag derived from both.

Three layers of images, each shared as widely as can be: the base; `sitestream/packages:…` with the packages that every service
needs, and on it those of an extra (`sitestream/packages-upload:…`); `sitestream/collect:…` with our code, as far as this service
imports it, and the pipeline's files. A change of code or pipeline ships kilobytes. Dockerfiles copy
and compile: no network, no shell.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from containers import modules, packages
from containers.commands import File, Image
from containers.packages import Python
from containers.profiles import (
    CODE_DIR,
    CONFIG_DIR,
    DATA_DIR,
    LIB_DIRS,
    PIPELINE_DIR,
    SETTINGS_FILE,
    UID,
    USER,
    Profile,
)
from pipelines.errors import ConfigError

REPOSITORY = "sitestream"
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"  # tells the services their own version


@dataclass(frozen=True)
class Base:
    """A base image."""

    id: str
    python: Python


def unseen(name: str) -> Base:
    """A base image that is not here to be looked at: taken to have this machine's Python, and known by its name alone."""
    return Base(name, Python(sys.version_info[:2], platform.machine(), ""))


@dataclass(frozen=True)
class Contents:
    """What goes into the image of one service."""

    base: Base
    extras: tuple[str, ...]
    common: tuple[str, ...]  # packages of every service
    extra: tuple[str, ...]  # further packages of this one
    files: tuple[File, ...]
    code: str  # hash of the code that the service runs, without descriptions that only the pipeline's file imports

    @property
    def pins(self) -> list[str]:
        """All packages."""
        return [*self.common, *self.extra]

    @property
    def packages_tag(self) -> str:
        """Image with the packages of every service."""
        return f"{REPOSITORY}/packages:{_short(_packages_dockerfile(self.base.id, LIB_DIRS[0]), packages.key(self.common))}"

    @property
    def parent_tag(self) -> str:
        """Image with all packages of this service."""
        if not self.extra:
            return self.packages_tag
        dockerfile = _packages_dockerfile(self.packages_tag, LIB_DIRS[1])
        return f"{REPOSITORY}/packages-{'-'.join(self.extras)}:{_short(dockerfile, packages.key(self.extra))}"


def contents(
    profile: Profile, pipeline: str, readers: Sequence[str], base: Base, facts: Mapping[str, bytes] | None = None
) -> Contents:
    """What the image of a service holds. `readers` are 'module:class' of the sources that it reads, `facts` the files of
    dimensions by their path below the pipeline's folder.

    `ConfigError` if a package is not installed here, or the pipeline file imports something that no image has.
    """
    reader_modules = [reader.partition(":")[0] for reader in readers]
    extras = tuple(sorted({*profile.extras, *({m.split(".")[1] for m in reader_modules} & packages.extras())}))
    common = packages.pins(base.python)
    extra = tuple(p for p in packages.pins(base.python, extras) if p not in common)
    runs = modules.closure([modules.entry(profile.module), *reader_modules], modules.ours)
    users, imported = user_modules(pipeline)
    shipped = modules.closure([*runs, *(m for m in imported if modules.ours(m))], modules.ours)
    version = packages.own_version()
    about = {
        f"{packages.DISTRIBUTION}-{version}.dist-info/METADATA": METADATA.format(
            packages.DISTRIBUTION, version
        ).encode()
    }
    files = [*_files(modules.in_image(shipped) | about, CODE_DIR), *_files(users | dict(facts or {}), PIPELINE_DIR)]
    code = {**modules.in_image(runs), "": profile.module.encode()}
    return Contents(base, extras, common, extra, tuple(files), _digest(code))


def user_modules(pipeline: str) -> tuple[dict[str, bytes], list[str]]:
    """The pipeline's file and the modules beside it that it imports (content by path), and the names of all imports."""
    file = Path(pipeline.partition(":")[0])
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such pipeline file")
    found = modules.closure([file.stem], modules.beside(file.parent))
    imported = sorted({name for module, path in found.items() for name in modules.imports(path, module)})
    return modules.in_image(found), imported


def pipeline_in_image(pipeline: str, folder: str) -> str:
    """Where an image has the pipeline: 'hall/press.py:press' -> 'FOLDER/press.py:press'."""
    file, colon, variable = pipeline.partition(":")
    return f"{folder}/{Path(file).name}{colon}{variable}"


def service_image(profile: Profile, what: Contents) -> Image:
    """The image of a service."""
    files = list(what.files)
    lines = [f"FROM {what.parent_tag}", "COPY opt /opt"]
    if profile.keeps:
        files.append(File("data/", b""))
        lines.append(f"COPY --chown={USER} data {DATA_DIR}")
    command = ["python3", "-P", "-m", profile.module, "--config", f"{CONFIG_DIR}/{SETTINGS_FILE}"]
    lines += [
        "WORKDIR /",
        f"USER {UID}:{UID}",
        f"ENTRYPOINT [{', '.join(f'{chr(34)}{word}{chr(34)}' for word in command)}]",
    ]
    dockerfile = "\n".join(lines) + "\n"
    digest = _short(dockerfile, _digest({f.path: f.content for f in files if isinstance(f.content, bytes)}))
    return Image(f"{REPOSITORY}/{profile.service}:{digest}", dockerfile, tuple(files))


def packages_images(what: Contents, cache: Path | None = None) -> list[Image]:
    """The images under a service's own, lowest first. Fetches the packages if they are not in the cache."""
    layers = [(what.packages_tag, what.base.id, LIB_DIRS[0], what.common)]
    if what.extra:
        layers.append((what.parent_tag, what.packages_tag, LIB_DIRS[1], what.extra))
    return [
        Image(tag, _packages_dockerfile(parent, folder), _tree(packages.installed(pins, what.base.python, cache)))
        for tag, parent, folder, pins in layers
    ]


def _packages_dockerfile(parent: str, folder: str) -> str:
    """Compiled with the image's own Python, for nothing can be written there later; of our own code it would save 50 ms."""
    words = ["python3", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", folder]
    env = f"PYTHONPATH={':'.join([CODE_DIR, *LIB_DIRS])} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1"
    return f"FROM {parent}\nCOPY lib {folder}\nRUN {json.dumps(words)}\nENV {env}\n"


def _tree(folder: Path) -> tuple[File, ...]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return tuple(File(f"lib/{p.relative_to(folder)}", p) for p in found)


def _files(content: Mapping[str, bytes], folder: str) -> list[File]:
    return [File(f"{folder.lstrip('/')}/{path}", data) for path, data in sorted(content.items())]


def _digest(content: Mapping[str, bytes]) -> str:
    parts: Iterable[bytes] = (
        p for path, data in sorted(content.items()) for p in (path.encode(), hashlib.sha256(data).digest())
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
