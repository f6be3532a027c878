"""Read and check a fleet folder: `fleet.toml` with what sites have in common, `sites/*.toml` with what each has of its own.

`example/` explains both. A site's settings are laid over those of its groups, and these over [defaults]; the outcome is checked
as a site file that stands alone. All mistakes of all files are found before anything is done with one of the sites.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from containers.fleet.select import select
from containers.fleet.tables import PLACEHOLDER, Table, drop, filled, merged, nearest, sets, strange_placeholders
from containers.site import Site, SiteFile, checks, field_of, line_of, with_line
from pipelines.errors import ConfigError, SitestreamError
from pipelines.settings import decode_strict, explain
from pipelines.topics import valid_name

FLEET_FILE, SITES_FOLDER = "fleet.toml", "sites"
EXAMPLE = Path(__file__).parent / "example"
PROBLEMS_SHOWN_MAX = 20
_OF_EACH_SITE = ("site", "groups")  # what cannot stand in fleet.toml
_STAND_INS = {f.encode_name: "" for f in msgspec.structs.fields(Site) if f.required}


class FleetToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of fleet.toml."""

    defaults: Table = {}
    groups: dict[str, Table] = {}


class Member(Site, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a site in a fleet."""

    groups: tuple[str, ...] = ()


class FleetError(ConfigError):
    """Mistakes in a fleet folder: `problems` are all of them, the text shows the first."""

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = [*problems[:PROBLEMS_SHOWN_MAX]]
        if more := len(problems) - len(shown):
            shown.append(f"and {more:,} more: `pipeline check` lists them all")
        one = len(problems) == 1
        super().__init__(problems[0] if one else f"fleet {folder}: {len(problems):,} mistakes\n  " + "\n  ".join(shown))


@dataclass(frozen=True)
class Fleet:
    """A fleet as its folder describes it."""

    folder: Path
    sites: tuple[SiteFile, ...]  # by name
    groups: tuple[str, ...]

    def select(self, sites: Sequence[str] = (), groups: Sequence[str] = ()) -> list[SiteFile]:
        """The sites with names like one of `sites` ('plant-*') that are in one of `groups`; without either, of any name or group.

        `ConfigError` if a word of either selects nothing.
        """
        return select(self.sites, self.groups, sites, groups)


def load_fleet(folder: Path) -> Fleet:
    """Read and check a fleet folder. `ConfigError` or `FleetError` names file, line, field and cure of every mistake."""
    path = folder / FLEET_FILE
    try:
        text = path.read_text()
    except FileNotFoundError as e:
        raise ConfigError(
            f"{path}: there is no such file: name the fleet folder with --fleet DIR, or begin with a copy of {EXAMPLE}"
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e
    try:
        content = decode_strict(text.encode(), FleetToml, str(path), fmt="toml")
    except ConfigError as e:
        raise ConfigError(with_line(str(e), str(path), text)) from e
    reader = _Reader(path, text, content)
    sites = reader.sites(sorted(p for p in (folder / SITES_FOLDER).glob("*.toml") if not p.name.startswith(".")))
    if reader.problems:
        raise FleetError(folder, reader.told())
    return Fleet(folder, tuple(sorted(sites, key=lambda s: s.site.site)), tuple(content.groups))


@dataclass(frozen=True)
class _Layer:
    """Settings as they stand in one place: table `at` of a file, or the whole file."""

    path: Path
    text: str
    table: Mapping[str, object]
    at: str = ""

    def place(self, field: str) -> str:
        """'FILE:LINE' of a field."""
        return f"{self.path}:{line_of(f'{self.at}{field}', self.text)}" if field else str(self.path)


@dataclass
class _Reader:
    """Reads site files and keeps what is wrong; a mistake in fleet.toml once, however many sites have it from there."""

    path: Path
    text: str
    content: FleetToml
    problems: dict[tuple[str, str], str] = field(default_factory=dict)  # (place, field) -> message
    affected: dict[tuple[str, str], int] = field(default_factory=dict)  # -> number of sites
    bases: dict[tuple[str, ...], Table] = field(default_factory=dict)  # groups -> defaults with theirs laid over

    @cached_property
    def defaults(self) -> _Layer:
        """[defaults]."""
        return _Layer(self.path, self.text, self.content.defaults, "defaults.")

    @cached_property
    def groups(self) -> dict[str, _Layer]:
        """[groups.…], by name."""
        return {n: _Layer(self.path, self.text, t, f"groups.{n}.") for n, t in self.content.groups.items()}

    def told(self) -> list[str]:
        """Every problem in a line."""
        many = {key: f" ({n:,} sites)" for key, n in self.affected.items() if n > 1}
        return [f"{key[0]}: {message}{many.get(key, '')}" for key, message in self.problems.items()]

    def sites(self, paths: Iterable[Path]) -> list[SiteFile]:
        """The sites that are well, after fleet.toml itself was checked."""
        for layer in (self.defaults, *self.groups.values()):
            self._check_shared(layer)
        for name, layer in self.groups.items():
            self._try(layer, "", lambda name=name: valid_name("group", name))  # type: ignore[misc]  # bound per turn
        found = [site for path in paths if (site := self._site(path))]
        first: dict[str, SiteFile] = {}
        for site in found:
            if (other := first.setdefault(site.site.site, site)) is not site:
                self._add(
                    str(site.path), "site", f"site {site.site.site!r} is also {other.path}: give one another name"
                )
        return found

    def _check_shared(self, layer: _Layer) -> None:
        for name in set(_OF_EACH_SITE) & set(layer.table):
            self._add(layer.place(name), name, f"{layer.at}{name}: every site has its own: write it in the site's file")
        self._check_placeholders(layer)

        def found(field: str, message: str) -> None:
            if "missing required field" not in message:  # it may stand elsewhere
                self._add(layer.place(field), field, message)

        _structure(_STAND_INS | filled(dict(layer.table), "site"), Site, found)

    def _check_placeholders(self, layer: _Layer) -> None:
        for field_, found in strange_placeholders(layer.table):
            if ".options." not in field_ and ".secrets." not in field_:  # texts of their own; what must not be shown
                self._add(
                    layer.place(field_),
                    field_,
                    f"{field_}: {found} stands for nothing: the only placeholder is {PLACEHOLDER}",
                )

    def _site(self, path: Path) -> SiteFile | None:
        try:
            text = path.read_text()
            own: Table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            return self._add(str(path), "", f"is not TOML: {e}")
        except (OSError, UnicodeDecodeError) as e:
            return self._add(str(path), "", f"cannot be read: {e}")
        layer = _Layer(path, text, own)
        self._check_placeholders(layer)
        groups = self._groups(layer)
        layers = (self.defaults, *(self.groups[g] for g in groups), layer)

        def found(field: str, message: str) -> None:
            whose = next((of for of in reversed(layers) if sets(of.table, field)), layer)
            cure = f": write it there, or in {self.path} under [defaults]" if not field else ""
            self._add(whose.place(field), field, message + cure, sites=1)

        name = own.get("site", path.stem)
        site = _structure(filled({"site": name} | merged(self._base(groups), own), str(name)), Member, found)
        if site is None:
            return None
        for field_, check in checks(site):
            try:
                check()
            except SitestreamError as e:
                found(field_, str(e))
        return SiteFile(path, site, self.path.parent, groups)

    def _groups(self, layer: _Layer) -> tuple[str, ...]:
        """The groups of a site that there are; the others are a problem. What is no list of texts is left to the structure."""
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
                merged(self._base(groups[:-1]), self.content.groups[groups[-1]])
                if groups
                else dict(self.content.defaults)
            )
        return self.bases[groups]

    def _try(self, layer: _Layer, field: str, check: Callable[[], object]) -> None:
        try:
            check()
        except SitestreamError as e:
            self._add(layer.place(field), field, str(e))

    def _add(self, place: str, field: str, message: str, *, sites: int = 0) -> None:
        self.problems.setdefault((place, field), message)
        self.affected[place, field] = self.affected.get((place, field), 0) + sites


def _structure(table: Table, into: type[Site], found: Callable[[str, str], None]) -> Site | None:
    """The table as a struct; None if it is none. `found` is told (field, message) of all that is wrong; changes `table`."""
    well = True
    while True:
        try:
            made = msgspec.convert(table, into, str_keys=True)
            return made if well else None
        except msgspec.ValidationError as e:
            field, well = field_of(str(e)), False
            found(field, explain(str(e), into))
            if "missing required field" in str(e) or not drop(table, field):
                return None
