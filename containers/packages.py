"""The third-party packages of an image: the very versions installed on this machine, as wheels for the base image's Python.

Installed with pip into a folder of the cache, compiled there, and made a layer of from there, so that a change of our own code
needs neither network nor time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from containers import elf
from containers.fetch import cache_dir, made_once
from pipelines.errors import ConfigError, Unavailable

DISTRIBUTION = "sitestream"
VERSION_MIN = (3, 11)
GLIBC_MINOR_MIN = 5  # the oldest that any wheel names
_FOLDERS_UNUSED = ("tests", "include")
_SUFFIXES_UNUSED = (".pyx", ".pxd", ".pxi", ".pyi", ".h", ".a", ".c", ".cc", ".cpp")
_COMPILE = ("-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash")  # no times in there
_PATHS_UNUSED = (
    # Arrow's clients of remote stores, its RPC and foreign query plans, half of its size; obstore reaches object stores
    *(
        "pyarrow/*flight*",
        "pyarrow/*s3*",
        "pyarrow/_gcsfs*",
        "pyarrow/_azurefs*",
        "pyarrow/_hdfs*",
        "pyarrow/*substrait*.so*",
    ),
    # encryption inside Parquet; the libraries again under the names that a linker looks for (programs load *.so.NNNN)
    *("pyarrow/*encryption*.so*", "pyarrow/libarrow*.so", "pyarrow/libarrow*.so.*.*.*"),
    # what compiles, installs or tests
    *(
        "pyarrow/src",
        "pyarrow/*_cpp_tests*",
        "numpy/_core/*_tests.*",
        "numpy/_core/_simd.*",
        "numpy/distutils",
        "numpy/f2py",
    ),
    *("numpy/_pyinstaller", "multidict/_testcapi*", "bin"),
)
_KEPT_WHOLE = "*.dist-info"  # with the licences, in folders named after those of the sources


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
                f"base image {base} has Python {_dotted(self.version)}, and {_dotted(VERSION_MIN)} or newer is needed: name "
                f"another as `base_image` in the site file, such as python:{_dotted(sys.version_info[:2])}-slim"
            )
        if not self.glibc:
            raise ConfigError(
                f"base image {base} has no glibc (Alpine has musl): name another as `base_image` in the site file, such as "
                f"python:{_dotted(self.version)}-slim"
            )

    @property
    def markers(self) -> dict[str, str]:
        """What requirements may depend on (PEP 508)."""
        return {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": self.machine} | {
            "python_version": _dotted(self.version), "python_full_version": f"{_dotted(self.version)}.0",
        }  # fmt: skip

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there (PEP 600), newest first."""
        newest = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{n}_{self.machine}" for n in range(newest, GLIBC_MINOR_MIN - 1, -1)]
        return [*tags, *(f"manylinux{old}_{self.machine}" for old in ("2014", "2010", "1"))]


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def extras() -> frozenset[str]:
    """Every extra that our distribution has."""
    return frozenset(_declared()[1])


@functools.cache
def pins(python: Python, wanted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """'name==version' of our dependencies with the wanted extras and of all that they need, sorted, as installed here.

    `ConfigError` if one is not installed here.
    """
    basic, extra = _declared()
    queue = [Requirement(r) for r in [*basic, *(r for e in wanted for r in extra[e])]]
    found: dict[str, str] = {}
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found:
            continue
        distribution = _installed(requirement.name)
        found[name] = f"{name}=={distribution.version}"
        needs = map(Requirement, distribution.requires or ())
        queue += [r for r in needs if _applies(r, python.markers, requirement.extras)]
    return tuple(sorted(found.values()))


def _applies(requirement: Requirement, markers: dict[str, str], active: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**markers, "extra": e}) for e in ("", *active))


