"""A base image of what Python needs to run, cut out of a Debian's root filesystem: no shell, no package manager, nothing setuid.

    python -m containers.slim full.tar slim.tar

Kept are Python with its standard library (compiled and in a zip, a fifth of its size), the shared libraries that these need or
that wheels may count on (PEP 600), certificates of authorities, time zones, and the licences of all that. Reads and writes tars
alone: no root, no chroot, no engine.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import io
import posixpath
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from containers.rootfs import LISTS, STATUS, RootFS, stanzas
from pipelines.errors import ConfigError

_PREFIXES = ("usr/local", "usr")  # in the order of PATH
_UNUSED = (  # of the standard library: for a screen, a terminal, an installation or a test
    *("config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tkinter"),
    *("sqlite3", "turtle.py", "turtledemo", "venv", "*/test", "*/tests", "__pycache__/turtle.*"),
    *(
        f"lib-dynload/{m}.*"
        for m in ("_curses", "_curses_panel", "_dbm", "_gdbm", "_sqlite3", "_tkinter", "nis", "readline")
    ),
    *("lib-dynload/_*test*", "lib-dynload/ossaudiodev.*", "lib-dynload/xx*"),
)
_WHEELS_NEED = (
    *("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1"),
    *("libexpat.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"),
    *("libnss_dns.so.2", "libnss_files.so.2"),  # not the wheels', but opened by name when a host is looked up
)
_FOLDERS = (
    "etc/ld.so.conf.d",
    "etc/ssl/certs",
    "usr/lib/locale/C.utf8",
    "usr/share/ca-certificates",
    "usr/share/zoneinfo",
)
_FOLDERS_TWICE = ("usr/share/zoneinfo/posix/", "usr/share/zoneinfo/right/")  # the same zones in other counts of seconds
_FILES = (
    *(f"etc/{n}" for n in ("debian_version", "group", "host.conf", "ld.so.cache", "ld.so.conf", "localtime")),
    *(f"etc/{n}" for n in ("nsswitch.conf", "os-release", "passwd", "ssl/openssl.cnf", "timezone")),
    *("usr/lib/ssl/cert.pem", "usr/lib/ssl/certs", "usr/lib/ssl/openssl.cnf"),
    *("bin", "lib", "lib64", "sbin"),  # links to usr/…, where they are that
)
_EMPTY = {"dev": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "sys": 0o555} | {
    "tmp": 0o1777, "var/tmp": 0o1777,
}  # fmt: skip
_CURE = "make the base again with tools/base_image.sh, or name another `base_image`"


@dataclass(frozen=True)
class Kept:
    """What is left of a root filesystem."""

    python: str  # 'usr/bin/python3.11'
    packages: tuple[str, ...]  # Debian's, by name
    files: int
    bytes: int


def slim(tar_in: Path, tar_out: Path) -> Kept:
    """Write the part of a root filesystem that Python needs, the same bytes for the same input.

    `ConfigError` if it has no python3, is no Debian, or lacks the licence of something that is kept.
    """
    with tarfile.open(tar_in) as tar:
        root = RootFS(tar)
        if not root.resolve(STATUS):
            raise ConfigError(
                f"{tar_in} has no /{STATUS}: only a Debian (or Ubuntu) can be made slim; use others as they are"
            )
        python = _python(root)
        if not python:
            raise ConfigError(
                f"{tar_in} has no python3 in {' or '.join(f'/{p}/bin' for p in _PREFIXES)}: add it, or {_CURE}"
            )
        kept = _closed(root, _used(root, python))
        packages, papers = _packages(root, kept, str(tar_in))
        kept |= papers
        content = {
            path: _content(root, path) for path in kept if root.members[path].isfile() or root.members[path].islnk()
        }
        content[STATUS] = _status(root, packages)
        kept -= _zipped(root, python, content, kept)
        _write(tar_out, content, {p: root.members[p] for p in kept})
    return Kept(python, tuple(sorted(packages)), len(content), sum(map(len, content.values())))


def _python(root: RootFS) -> str:
    found = (root.resolve(f"{prefix}/bin/python3") for prefix in _PREFIXES)
    return next((where[-1] for where in found if where), "")


def _used(root: RootFS, python: str) -> Iterator[str]:
    """What is asked for by name, before links and libraries are followed."""
    folder = posixpath.dirname(python)
    yield from (
        p for p in root.below(folder) if fnmatch.fnmatch(p, f"{folder}/python*") and root.resolve(p)[-1:] == (python,)
    )
    library, zipped = _library(python)
    yield zipped
    for path in root.below(library):
        inside = path.removeprefix(f"{library}/")
        parts = [inside, *map(str, list(Path(inside).parents)[:-1])]
        if not any(fnmatch.fnmatch(part, unused) for part in parts for unused in _UNUSED):
            yield path
    for path in (p for f in _FOLDERS for p in root.below(f)):
        if not path.startswith(_FOLDERS_TWICE):
            yield path
    yield from _FILES
    folders = _library_folders(root)
    yield from (f"{folder}/{name}" for name in _WHEELS_NEED for folder in folders)


def _closed(root: RootFS, wanted: Iterable[str]) -> set[str]:
    """Add the links on the way and the libraries that are needed, as far as they are there."""
    kept: set[str] = set()
    folders = _library_folders(root)
    queue = list(wanted)
    while queue:
        where = root.resolve(queue.pop())
        new = [path for path in where if path and path not in kept]
        kept.update(new)
        if where and where[-1] in new and not root.is_folder(where[-1]):
            queue += _needs(root.read(where[-1]), posixpath.dirname(where[-1]), folders)
    return kept


def _library_folders(root: RootFS) -> list[str]:
    """Where the loader looks for libraries (ld.so(8)); Debian's configuration includes this one folder."""
    configs = sorted(root.below("etc/ld.so.conf.d"))
    lines = [line.strip() for config in configs for line in root.lines(config)]
    return [*(line.strip("/") for line in lines if line.startswith("/")), "lib", "usr/lib", "lib64", "usr/lib64"]


