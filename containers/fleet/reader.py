"""Reads the files of a fleet folder and gathers what is wrong with them, each mistake once, where it stands.

A site's settings are laid over those of its groups, and these over [defaults]; the outcome is checked as a site file that
stands alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from containers.fleet.tables import PLACEHOLDER, Table, drop, filled, merged, nearest, put, sets, strange_placeholders
from containers.site import Site, SiteFile, checks
from containers.toml_lines import field_of, line_of, missing_in
from pipelines.errors import SitestreamError
from pipelines.settings import explain
from pipelines.topics import valid_name

_OF_EACH_SITE = ("site", "groups")  # what cannot stand in fleet.toml


class FleetToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of fleet.toml."""

    defaults: Table = {}
    groups: dict[str, Table] = {}


class Member(Site, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a site in a fleet."""

    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Settings as they stand in one place: table `at` of a file, or the whole file."""

    path: Path
    text: str
    table: Mapping[str, object]
    at: str = ""

    def place(self, setting: str) -> str:
        """'FILE:LINE' of a setting; the file alone of none."""
        whole = f"{self.at}.{setting}".strip(".")
        return f"{self.path}:{line_of(whole, self.text)}" if whole else str(self.path)


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong. Those of many sites that come from one line of fleet.toml are equal."""

    place: str
    setting: str
    message: str = field(compare=False)


@dataclass
class Reader:
    """Reads site files of a fleet. `mistakes` are counted by the number of sites that have them."""

    path: Path  # of fleet.toml
    text: str
    content: FleetToml
    mistakes: dict[Mistake, int] = field(default_factory=dict)
    first: dict[str, Path] = field(default_factory=dict)  # site's name -> the first file that has it
    bases: dict[tuple[str, ...], Table] = field(default_factory=dict)  # groups -> [defaults] with theirs laid over

    @cached_property
    def defaults(self) -> Layer:
        """[defaults]."""
        return Layer(self.path, self.text, self.content.defaults, "defaults")

    @cached_property
    def groups(self) -> dict[str, Layer]:
        """[groups.…], by name."""
        return {n: Layer(self.path, self.text, t, f"groups.{n}") for n, t in self.content.groups.items()}

    @property
    def problems(self) -> list[str]:
        """Every mistake in a line."""
        return [f"{m.place}: {m.message}" + (f" ({n:,} sites)" if n > 1 else "") for m, n in self.mistakes.items()]

    def read(self, paths: Iterable[Path]) -> list[SiteFile]:
        """The sites of these files; of use only if there are no mistakes."""
        for name, layer in self.groups.items():
            try:
                valid_name("group", name)
            except SitestreamError as e:
                self._add(layer.place(""), "", str(e))
        for layer in (self.defaults, *self.groups.values()):
            self._check_shared(layer)
        return [site for path in paths if (site := self._site(path))]

    def _check_shared(self, layer: Layer) -> None:
        for name in _OF_EACH_SITE:
            if name in layer.table:
                self._add(layer.place(name), name, f"{name}: every site has its own: write it in the site's file")
        self._check_placeholders(layer)
        for name, message in structure(filled(dict(layer.table), "site"), Site)[1].items():
            if sets(layer.table, name):  # else it is missing, and may stand elsewhere
                self._add(layer.place(name), name, message)

    def _check_placeholders(self, layer: Layer) -> None:
        for name, found in strange_placeholders(layer.table):
            if ".options." not in name and ".secrets." not in name:  # texts of their own; what must not be shown
                cure = f"stands for nothing: the only placeholder is {PLACEHOLDER}"
                self._add(layer.place(name), name, f"{name}: {found} {cure}")

    def _site(self, path: Path) -> SiteFile | None:
        layer = self._file(path)
        if layer is None:
            return None
        self._check_placeholders(layer)
        groups = self._groups(layer)
        name = layer.table.get("site", path.stem)
        table = merged(self._base(groups), layer.table) | {"site": name}
        site, wrong = structure(filled(table, _usable(name)), Member)
        for setting, check in checks(site):
            try:
                check()
            except SitestreamError as e:
                wrong.setdefault(setting, str(e))
        layers = (layer, *(self.groups[g] for g in reversed(groups)), self.defaults)
        for setting, message in wrong.items():
            self._add_of_site(layers, setting, message)
        if (other := self.first.setdefault(site.site, path)) is not path:
            self._add(layer.place("site" * ("site" in layer.table)), "site", _twice(site.site, other))
        return SiteFile(path, site, self.path.parent, groups)

    def _file(self, path: Path) -> Layer | None:
        try:
            text = path.read_text()
            return Layer(path, text, tomllib.loads(text))
        except tomllib.TOMLDecodeError as e:
            self._add(str(path), "", f"is not TOML: {e}")
        except (OSError, UnicodeDecodeError) as e:
            self._add(str(path), "", f"cannot be read: {e}")
        return None

    def _groups(self, layer: Layer) -> tuple[str, ...]:
        """The groups of a site that there are; the others are a mistake. What is no list of texts is found by `structure`."""
        named = layer.table.get("groups")
        texts = [g for g in named if isinstance(g, str)] if isinstance(named, list) else []
        for name in texts:
            if name not in self.groups:
                cure = nearest(name, self.groups) or f": add [groups.{name}] to {self.path}"
                self._add(layer.place("groups"), f"groups.{name}", f"groups: there is no group {name!r}{cure}")
        return tuple(g for g in texts if g in self.groups)

    def _base(self, groups: tuple[str, ...]) -> Table:
        if groups not in self.bases:
            self.bases[groups] = (
                merged(self._base(groups[:-1]), self.content.groups[groups[-1]]) if groups else self.content.defaults
            )
        return self.bases[groups]

    def _add_of_site(self, layers: Sequence[Layer], setting: str, message: str) -> None:
        """A mistake in a site's settings, which stands in the uppermost of the layers that has the setting or its table."""
        table = setting.rpartition(".")[0]
        where = setting if any(sets(of.table, setting) for of in layers) else table
        whose = next((of for of in layers if sets(of.table, where)), layers[0])
        if missing_in(message):
            message += ": write it there" + ("" if table else f", or in {self.path} under [defaults]")
        elif setting.rpartition(".")[2] not in message:
            message = f"{setting}: {message}"
        self._add(whose.place(where), setting, message, sites=1)

    def _add(self, place: str, setting: str, message: str, *, sites: int = 0) -> None:
        mistake = Mistake(place, setting, message)
        self.mistakes[mistake] = self.mistakes.get(mistake, 0) + sites


def structure(table: Table, into: type[Site]) -> tuple[Site, dict[str, str]]:
    """A table as a struct, and what is wrong: field -> message. A wrong field has its default, a missing one is empty.

    Changes `table`.
    """
    wrong: dict[str, str] = {}
    while True:
        try:
            return msgspec.convert(table, into), wrong
        except msgspec.ValidationError as e:
            missing = missing_in(str(e))
            name = missing or field_of(str(e))
            wrong.setdefault(name, explain(str(e), into))
            if missing:
                put(table, name, "")
            else:
                drop(table, name)


def _usable(name: object) -> str:
    """The name to fill in: if it is wrong, one that makes nothing else wrong."""
    try:
        return valid_name("site", str(name))
    except SitestreamError:
        return "site"


def _twice(name: str, other: Path) -> str:
    return f"site {name!r} is also in {other}: its topics and containers would be the other's: give one another name"
