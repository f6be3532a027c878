"""The slim base image: what is kept runs, what is not needed is gone, for each layout of a Debian."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from containers import packages
from containers.cache import cache_dir
from containers.profiles import LIB_DIRS
from containers.python import Python
from containers.slim import slim
from pipelines.errors import ConfigError
from tests.bed.engine import Engine

AT = LIB_DIRS[0]
PYTHON = Python((3, 11), "x86_64", "2.36")
SHELLS = ("sh", "bash", "dash", "busybox", "perl", "apt", "apt-get", "dpkg", "env", "cat", "su", "mount")
LIBRARY = "usr/lib/python311.zip"
BASE_BYTES_MAX = 30_000_000
COLLECT_BYTES_MAX = 150_000_000
IMPORTS = """\
import asyncio, bz2, ctypes, decimal, hashlib, lzma, ssl, sysconfig, uuid, xml.parsers.expat, zlib, zoneinfo
import aiokafka, faust, msgspec, numpy, numpy.fft, numpy.linalg, numpy.random, numpy.testing
import pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.json, pyarrow.parquet, obstore, aiomqtt
assert ssl.create_default_context().get_ca_certs()
assert str(zoneinfo.ZoneInfo("Europe/Berlin")) in zoneinfo.available_timezones()
assert numpy.linalg.inv(numpy.eye(3)).trace() == 3
table = pyarrow.table({"a": pyarrow.array(numpy.arange(3))})
pyarrow.parquet.write_table(table, "/tmp/t.parquet", compression="zstd")
assert pyarrow.parquet.read_table("/tmp/t.parquet").equals(table)
import asyncio.subprocess, shutil
print([name for name in WANTED if shutil.which(name)])
"""


def _base() -> Path:
    return cache_dir() / "base-small-bookworm.tar"


def _add(tar: tarfile.TarFile, path: str, content: bytes = b"", mode: int = 0o644, link: str = "") -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime, info.uid = len(content), mode, 1700000000, 1000
    if link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    tar.addfile(info, io.BytesIO(content))


def _variant(
    out: Path,
    rename: Callable[[str], str] = lambda path: path,
    without: str = "$^",
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """The base with paths changed, with some left out, and with files more."""
    with tarfile.open(_base()) as base, tarfile.open(out, "w") as tar:
        for member in base:
            if not re.search(without, member.name):
                member.name = f"./{rename(member.name)}"
                tar.addfile(member, base.extractfile(member) if member.isfile() else None)
        for path, content in more.items():
            _add(tar, f"./{path}", content)
    return out


def _paths(tar: Path) -> Mapping[str, tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return {member.name: member for member in opened}


def _of_base(path: str) -> bytes:
    with tarfile.open(_base()) as base:
        found = base.extractfile(path)
        assert found is not None
        return found.read()


def test_what_python_does_not_need_is_taken_away(tmp_path: Path, engine: Engine) -> None:
    status = b"Package: dash\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n"
    text = _of_base("var/lib/dpkg/status") + b"\n" + status
    compiled = "usr/lib/python3.11/__pycache__/abc.cpython-311.pyc"
    code = zipfile.ZipFile(io.BytesIO(_of_base(LIBRARY))).read("abc.pyc")
    timed = code[:4] + bytes(4) + b"timesize" + code[16:]  # as Debian compiles it
    shell = Path("/bin/sh").read_bytes()
    fat = _variant(tmp_path / "fat.tar", without="dpkg/status$", more={"var/lib/dpkg/status": text})
    with tarfile.open(fat, "a") as tar:
        _add(tar, "./usr/bin/dash", shell, mode=0o4755)
        _add(tar, "./usr/bin/sh", link="dash")
        _add(tar, "./usr/bin/python3.11", _of_base("usr/bin/python3.11"), mode=0o6755)
        _add(tar, f"./{compiled}", timed)
        _add(tar, "./usr/bin/python3-config", link="dash")
        _add(tar, "./var/lib/dpkg/info/dash.list", b"/.\n/bin\n/usr/bin/dash\n/bin/sh\n")
        _add(tar, "./usr/lib/python3.11/idlelib/idle.py")
        _add(tar, "./usr/lib/python3.11/unittest/test/__init__.py")
        _add(tar, "./usr/lib/python3.11/lib-dynload/_curses.cpython-311-x86_64-linux-gnu.so", shell)
        _add(tar, "./usr/lib/python3/dist-packages/apt/__init__.py")
        _add(tar, "./usr/lib/x86_64-linux-gnu/libunused.so.1", shell)
        _add(tar, "./var/cache/apt/pkgcache.bin", b"\0" * 1000)
        _add(tar, "./etc/shadow", b"root:*:1::::::")
    kept = slim(fat, tmp_path / "slim.tar")
    assert (tmp_path / "slim.tar").read_bytes() == _base().read_bytes()
    assert kept.python == "usr/bin/python3.11"
    assert {"libc6", "libssl3", "python3.11-minimal", "tzdata"} <= set(kept.packages)
    assert "dash" not in kept.packages


def test_the_base_is_small_and_has_no_shell_and_nothing_setuid(engine: Engine) -> None:
    members = _paths(_base())
    assert sum(m.size for m in members.values()) < BASE_BYTES_MAX
    assert not [p for p, m in members.items() if m.mode & 0o6000 or not (m.isfile() or m.isdir() or m.issym())]
    assert not [p for p, m in members.items() if Path(p).name in SHELLS and not m.isdir()]
    assert {Path(p).name for p in members if "/bin/" in p} == {"python3", "python3.11"}
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members.values()} == {(0, 0, 0, "")}
    assert not [
        p for p, m in members.items() if m.isfile() and m.mode & 0o111 and not re.search(r"\.so|bin/python|\.py$", p)
    ]


def test_each_package_left_comes_with_its_licence(engine: Engine) -> None:
    members = _paths(_base())
    names = re.findall(r"^Package: (.+)$", _of_base("var/lib/dpkg/status").decode(), re.MULTILINE)
    assert len(names) > 15
    for name in names:
        doc = members[f"usr/share/doc/{name}"]
        assert f"usr/share/doc/{doc.linkname or name}/copyright" in members
    assert "usr/share/common-licenses/LGPL-2.1" in members


def test_python_runs_there_with_all_that_services_import(tmp_path: Path, engine: Engine) -> None:
    common = packages.pins(PYTHON)
    extras = (tuple(p for p in packages.pins(PYTHON, (extra,)) if p not in common) for extra in ("control", "upload"))
    whole = tmp_path / "whole"  # as layers over each other
    for pins in (common, packages.parquet_of(common)):
        shutil.copytree(packages.installed(pins, PYTHON, AT), whole, dirs_exist_ok=True)
    folders = [whole, *(packages.installed(pins, PYTHON, AT) for pins in extras)]
    said = engine.client.containers.run(
        engine.base_image,
        ["python3", "-W", "error::ImportWarning", "-c", IMPORTS.replace("WANTED", repr(SHELLS))],
        environment={"PYTHONPATH": "/lib0:/lib1:/lib2"},
        volumes={str(folder): {"bind": f"/lib{n}", "mode": "ro"} for n, folder in enumerate(folders)},
        user="65532:65532",
        read_only=True,
        tmpfs={"/tmp": "noexec,nosuid,size=16m"},
        cap_drop=["ALL"],
        network_mode="none",
        remove=True,
    )
    assert said.decode().strip() == "[]"


def test_collect_is_small_as_what_has_to_do_with_parquet_is_apart(engine: Engine) -> None:
    common = packages.pins(PYTHON)
    more = tuple(p for p in packages.pins(PYTHON, ("mqtt",)) if p not in common)
    folders = [packages.installed(pins, PYTHON, AT) for pins in (common, more)]
    sizes = [f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file()]
    assert sum(sizes) + sum(m.size for m in _paths(_base()).values()) < COLLECT_BYTES_MAX
    tried = """