def _needs(content: bytes, folder: str, folders: list[str]) -> Iterator[str]:
    """Where an ELF file in `folder` has its loader and libraries looked for; nothing for other files."""
    if not content.startswith(b"\x7fELF"):
        return
    for segment in ELFFile(io.BytesIO(content)).iter_segments():  # sections may have been taken away
        if isinstance(segment, InterpSegment):
            yield segment.get_interp_name()
        if isinstance(segment, DynamicSegment):
            paths, names = (_tags(segment, *which) for which in (("rpath", "runpath"), ("needed",)))
            own = [re.sub(r"\$\{?ORIGIN\}?", folder, p) for path in paths for p in path.split(":")]
            yield from (f"{f}/{name}" for name in names for f in (*own, *folders))


def _tags(segment: DynamicSegment, *names: str) -> list[str]:
    return [getattr(tag, name) for tag in segment.iter_tags() for name in names if hasattr(tag, name)]


def _packages(root: RootFS, kept: set[str], name: str) -> tuple[set[str], set[str]]:
    """The Debian packages that the kept files are from; their licences and lists of files, by path."""
    owners = root.owners()
    packages = {owners[path] for path in kept if path in owners}
    papers = {p for path in root.below("usr/share/common-licenses") for p in root.resolve(path)}
    for package in sorted(packages):
        where = root.resolve(f"usr/share/doc/{package}/copyright")
        if not where:
            raise ConfigError(
                f"{name} has no /usr/share/doc/{package}/copyright, and the licence of a package must go with it: {_CURE}"
            )
        papers.update(where)
    packages |= {owners[path] for path in papers if path in owners}
    papers |= {p for p in root.below(LISTS) if re.split(r"(?::\w+)?\.list$", posixpath.basename(p))[0] in packages}
    return packages, papers


