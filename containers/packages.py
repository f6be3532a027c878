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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from containers import elf, prune
from containers.cache import cache_dir, made_once
from containers.profiles import LIB_DIRS
from containers.python import Python, dotted
from pipelines.errors import ConfigError, Unavailable

DISTRIBUTION = "sitestream"
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # in a source tree
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
_PARQUET = (  # what has to do with tables in files: for services that have some, in a layer of its own
    *("pyarrow/libparquet*", "pyarrow/_parquet*", "pyarrow/parquet/**/*"),
    *(f"pyarrow/{name}{m}*" for m in ("dataset", "acero") for name in ("libarrow_", "_", "")),
    *("pyarrow/_orc*", "pyarrow/orc.py"),
)
_NEED_PARQUET = ("pyarrow.acero", "pyarrow.dataset", "pyarrow.orc", "pyarrow.parquet")
PARQUET = "parquet"  # first of the names of that part
_KEPT_WHOLE = "*.dist-info"  # with the licences, in folders named after those of the sources


def extras() -> frozenset[str]:
    """Every extra that our distribution has."""
    return frozenset(_declared()[1])


@functools.cache
def pins(
    python: Python, wanted: tuple[str, ...] = (), more: tuple[str, ...] = (), *, basic: bool = True
) -> tuple[str, ...]:
    """'name==version' of our dependencies with the wanted extras and of all that they need, sorted, as installed here. Of a
    library that is cut (`containers.prune`), of what its rest needs. Without `basic` of the extras alone.

    `ConfigError` if one is not installed here.
    """
    always, extra = _declared()
    if unknown := sorted(set(wanted) - extra.keys()):
        raise ConfigError(
            f"the sitestream installed here does not know the extra {unknown[0]}: it is older than its code: install it again"
        )
    queue = [Requirement(r) for r in [*(always if basic else ()), *(r for e in wanted for r in extra[e]), *more]]
    found: dict[str, str] = {}
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found:
            continue
        distribution = _installed(requirement.name)
        found[name] = f"{name}=={distribution.version}"
        needs = map(Requirement, distribution.requires or ())
        queue += [r for r in needs if prune.needed(name, r.name) and _applies(r, python.markers, requirement.extras)]
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
    """Our own requirements: always, and by extra. From the source tree if we run from one (what was installed from it may be
    older), else from the installed distribution."""
    if _PROJECT.exists():
        return _project()["dependencies"], _project()["optional-dependencies"]
    texts = importlib.metadata.requires(DISTRIBUTION) or []
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra", [])
    basic: list[str] = []
    extra: dict[str, list[str]] = {name: [] for name in names}
    for text in texts:
        named = re.search(r"""extra == ['"]([^'"]+)""", text)
        (extra[named[1]] if named else basic).append(text.partition(";")[0].strip())
    return basic, extra


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(_PROJECT.read_text())["project"]
    return project


def needs_parquet(imported: Iterable[str]) -> bool:
    """Whether one of these modules is in the part that `parquet_of` names."""
    return any(f"{name}.".startswith(f"{module}.") for name in imported for module in _NEED_PARQUET)


def parquet_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names the part of these packages that only those need who have Parquet files."""
    return (PARQUET, *(name for name in names if name.startswith("pyarrow==")))


def placed(layers: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Where an image has each of its layers of packages, lowest first; that of Parquet is in the folder of the one below."""
    folders, at = iter(LIB_DIRS), ""
    for names in layers:
        at = at if names[0] == PARQUET else next(folders)
        yield at, names


def key(names: Sequence[str]) -> str:
    """12 hex digits that change with the packages or with what is left out of them."""
    what = (
        names,
        _FOLDERS_UNUSED,
        _SUFFIXES_UNUSED,
        _PATHS_UNUSED,
        _PARQUET,
        _KEPT_WHOLE,
        _COMPILE,
        "short libraries",
        prune.CUTS,
    )
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def folder_key(names: Sequence[str], python: Python) -> str:
    """Name of what `installed` gives: the same for the same."""
    return f"{key(names)}-cp{''.join(map(str, python.version))}-{python.machine}-{python.glibc}"


def installed(names: Sequence[str], python: Python, at: str, cache: Path | None = None) -> Path:
    """The folder that holds these packages, or the part of them that `parquet_of` names, without what is never used, compiled for
    the place `at` in the image; made first if it is not in the cache.

    `ConfigError` if there is no wheel for that Python or none like it to compile with, or a library cannot be cut as it must be;
    `Unavailable` if the package index cannot be reached.
    """
    of_parquet = names[:1] == (PARQUET,)
    target = (cache or cache_dir() / "packages") / folder_key(names, python)

    def make(folder: Path) -> None:
        if names:
            _pip(names[of_parquet:], python, folder)
        prune.prune(folder)
        _trim(folder)
        _divide(folder, of_parquet=of_parquet)
        _compile(folder, python, at)

    made_once(target, make)
    return target


def _compile(folder: Path, python: Python, at: str) -> None:
    """Nothing can be written in a container later, and without this every start of it would compile all again."""
    version = dotted(python.version)
    here = sys.version_info[:2] == python.version
    interpreter = sys.executable if here else shutil.which(f"python{version}")
    if interpreter is None:
        raise ConfigError(
            f"the base image has Python {version}, and its packages are compiled with the same: install python{version} on this "
            f"machine, or name a base image with Python {dotted(sys.version_info[:2])}"
        )
    words = [interpreter, "-P", *_COMPILE, "-s", str(folder), "-p", at, str(folder)]
    subprocess.run(words, check=True, capture_output=True, env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]})


def _pip(names: Sequence[str], python: Python, into: Path) -> None:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    words += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--target", str(into)]
    words += ["--implementation", "cp", "--python-version", dotted(python.version)]
    words += [word for tag in python.platforms for word in ("--platform", tag)]
    done = subprocess.run([*words, *names], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise ConfigError("images are made with pip, which this Python lacks: python -m ensurepip")
    error = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-400:])
    if "No matching distribution" in done.stderr and "onnection" not in done.stderr:
        raise ConfigError(f"a package has no wheel for Python {dotted(python.version)} on {python.machine}: {error}")
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
    gone, apart = before.keys() - left.keys(), _of_parquet(folder)
    for path in left.values():
        without = gone if path in apart else gone | {library.name for library in apart}
        path.write_bytes(elf.shortened(elf.unlinked(path.read_bytes(), without)))


def _divide(folder: Path, *, of_parquet: bool) -> None:
    apart = _of_parquet(folder)
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what was in it
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif (path in apart) != of_parquet:
            path.unlink()


def _of_parquet(folder: Path) -> set[Path]:
    return {path for pattern in _PARQUET for path in folder.glob(pattern) if path.is_file()}


def _libraries(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.rglob("*.so*") if path.is_file()}
