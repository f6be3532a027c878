"""What each service's image holds, and the images made of it.

Layers, each shared as widely as can be: on the base `sitestream/packages:…` with the packages that every service needs; on it, as
far as a service needs them, what reads and writes Parquet (`sitestream/parquet:…`) and the packages of an extra
(`sitestream/packages-upload:…`); on that `sitestream/collect:…` with our code, as far as this service imports it, and the
pipeline's files. A change of code or pipeline ships kilobytes. The broker's has Java among its packages, Kafka's jars below the
code, and no pipeline: another pipeline never restarts it.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from containers import modules, names, oci, packages
from containers.commands import File
from containers.fetch import ARTIFACTS, KAFKA_VERSION, kafka_jars
from containers.oci import Image, Layer, LayerStore
from containers.oci.layers import write_folder, write_tar
from containers.profiles import (
    CODE_DIR,
    CONFIG_DIR,
    DATA_DIR,
    KAFKA_DIR,
    LIB_DIRS,
    PIPELINE_DIR,
    SETTINGS_FILE,
    Profile,
)
from containers.python import Python
from pipelines.errors import ConfigError

REPOSITORY = "sitestream"
GRANTS = "pipelines.runtime.grants"  # what the broker's image can do besides
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
    kafka: str = ""  # names Kafka's jars, if it has them
    parquet: bool = False  # whether it needs the part of the packages that is about Parquet

    @property
    def pins(self) -> tuple[tuple[str, ...], ...]:
        """All packages, by layer, lowest first."""
        parquet = packages.parquet_of(self.common) if self.parquet else ()
        return tuple(names for names in (self.common, parquet, self.extra) if names)

    @property
    def packages_tag(self) -> str:
        """Image with the packages of every service."""
        if not self.common:
            return self.extra_tag
        return f"{REPOSITORY}/packages:{_short(self.base.id, packages.key(self.common))}"

    @property
    def parquet_tag(self) -> str:
        """Image with those packages, whole."""
        return f"{REPOSITORY}/parquet:{_short(self.packages_tag)}" if self.parquet else self.packages_tag

    @property
    def extra_tag(self) -> str:
        """Image with all packages of this service."""
        if not self.extra:
            return self.parquet_tag
        below = self.parquet_tag if self.common else self.base.id
        return f"{REPOSITORY}/packages-{'-'.join(self.extras)}:{_short(below, packages.key(self.extra))}"

    @property
    def parent_tag(self) -> str:
        """Image with all but our code."""
        return f"{REPOSITORY}/kafka:{_short(self.extra_tag, self.kafka)}" if self.kafka else self.extra_tag

    @property
    def tags_below(self) -> list[str]:
        """The images under the service's own, lowest first."""
        return list(dict.fromkeys([self.packages_tag, self.parquet_tag, self.extra_tag, self.parent_tag]))

    @property
    def files_key(self) -> str:
        """Changes with the files of the uppermost layer."""
        return _digest({f"{f.path} {f.mode} {f.uid}": f.content for f in self.files})


def contents(
    profile: Profile, pipeline: str, readers: Sequence[str], base: Base, facts: Mapping[str, bytes] | None = None
) -> Contents:
    """What the image of a service holds. `readers` are 'module:class' of what it loads by name, to read sources or to write to
    devices; `facts` the files of dimensions and schemas by their path below the pipeline's folder.

    `ConfigError` if a package is not installed here, or the pipeline file imports something that no image has.
    """
    if profile.lean:
        return _lean(profile, base)
    reader_modules = [reader.partition(":")[0] for reader in readers]
    named = {part for m in reader_modules for part in m.split(".")[1:]}
    extras = tuple(sorted({*profile.extras, *(named & packages.extras())}))
    common = packages.pins(base.python)
    extra = tuple(p for p in packages.pins(base.python, extras) if p not in common)
    runs = modules.closure([modules.entry(profile.module), *reader_modules], modules.ours)
    users, imported = user_modules(pipeline)
    shipped = modules.closure([*runs, *(m for m in imported if modules.ours(m))], modules.ours)
    files = [*_own_files(profile, shipped), *_files(users | dict(facts or {}), PIPELINE_DIR)]
    known = {name for module, path in shipped.items() for name in modules.imports(path, module)}
    parquet = packages.needs_parquet({*known, *imported})
    return Contents(base, extras, common, extra, tuple(files), _code(profile, runs), parquet=parquet)


