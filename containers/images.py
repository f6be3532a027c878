"""What each service's image holds, and the images made of it.

Three layers, each shared as widely as can be: on the base `sitestream/packages:…` with the packages that every service needs; on
it those of an extra (`sitestream/packages-upload:…`); on that `sitestream/collect:…` with our code, as far as this service
imports it, and the pipeline's files. A change of code or pipeline ships kilobytes.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from containers import modules, names, oci, packages
from containers.commands import File
from containers.oci import Image, Layer, LayerStore
from containers.oci.layers import write_folder, write_tar
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
from containers.python import Python
from pipelines.errors import ConfigError

REPOSITORY = "sitestream"
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"  # tells the services their own version


ENV = {"PYTHONPATH": ":".join([CODE_DIR, *LIB_DIRS]), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Base:
    """A base image. `image` is None if it is not here to be looked at."""

    id: str
    python: Python
    image: oci.Base | None = None


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
        if not self.common:
            return self.parent_tag
        return f"{REPOSITORY}/packages:{_short(self.base.id, packages.key(self.common))}"

    @property
    def parent_tag(self) -> str:
        """Image with all packages of this service."""
        if not self.extra:
            return self.packages_tag
        below = self.packages_tag if self.common else self.base.id
        return f"{REPOSITORY}/packages-{'-'.join(self.extras)}:{_short(below, packages.key(self.extra))}"

    @property
    def files_key(self) -> str:
        """Changes with the files of the uppermost layer."""
        return _digest({f"{f.path} {f.mode} {f.uid}": f.content for f in self.files})


def contents(
    profile: Profile, pipeline: str, readers: Sequence[str], base: Base, facts: Mapping[str, bytes] | None = None
) -> Contents:
    """What the image of a service holds. `readers` are 'module:class' of the sources that it reads, `facts` the files of
    dimensions by their path below the pipeline's folder.

    `ConfigError` if a package is not installed here, or the pipeline file imports something that no image has.
    """
    if profile.lean:
        return _lean(profile, base)
    reader_modules = [reader.partition(":")[0] for reader in readers]
    extras = tuple(sorted({*profile.extras, *({m.split(".")[1] for m in reader_modules} & packages.extras())}))
    common = packages.pins(base.python)
    extra = tuple(p for p in packages.pins(base.python, extras) if p not in common)
    runs = modules.closure([modules.entry(profile.module), *reader_modules], modules.ours)
    users, imported = user_modules(pipeline)
    shipped = modules.closure([*runs, *(m for m in imported if modules.ours(m))], modules.ours)
    files = [*_files(modules.in_image(shipped) | _about(), CODE_DIR), *_files(users | dict(facts or {}), PIPELINE_DIR)]
    if profile.keeps:
        files.append(File(f"{DATA_DIR.strip('/')}/", b"", uid=UID))
    code = {**modules.in_image(runs), "": profile.module.encode()}
    return Contents(base, extras, common, extra, tuple(files), _digest(code))


def agent_contents(profile: Profile, base: Base) -> Contents:
    """What the image of a site's agent holds: nothing that computes, so none of the packages that services share."""
    pins = packages.pins(base.python, profile.extras, basic=False)
    runs = modules.in_image(modules.closure([f"{profile.module}.__main__"], modules.of_agent))
    files = (*_files(runs | _about(), CODE_DIR), File(f"{DATA_DIR.strip('/')}/", b"", uid=UID))
    return Contents(base, profile.extras, pins, (), files, _digest(runs))


def _lean(profile: Profile, base: Base) -> Contents:
    """No pipeline, no package but its own, and of our code what the service itself imports."""
    runs = modules.in_image(modules.closure([modules.entry(profile.module)], modules.without_pipelines))
    files = [*_files(runs | _about(), CODE_DIR), File(f"{DATA_DIR.strip('/')}/", b"", uid=UID)]
    extra = packages.pins(base.python, profile.extras, basic=False)
    return Contents(base, profile.extras, (), extra, tuple(files), _digest({**runs, "": profile.module.encode()}))


def _about() -> dict[str, bytes]:
    version = packages.own_version()
    text = METADATA.format(packages.DISTRIBUTION, version)
    return {f"{packages.DISTRIBUTION}-{version}.dist-info/METADATA": text.encode()}


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


def service_tag(profile: Profile, what: Contents) -> str:
    """Name of a service's image."""
    return f"{REPOSITORY}/{profile.service}:{_short(what.parent_tag, what.files_key, *_entrypoint(profile))}"


def made(profile: Profile, what: Contents, store: LayerStore, *, fetch: bool) -> tuple[Image, ...]:
    """A service's image and those under it, lowest first. Without `fetch`, none if their packages are not in the cache.

    `ConfigError` and `Unavailable` as `packages.installed` raises them.
    """
    if what.base.image is None:
        return ()
    below: list[Image] = []
    for tag, folder, pins in _packages_of(what):
        layer = _packages_layer(what.base.python, folder, pins, store, fetch=fetch)
        if layer is None:
            return ()
        below.append(
            oci.extended(below[-1] if below else what.base.image, tag, [layer], oci.Settings(ENV), names.IMAGE)
        )
    code = store.made(f"code-{what.files_key}", partial(write_tar, what.files))
    settings = oci.Settings(ENV, USER, _entrypoint(profile))
    return (*below, oci.extended(below[-1], service_tag(profile, what), [code], settings, names.IMAGE))


def _packages_of(what: Contents) -> list[tuple[str, str, tuple[str, ...]]]:
    """Tag, place and packages of the images under a service's own."""
    layers = [(what.packages_tag, LIB_DIRS[0], what.common)] if what.common else []
    return layers + ([(what.parent_tag, LIB_DIRS[1], what.extra)] if what.extra else [])


def _packages_layer(python: Python, at: str, pins: Sequence[str], store: LayerStore, *, fetch: bool) -> Layer | None:
    key = f"packages-{packages.folder_key(pins, python)}"
    if (found := store.find(key)) or not fetch:
        return found
    return store.made(key, partial(write_folder, packages.installed(pins, python, at), at))


def _entrypoint(profile: Profile) -> tuple[str, ...]:
    return ("python3", "-P", "-m", profile.module, "--config", f"{CONFIG_DIR}/{SETTINGS_FILE}")


def _files(content: Mapping[str, bytes], folder: str) -> list[File]:
    return [File(f"{folder.lstrip('/')}/{path}", data) for path, data in sorted(content.items())]


def _digest(content: Mapping[str, bytes]) -> str:
    parts: Iterable[bytes] = (
        p for path, data in sorted(content.items()) for p in (path.encode(), hashlib.sha256(data).digest())
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
