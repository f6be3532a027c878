"""What is in a folder of jars, for bills of materials: as their own metadata say."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packageurl import PackageURL

from containers.sbom import Part

_NAME = re.compile(r"(.+?)-(\d[\w.-]*)")
_GROUP = re.compile(r"META-INF/maven/([^/]+)/([^/]+)/pom\.properties")
_PAPERS = re.compile(r"(META-INF/)?(LICENSE|NOTICE)[^/]*", re.IGNORECASE)
_LICENCES = (
    (r"apache[^,;]*2\.0", "Apache-2.0"),
    (r"bsd-2-clause", "BSD-2-Clause"),
    (r"mit-license", "MIT"),
)


def jar_parts(folder: Path, where: str) -> Iterator[Part]:
    """The jars of a folder, which an image has as `where`. Their hashes are those of the files."""
    for path in sorted(folder.glob("*.jar")):
        found = _NAME.fullmatch(path.stem)
        name, version = (found[1], found[2]) if found else (path.stem, "")
        with zipfile.ZipFile(path) as jar:
            members = jar.namelist()
            papers = tuple(sorted(m for m in members if _PAPERS.fullmatch(m)))
            licence = _licence(jar, papers)
        yield Part(
            name,
            version,
            PackageURL("maven", _group(name, members), name, version),
            licence,
            tuple(f"{where}/{path.name}!/{paper}" for paper in papers),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )


def _group(name: str, members: Sequence[str]) -> str | None:
    """Who publishes it; Kafka's own jars do not say."""
    groups = {m[2]: m[1] for member in members if (m := _GROUP.fullmatch(member))}
    return groups.get(name) or ("org.apache.kafka" if name.startswith("kafka") else None)


def _licence(jar: zipfile.ZipFile, papers: Sequence[str]) -> str:
    """By its manifest, else by the first lines of its text; empty if neither tells."""
    manifest = jar.read("META-INF/MANIFEST.MF").decode(errors="replace").replace("\r\n ", "").replace("\n ", "")
    said = re.search(r"^Bundle-License: (.*)$", manifest, re.MULTILINE)
    texts = [jar.read(paper)[:300].decode(errors="replace") for paper in papers if "LICENSE" in paper.upper()]
    for text in [said[1]] if said else texts:
        words = " ".join(text.split())
        for pattern, licence in _LICENCES:
            if re.search(pattern, words, re.IGNORECASE):
                return licence
    return ""
