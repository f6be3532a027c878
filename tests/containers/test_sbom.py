"""Bills of materials and licences: valid, the same each time, and true to the files in the image."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from containers import packages
from containers.cache import cache_dir
from containers.profiles import LIB_DIRS
from containers.python import Python
from containers.rootfs import RootFS
from containers.sbom import Part, debian_parts, image_parts, licences, python_parts, sbom

AT = LIB_DIRS[0]
PYTHON = Python((3, 11), "x86_64", "2.36")
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Description: GNU C Library
 Version: of nothing

Package: python3.11-minimal
Architecture: amd64
Version: 3.11.2-6+deb12u8
"""
BASE = {
    "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "etc/os-release": "-> ../usr/lib/os-release",
    "var/lib/dpkg/status": STATUS,
    "usr/share/doc/libc6/copyright": "Format: https://www.debian.org/doc\n\nLicense: LGPL-2.1+\n\nLicense: BSD\nLicense: BSD\n",
    "usr/share/doc/python3.11-minimal/copyright": "This package was put together by\nLicense: everything free\n",
}
INNER = {"components": [{"type": "library", "name": "ring", "version": "0.17", "purl": "pkg:cargo/ring@0.17"}]}


def _tar(*layers: Mapping[str, str]) -> list[tarfile.TarFile]:
    opened = []
    for files in layers:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, text in files.items():
                info = tarfile.TarInfo(f"./{path}")
                info.size = len(text)
                if text.startswith("-> "):
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, text[3:], 0
                tar.addfile(info, io.BytesIO(text.encode()))
        opened.append(tarfile.open(fileobj=io.BytesIO(buffer.getvalue())))  # noqa: SIM115  # holds memory alone
    return opened


def _install(folder: Path, name: str, metadata: str, **files: str) -> Path:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    files |= {f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}\n"}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in (*files, "trimmed.py", "../../bin/tool")))
    return folder


def _components(bill: bytes) -> dict[str, Any]:
    return {c["name"]: c for c in json.loads(bill)["components"]}


def _some(tmp_path: Path) -> tuple[Part, ...]:
    _install(tmp_path, "Inner_Parts", "", **{"Inner_Parts-1.0.dist-info/sboms/a.cdx.json": json.dumps(INNER)})
    _install(
        tmp_path, "free", "License-Expression: MIT OR Apache-2.0", **{"free-1.0.dist-info/licenses/deep/LICENSE": "MIT"}
    )
    return image_parts(PYTHON, {"/opt/lib": (tmp_path,)}, RootFS(*_tar(BASE)))


def test_a_bill_is_valid_and_holds_each_kind_of_part(tmp_path: Path) -> None:
    bill = sbom("sitestream/collect", _some(tmp_path))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
    found = _components(bill)
    assert set(found) == {"sitestream", "inner-parts", "free", "python", "libc6", "python3.11-minimal"}
    assert found["sitestream"]["version"] == packages.own_version()
    assert found["free"]["purl"] == "pkg:pypi/free@1.0"
    assert found["free"]["licenses"] == [{"acknowledgement": "declared", "expression": "MIT OR Apache-2.0"}]
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12"
    assert found["python"]["version"] == "3.11.2"
    assert found["inner-parts"]["components"][0]["purl"] == "pkg:cargo/ring@0.17"
    assert json.loads(bill)["metadata"]["component"]["name"] == "sitestream/collect"


def test_a_bill_is_the_same_each_time_and_another_for_another_image(tmp_path: Path) -> None:
    parts = _some(tmp_path)
    bill = sbom("sitestream/collect", parts)
    assert sbom("sitestream/collect", parts) == bill
    assert "timestamp" not in bill.decode()
    serials = {json.loads(b)["serialNumber"] for b in (bill, sbom("a", parts), sbom("sitestream/collect", parts[1:]))}
    assert len(serials) == 3


def test_the_hash_is_what_sha256sum_says_of_the_files_that_are_there(tmp_path: Path) -> None:
    _install(tmp_path, "p", "License: MIT", **{"p/a.py": "1", "p/b.py": "2"})
    (part,) = python_parts("/opt/lib", tmp_path)
    paths = ["p-1.0.dist-info/METADATA", "p/a.py", "p/b.py"]  # not what was trimmed, nor scripts, which lie outside
    lines = [f"{hashlib.sha256((tmp_path / p).read_bytes()).hexdigest()}  {p}\n" for p in paths]
    assert part.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: BSD-3-Clause AND 0BSD\nLicense: something", "BSD-3-Clause AND 0BSD"),
        ("License: Apache 2", "Apache 2"),
        ("Classifier: License :: OSI Approved :: MIT License\nClassifier: Topic :: System", "MIT License"),
        (
            f"License: {'All rights reserved and much more. ' * 9}\nClassifier: License :: OSI Approved :: BSD License",
            "BSD License",
        ),
        ("", ""),
    ],
)
def test_a_licence_is_what_the_metadata_say(tmp_path: Path, metadata: str, licence: str) -> None:
    (part,) = python_parts("/opt/lib", _install(tmp_path, "p", metadata))
    assert part.licence == licence