def _installed(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as e:
        raise ConfigError(
            f"{name} is not installed here, and images carry the versions that are: pip install {name}"
        ) from e


def own_version() -> str:
    """The version of our distribution."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return str(_project()["version"])


def _declared() -> tuple[list[str], dict[str, list[str]]]:
    """Our own requirements: always, and by extra. From the installed distribution, else from the source tree."""
    try:
        texts = importlib.metadata.requires(DISTRIBUTION) or []
        names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra", [])
    except importlib.metadata.PackageNotFoundError:
        return _project()["dependencies"], _project()["optional-dependencies"]
    basic: list[str] = []
    extra: dict[str, list[str]] = {name: [] for name in names}
    for text in texts:
        named = re.search(r"""extra == ['"]([^'"]+)""", text)
        (extra[named[1]] if named else basic).append(text.partition(";")[0].strip())
    return basic, extra


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return project


def key(names: Sequence[str]) -> str:
    """12 hex digits that change with the packages or with what is left out of them."""
    what = (names, _FOLDERS_UNUSED, _SUFFIXES_UNUSED, _PATHS_UNUSED, _KEPT_WHOLE, _COMPILE, "short libraries")
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def folder_key(names: Sequence[str], python: Python) -> str:
    """Name of what `installed` gives: the same for the same."""
    return f"{key(names)}-cp{''.join(map(str, python.version))}-{python.machine}-{python.glibc}"


def installed(names: Sequence[str], python: Python, at: str, cache: Path | None = None) -> Path:
    """The folder that holds these packages without what is never used, compiled for the place `at` in the image; made first if
    it is not in the cache.

    `ConfigError` if there is no wheel for that Python or none like it to compile with, `Unavailable` if the package index
    cannot be reached.
    """
    target = (cache or cache_dir() / "packages") / folder_key(names, python)

    def make(folder: Path) -> None:
        if names:
            _pip(names, python, folder)
        _trim(folder)
        _compile(folder, python, at)

    made_once(target, make)
    return target


def _compile(folder: Path, python: Python, at: str) -> None:
    """Nothing can be written in a container later, and without this every start of it would compile all again."""
    version = _dotted(python.version)
    here = sys.version_info[:2] == python.version
    interpreter = sys.executable if here else shutil.which(f"python{version}")
    if interpreter is None:
        raise ConfigError(
            f"the base image has Python {version}, and its packages are compiled with the same: install python{version} on this "
            f"machine, or name a base image with Python {_dotted(sys.version_info[:2])}"
        )
    words = [interpreter, "-P", *_COMPILE, "-s", str(folder), "-p", at, str(folder)]
    subprocess.run(words, check=True, capture_output=True, env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]})


def _pip(names: Sequence[str], python: Python, into: Path) -> None:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    words += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--target", str(into)]
    words += ["--implementation", "cp", "--python-version", _dotted(python.version)]
    words += [word for tag in python.platforms for word in ("--platform", tag)]
    done = subprocess.run([*words, *names], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise ConfigError("images are made with pip, which this Python lacks: python -m ensurepip")
    error = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-400:])
    if "No matching distribution" in done.stderr and "onnection" not in done.stderr:
        raise ConfigError(f"a package has no wheel for Python {_dotted(python.version)} on {python.machine}: {error}")
    raise Unavailable(f"pip could not fetch the packages of the images: {error}")


def _trim(folder: Path) -> None:
    before = _libraries(folder)
    unused = [path for pattern in _PATHS_UNUSED for path in folder.glob(pattern)]
    for path in (p for top in folder.iterdir() if not top.match(_KEPT_WHOLE) for p in (top, *top.rglob("*"))):
        if path.suffix in _SUFFIXES_UNUSED or (path.is_dir() and path.name in _FOLDERS_UNUSED):
            unused.append(path)
    for path in unused:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have gone with its folder
    left = _libraries(folder)
    gone = before.keys() - left.keys()
    for path in left.values():
        path.write_bytes(elf.shortened(elf.unlinked(path.read_bytes(), gone)))


def _libraries(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.rglob("*.so*") if path.is_file()}