import importlib
for name in ("acero", "compute", "csv", "dataset", "ipc", "json", "orc", "parquet"):
    try:
        importlib.import_module(f"pyarrow.{name}")
    except ImportError:
        print(name)
"""
    said = engine.client.containers.run(
        engine.base_image,
        ["python3", "-c", tried],
        environment={"PYTHONPATH": "/lib0"},
        volumes={str(folders[0]): {"bind": "/lib0", "mode": "ro"}},
        network_mode="none",
        remove=True,
    )
    assert said.decode().split() == ["acero", "dataset", "orc", "parquet"]


def _in_usr_local(path: str) -> str:
    """Paths of a base without merged /usr and with a Python of its own."""
    path = re.sub(r"^usr/(bin/python|lib/python3)", r"usr/local/\1", path)
    return re.sub(r"^usr/(lib/x86_64-linux-gnu|lib64)", r"\1", path)


def test_a_base_with_a_python_in_usr_local_and_libraries_in_lib(tmp_path: Path, engine: Engine) -> None:
    other = _variant(tmp_path / "other.tar", _in_usr_local, without="^(bin|lib|lib64|sbin)$")
    with tarfile.open(other, "a") as tar:
        _add(tar, "./lib64/ld-linux-x86-64.so.2", link="/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
        _add(tar, "./usr/local/lib/python3.11/site-packages/pip/__init__.py")
    kept = slim(other, tmp_path / "slim.tar")
    assert kept.python == "usr/local/bin/python3.11"
    root = tmp_path / "root"
    with tarfile.open(tmp_path / "slim.tar") as tar:
        tar.extractall(root, filter="fully_trusted")
    words = [
        "chroot",
        str(root),
        "/usr/local/bin/python3",
        "-c",
        "import ctypes, ssl, sysconfig, sys; sysconfig.get_config_vars(); print(sys.prefix)",
    ]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "/usr/local"
    assert not list(root.rglob("pip"))
    shutil.rmtree(root)


def test_compiled_code_counts_although_times_are_not_kept(engine: Engine) -> None:
    with zipfile.ZipFile(io.BytesIO(_of_base(LIBRARY))) as library:
        compiled = [name for name in library.namelist() if name.endswith(".pyc")]
        flags = {library.read(name)[4:8] for name in compiled}
    assert len(compiled) > 300
    assert flags == {b"\x01\0\0\0"}  # unchecked hash


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("dpkg/status$", r"has no /var/lib/dpkg/status: only a Debian \(or Ubuntu\) can be made slim"),
        (
            "bin/python3$",
            r"has no python3 in /usr/local/bin or /usr/bin: add it, or make the base again with tools/base_image",
        ),
        (
            "doc/libc6/",
            r"has no /usr/share/doc/libc6/copyright, and the licence of a package must go with it: make the base",
        ),
    ],
)
def test_a_base_that_lacks_something_is_refused(tmp_path: Path, engine: Engine, without: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        slim(_variant(tmp_path / "bad.tar", without=without), tmp_path / "slim.tar")
    assert not (tmp_path / "slim.tar").exists()


def test_libraries_are_found_beside_the_one_that_needs_them(tmp_path: Path, engine: Engine) -> None:
    """By $ORIGIN, as those of numpy's wheel and of a Python built with --enable-shared."""
    numpy = packages.installed(packages.pins(PYTHON), PYTHON, AT)
    module = next(numpy.glob("numpy/_core/_multiarray_umath.*.so")).read_bytes()  # its are in $ORIGIN/../../numpy.libs
    libraries = {f"usr/lib/numpy.libs/{f.name}": f.read_bytes() for f in numpy.glob("numpy.libs/*.so*")}
    with_module = {"usr/lib/python3.11/a/umath.so": module, "usr/lib/numpy.libs/libother.so": module, **libraries}
    slim(_variant(tmp_path / "more.tar", more=with_module), tmp_path / "slim.tar")
    kept = _paths(tmp_path / "slim.tar")
    assert {p for p in kept if p.startswith("usr/lib/numpy.libs/")} == set(libraries)