def _status(root: RootFS, packages: set[str]) -> bytes:
    """dpkg's status of these packages, for scanners."""
    left = [s[""] for s in stanzas(root.read(STATUS).decode()) if s.get("Package") in packages]
    return ("\n\n".join(left) + "\n").encode()


def _content(root: RootFS, path: str) -> bytes:
    """A file as it is, but compiled code no longer tied to the time of its source, which is not kept (PEP 552)."""
    data = root.read(path)
    if not path.endswith(".pyc") or data[4:8] != bytes(4):
        return data
    return data[:4] + b"\x01\0\0\0" + importlib.util.source_hash(data[16:]) + data[16:]


def _zipped(root: RootFS, python: str, content: dict[str, bytes], kept: set[str]) -> set[str]:
    """Put the standard library into the zip that Python looks into first; which paths are not there any more.

    Of a module that is compiled without its source: each start reads the zip's whole list. Beside it stay shared libraries, which
    cannot be loaded out of a zip, and `os.py`, by which Python finds the folder.
    """
    library, place = _library(python)
    found = {path: root.resolve(path)[-1:] for path in kept if path.startswith(f"{library}/")}
    paths = {path: where[0] for path, where in found.items() if where and path.endswith((".py", ".pyc"))}
    modules = {
        _in_zip(path.removeprefix(f"{library}/")): content[where] for path, where in paths.items() if where in content
    }
    if place in content:  # it was made slim before
        with zipfile.ZipFile(io.BytesIO(content[place])) as archive:
            modules = {name: archive.read(name) for name in archive.namelist()} | modules
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, code in sorted(modules.items()):
            if f"{name}c" not in modules:
                archive.writestr(zipfile.ZipInfo(name), code, zipfile.ZIP_DEFLATED, 9)
    gone = {*paths, *paths.values()} - {f"{library}/os.py"}
    for path in gone:
        content.pop(path, None)
    content[place] = packed.getvalue()
    return gone


def _library(python: str) -> tuple[str, str]:
    """The folder of a Python's standard library, and the zip in which it looks before."""
    folder, name = posixpath.split(python)
    above = f"{posixpath.dirname(folder)}/lib"
    return f"{above}/{name}", f"{above}/{name.replace('.', '')}.zip"


def _in_zip(path: str) -> str:
    """'email/__pycache__/message.cpython-311.pyc' -> 'email/message.pyc', where it is looked for in a zip."""
    folder, _, file = path.rpartition("__pycache__/")
    return f"{folder}{file.partition('.')[0]}.pyc" if file.endswith(".pyc") and "__pycache__/" in path else path


def _write(tar_out: Path, content: dict[str, bytes], members: dict[str, tarfile.TarInfo]) -> None:
    folders = {posixpath.normpath(str(p)) for path in (*content, *members) for p in Path(path).parents} - {"."}
    with tarfile.open(tar_out, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted({*folders, *content, *members, *_EMPTY}):
            info = tarfile.TarInfo(path)
            if path in content:
                info.size = len(content[path])
                info.mode = members[path].mode & 0o755 if path in members else 0o644
                tar.addfile(info, io.BytesIO(content[path]))
                continue
            info.mode = _EMPTY.get(path, 0o755)
            info.type = tarfile.DIRTYPE
            if path in members and members[path].issym():
                info.mode, info.type, info.linkname = 0o777, tarfile.SYMTYPE, members[path].linkname
            tar.addfile(info)


if __name__ == "__main__":
    try:
        done = slim(Path(sys.argv[1]), Path(sys.argv[2]))
    except ConfigError as error:
        sys.exit(str(error))
    print(
        f"{sys.argv[2]}: {done.files} files of {len(done.packages)} packages, {done.bytes / 1e6:.0f} MB",
        file=sys.stderr,
    )
