"""A root filesystem in a tar: its files by path, with symbolic links followed inside it, and what dpkg says about them."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipelines.errors import ConfigError

STATUS = "var/lib/dpkg/status"
LISTS = "var/lib/dpkg/info"
_LINKS_MAX = 40  # as the kernel's


class RootFS:
    """The files of an open tar, or of several laid over each other. A path has no leading slash: 'usr/bin/python3'."""

    def __init__(self, *tars: tarfile.TarFile) -> None:
        found = {posixpath.normpath(member.name).lstrip("/"): (tar, member) for tar in tars for member in tar}
        self._tars = {path: tar for path, (tar, _) in found.items()}
        folders = {str(f) for path in found for f in Path(path).parents} - {"."}  # a tar may leave them to be inferred
        self.members: Mapping[str, tarfile.TarInfo] = {f: _folder(f) for f in sorted(folders)} | {
            path: member for path, (_, member) in found.items()
        }

    def resolve(self, path: str) -> tuple[str, ...]:
        """The links that lead from a path to a file or folder, and at last itself; empty if there is none."""
        links: list[str] = []
        rest, real = path.strip("/").split("/")[::-1], ""
        while rest:
            word = rest.pop()
            if word in ("", ".", ".."):
                real = posixpath.dirname(real) if word == ".." else real
                continue
            there = posixpath.join(real, word)
            member = self.members.get(there)
            if member is None:
                return ()
            if not member.issym():
                real = there
                continue
            links.append(there)
            if len(links) > _LINKS_MAX:
                return ()
            real = "" if member.linkname.startswith("/") else real
            rest += member.linkname.split("/")[::-1]
        return (*links, real)

    def is_folder(self, path: str) -> bool:
        """If a path is a folder or leads to one."""
        where = self.resolve(path)
        return bool(where) and (not where[-1] or self.members[where[-1]].isdir())

    def below(self, folder: str) -> Iterator[str]:
        """Files and links in a folder and its folders; the folder may be a link."""
        real = self.resolve(folder)[-1:]
        yield from (p for p, m in self.members.items() if real and p.startswith(f"{real[0]}/") and not m.isdir())

    def read(self, path: str) -> bytes:
        """What is in a file, which may be a hard or symbolic link. `ConfigError` if there is no such file."""
        where = self.resolve(path)[-1:]
        content = self._tars[where[0]].extractfile(self.members[where[0]]) if where and where[0] else None
        if content is None:
            raise ConfigError(f"{path} is no file in this root filesystem")
        return content.read()

    def lines(self, path: str) -> list[str]:
        """The lines of a text file; none if it is missing."""
        return self.read(path).decode().splitlines() if self.resolve(path) else []

    def owners(self) -> dict[str, str]:
        """The Debian package that each file came with, and each link but those to folders, which many packages name."""
        found: dict[str, str] = {}
        for listing in self.below(LISTS):
            package, ends = posixpath.splitext(posixpath.basename(listing))
            for line in self.lines(listing) if ends == ".list" else ():
                folder, name = posixpath.split(line)
                where = self.resolve(folder)
                path = posixpath.join(where[-1], name) if where else ""
                if path in self.members and not self.is_folder(path):
                    found[path] = package.partition(":")[0]
        return found


def _folder(path: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def stanzas(status: str) -> Iterator[dict[str, str]]:
    """The packages in dpkg's status: fields by name, their first lines only; '' has the whole text."""
    for text in status.split("\n\n"):
        if text.strip():
            fields = (line.partition(":") for line in text.splitlines() if line[:1].strip())
            yield {name: value.strip() for name, _, value in fields} | {"": text.strip("\n")}
