"""What is in an image: its bill of materials (SBOM, CycloneDX 1.6) and a list of licences, the same bytes for the same image.

A part's licence is what its own metadata say, an SPDX expression where they have one. A wheel that describes what was compiled
into it (PEP 770) has those parts listed inside it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from containers.packages import DISTRIBUTION, own_version
from containers.python import Python
from containers.rootfs import STATUS, RootFS, stanzas

_PAPERS = ("licen", "copying", "notice", "author")  # how names of files with licences begin
_WORDS_MAX = 40  # a longer `License` is the text itself


@dataclass(frozen=True)
class Part:
    """A piece of software in an image."""

    name: str
    version: str
    purl: PackageURL
    licence: str = ""  # empty if its metadata name none
    licence_files: tuple[str, ...] = ()  # their paths in the image
    sha256: str = ""  # of what `sha256sum` prints for its files, sorted by their paths
    inside: tuple[bytes, ...] = ()  # bills of materials of what was compiled into it


def image_parts(python: Python, packages: Mapping[str, tuple[Path, ...]], base: RootFS) -> tuple[Part, ...]:
    """What an image of ours holds: our own distribution, the packages (`containers.packages.installed`, by the folder where the
    image has them all), and its base image with Python.
    """
    version = own_version()
    own = Part(DISTRIBUTION, version, PackageURL("pypi", None, DISTRIBUTION, version), "Apache-2.0")
    wheels = [part for where, folders in packages.items() for part in _wheels(where, *folders)]
    debian = debian_parts(base)
    return (own, *wheels, _python(python, debian), *debian)


@functools.cache  # the services of a release have most of their packages in common, in folders that never change
def _wheels(where: str, *folders: Path) -> tuple[Part, ...]:
    return tuple(python_parts(where, *folders))


def python_parts(where: str, folder: Path, *more: Path) -> Iterator[Part]:
    """The Python packages that are installed in a folder, which an image has as `where`; some of their files are in `more`, of
    which the same is made.
    """
    for info in sorted(folder.glob("*.dist-info")):
        distribution = PathDistribution(info)
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        listed = (str(f) for f in distribution.files or () if ".." not in f.parts)
        found = {f: at / f for f in sorted(listed) for at in (folder, *more) if (at / f).is_file()}
        files = list(found)
        about = [f.removeprefix(f"{info.name}/") for f in files if f.startswith(f"{info.name}/")]
        papers = [f for f in about if f.startswith("licenses/") or f.lower().startswith(_PAPERS)]
        sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {f}\n" for f, path in found.items())
        yield Part(
            name,
            distribution.version,
            PackageURL("pypi", None, name, distribution.version),
            _licence(distribution),
            tuple(f"{where}/{info.name}/{f}" for f in papers),
            hashlib.sha256(sums.encode()).hexdigest(),
            tuple(
                (info / f).read_bytes()
                for f in about
                if re.fullmatch(r"sboms/.*cyclonedx\.json|sboms/.*\.cdx\.json", f)
            ),
        )


def debian_parts(base: RootFS) -> list[Part]:
    """The Debian packages of a base image; none if it is no Debian."""
    release = dict(line.split("=", 1) for line in base.lines("etc/os-release") if "=" in line)
    distro = "-".join(release.get(word, "").strip('"') for word in ("ID", "VERSION_ID"))
    found = []
    for fields in stanzas("\n".join(base.lines(STATUS))):
        name, version = fields["Package"], fields["Version"]
        purl = PackageURL("deb", "debian", name, version, {"arch": fields["Architecture"], "distro": distro})
        paper = f"usr/share/doc/{name}/copyright"
        papers = (f"/{paper}",) if base.resolve(paper) else ()
        found.append(Part(name, version, purl, _debian_licence(base.lines(paper)), papers))
    return found


def _python(python: Python, debian: Iterable[Part]) -> Part:
    """Python itself, in Debian's words if it is Debian's."""
    short = ".".join(map(str, python.version))
    packaged = next((p for p in debian if p.name == f"python{short}-minimal"), None)
    version = packaged.version.partition("-")[0] if packaged else short
    return Part(
        "python",
        version,
        PackageURL("generic", None, "python", version),
        "PSF-2.0",
        packaged.licence_files if packaged else (),
    )


def _licence(distribution: Distribution) -> str:
    """An expression (PEP 639), else what older metadata have: a few words, or classifiers."""
    expression, words = ("".join(distribution.metadata.get_all(name, [])) for name in ("License-Expression", "License"))
    if expression or 0 < len(words) <= _WORDS_MAX:
        return expression or words
    classifiers = distribution.metadata.get_all("Classifier", [])
    return ", ".join(c.rpartition("::")[2].strip() for c in classifiers if c.startswith("License ::"))


def _debian_licence(copyright_lines: list[str]) -> str:
    """The licences that a copyright file names in the form that machines read (DEP 5), as Debian calls them."""
    if not any(line.startswith("Format:") for line in copyright_lines[:5]):
        return ""
    return ", ".join(sorted({m[1] for line in copyright_lines if (m := re.match(r"License: (\S.*)", line))}))


def sbom(image: str, parts: Iterable[Part]) -> bytes:
    """The bill of materials of an image, CycloneDX 1.6 as JSON. It names no time; its serial number follows from its content."""
    parts = tuple(parts)
    about = Component(type=ComponentType.CONTAINER, name=image, bom_ref=image)
    serial = uuid5(NAMESPACE_URL, hashlib.sha256(repr((image, parts)).encode()).hexdigest())
    bom = Bom(components=map(_component, parts), serial_number=serial, metadata=BomMetaData(component=about))
    bom.register_dependency(about, bom.components)
    written = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document = json.loads(written)
    del document["metadata"]["timestamp"]  # the one thing that would differ
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _component(part: Part) -> Component:
    return Component(
        type=ComponentType.PLATFORM if part.purl.type == "generic" else ComponentType.LIBRARY,
        name=part.name,
        version=part.version,
        purl=part.purl,
        bom_ref=str(part.purl),
        licenses=_declared(part.licence),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else (),
        properties=[Property(name=f"{DISTRIBUTION}:licence-file", value=path) for path in part.licence_files],
        components=[c for bill in part.inside for c in _inside(bill, str(part.purl))],
    )


def _inside(bill: bytes, ref: str) -> Iterator[Component]:
    """The parts of a bill of materials, in brief, under references that no other bill has."""
    for found in json.loads(bill).get("components", ()):
        purl = found.get("purl")
        named = [entry.get("expression") or entry["license"].get("id", "") for entry in found.get("licenses", ())]
        yield Component(
            type=ComponentType(found["type"]),
            name=found["name"],
            version=found.get("version"),
            purl=PackageURL.from_string(purl) if purl else None,
            bom_ref=f"{ref}#{found.get('bom-ref') or purl or found['name']}",
            licenses=_declared(" AND ".join(filter(None, named))),
        )


def _declared(licence: str) -> list[License]:
    return (
        [LicenseFactory().make_from_string(licence, license_acknowledgement=LicenseAcknowledgement.DECLARED)]
        if licence
        else []
    )


def licences(parts: Iterable[Part]) -> str:
    """A list to read: each part with its version and licence, and below it where in the image the text of the licence is."""
    lines = []
    for part in parts:
        licence = part.licence or ("see its text" if part.licence_files else "not declared")
        lines += [f"{part.name} {part.version}: {licence}", *(f"    {path}" for path in part.licence_files)]
    return "".join(f"{line}\n" for line in lines)