def test_debians_licences_are_read_where_they_are_written_for_machines() -> None:
    libc, python = debian_parts(RootFS(*_tar(BASE)))
    assert (libc.licence, libc.licence_files) == ("BSD, LGPL-2.1+", ("/usr/share/doc/libc6/copyright",))
    assert (python.licence, python.licence_files) == ("", ("/usr/share/doc/python3.11-minimal/copyright",))


def test_a_later_layer_of_a_base_counts_and_a_base_that_is_no_debian_has_no_debian_parts(tmp_path: Path) -> None:
    newer = {"var/lib/dpkg/status": STATUS.replace("2.36-9", "2.36-10")}
    assert debian_parts(RootFS(*_tar(BASE, newer)))[0].version == "2.36-10"
    own, python = image_parts(PYTHON, {}, RootFS(*_tar({"etc/os-release": "ID=other\n"})))
    assert (own.name, python.name, python.version) == ("sitestream", "python", "3.11")


def test_the_list_of_licences_names_each_text(tmp_path: Path) -> None:
    assert licences(_some(tmp_path)).splitlines()[1:] == [
        "inner-parts 1.0: not declared",
        "free 1.0: MIT OR Apache-2.0",
        "    /opt/lib/free-1.0.dist-info/licenses/deep/LICENSE",
        "python 3.11.2: PSF-2.0",
        "    /usr/share/doc/python3.11-minimal/copyright",
        "libc6 2.36-9: BSD, LGPL-2.1+",
        "    /usr/share/doc/libc6/copyright",
        "python3.11-minimal 3.11.2-6+deb12u8: see its text",
        "    /usr/share/doc/python3.11-minimal/copyright",
    ]


def test_the_packages_of_a_service_keep_their_licences_when_they_are_trimmed() -> None:
    pins = packages.pins(PYTHON)
    folder = packages.installed(pins, PYTHON, AT)
    parts = {part.name: part for part in python_parts("/opt/lib", folder)}
    assert {f"{p.name}=={p.version}" for p in parts.values()} == set(pins)
    for part in parts.values():
        assert part.licence, part
        assert part.licence_files, part
        declared = importlib.metadata.metadata(part.name).get_all("License-File", [])
        assert all(any(path.endswith(f"/{file}") for path in part.licence_files) for file in declared), part
    assert any(
        "/include/" in path for path in parts["numpy"].licence_files
    )  # as a folder of headers, it would be trimmed


def test_the_whole_image_of_the_test_bed_has_a_licence_text_for_every_part() -> None:
    with tarfile.open(cache_dir() / "base-small-bookworm.tar") as tar:
        base = RootFS(tar)
        folder = packages.installed(packages.pins(PYTHON), PYTHON, AT)
        parts = image_parts(PYTHON, {"/opt/lib": (folder,)}, base)
        for path in (path for part in parts for path in part.licence_files):
            assert base.resolve(path) or (folder / path.removeprefix("/opt/lib/")).is_file()
    assert [part.name for part in parts if not part.licence_files] == ["sitestream"]
    assert len({c["bom-ref"] for c in json.loads(sbom("sitestream/collect", parts))["components"]}) == len(parts)


_NAMES = st.text("abc-", min_size=1, max_size=5)
_LICENCES = st.sampled_from(["", "MIT", "MIT OR Apache-2.0", "BSD, GPL-2+", "(weird", "LicenseRef-own"])


@given(st.dictionaries(_NAMES, st.tuples(st.text("012.", min_size=1), _LICENCES), min_size=1, max_size=4))
def test_whatever_licences_are_called_the_bill_names_every_part(described: dict[str, tuple[str, str]]) -> None:
    parts = [Part(n, v, PackageURL("pypi", None, n, v), licence) for n, (v, licence) in described.items()]
    found = _components(sbom("image", parts))
    assert {n: c["version"] for n, c in found.items()} == {n: v for n, (v, _) in described.items()}
    for name, (_, licence) in described.items():
        assert (licence in json.dumps(found[name].get("licenses", ""))) or not licence
    assert len(licences(parts).splitlines()) == len(parts)