def broker_contents(profile: Profile, base: Base) -> Contents:
    """What the image of the site's own broker holds: Java, Kafka, and what makes its topics and rights."""
    common = packages.pins(base.python)
    extra = tuple(p for p in packages.pins(base.python, more=profile.packages) if p not in common)
    runs = modules.closure([modules.entry(profile.module), modules.entry(GRANTS)], modules.ours)
    key = f"kafka-{KAFKA_VERSION}-{_short(repr(ARTIFACTS))}"
    return Contents(base, profile.packages, common, extra, tuple(_own_files(profile, runs)), _code(profile, runs), key)


def agent_contents(profile: Profile, base: Base) -> Contents:
    """What the image of a site's agent holds: nothing that computes, so none of the packages that services share."""
    pins = packages.pins(base.python, profile.extras, basic=False)
    runs = modules.closure([f"{profile.module}.__main__"], modules.of_agent)
    return Contents(base, profile.extras, pins, (), tuple(_own_files(profile, runs)), _code(profile, runs))


def _lean(profile: Profile, base: Base) -> Contents:
    """No pipeline, no package but its own, and of our code what the service itself imports."""
    runs = modules.closure([modules.entry(profile.module)], modules.without_pipelines)
    extra = packages.pins(base.python, profile.extras, basic=False)
    return Contents(base, profile.extras, (), extra, tuple(_own_files(profile, runs)), _code(profile, runs))


def _own_files(profile: Profile, shipped: Mapping[str, Path]) -> list[File]:
    """Our modules, their version, and the folder of what the service keeps."""
    version = packages.own_version()
    about = METADATA.format(packages.DISTRIBUTION, version).encode()
    named = {f"{packages.DISTRIBUTION}-{version}.dist-info/METADATA": about}
    kept = [File(f"{DATA_DIR.strip('/')}/", b"", uid=profile.uid)] if profile.keeps else []
    return [*_files(modules.in_image(shipped) | named, CODE_DIR), *kept]


def _code(profile: Profile, runs: Mapping[str, Path]) -> str:
    return _digest({**modules.in_image(runs), "": profile.module.encode()})


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
    layers = [
        (t, _packages_layer(what.base.python, at, pins, store, fetch=fetch)) for t, at, pins in _packages_of(what)
    ]
    if what.kafka:
        layers.append((what.parent_tag, _kafka_layer(what.kafka, store, fetch=fetch)))
    for tag, layer in layers:
        if layer is None:
            return ()
        below.append(
            oci.extended(below[-1] if below else what.base.image, tag, [layer], oci.Settings(ENV), names.IMAGE)
        )
    code = store.made(f"code-{what.files_key}", partial(write_tar, what.files))
    settings = oci.Settings(ENV, profile.user, _entrypoint(profile))
    return (*below, oci.extended(below[-1], service_tag(profile, what), [code], settings, names.IMAGE))


def _packages_of(what: Contents) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Tag, place and packages of the images under a service's own; above them are Kafka's jars, if it has some."""
    return ((tag, at, names) for tag, (at, names) in zip(what.tags_below, packages.placed(what.pins), strict=False))


def _packages_layer(python: Python, at: str, pins: Sequence[str], store: LayerStore, *, fetch: bool) -> Layer | None:
    key = f"packages-{packages.folder_key(pins, python)}"
    if (found := store.find(key)) or not fetch:
        return found
    return store.made(key, lambda into: write_folder(packages.installed(pins, python, at), at, into))


def _kafka_layer(key: str, store: LayerStore, *, fetch: bool) -> Layer | None:
    if (found := store.find(key)) or not fetch:
        return found
    return store.made(key, lambda into: write_folder(kafka_jars(), KAFKA_DIR, into))


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
