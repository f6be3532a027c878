"""A fleet folder: `fleet.toml` with what sites have in common, `sites/*.toml` with what each has of its own.

`example/` explains both. All mistakes of all files are found before anything is done with one of the sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from containers.fleet.reader import FleetToml, Reader
from containers.fleet.select import select
from containers.site import SiteFile
from containers.toml_lines import with_line
from pipelines.errors import ConfigError
from pipelines.settings import decode_strict

FLEET_FILE, SITES_FOLDER = "fleet.toml", "sites"
EXAMPLE = Path(__file__).parent / "example"
PROBLEMS_SHOWN_MAX = 20


class FleetError(ConfigError):
    """Mistakes in a fleet: `problems` are all of them, the text shows the first."""

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = list(problems[:PROBLEMS_SHOWN_MAX])
        if more := len(problems) - len(shown):
            shown.append(f"and {more:,} more")
        one = len(problems) == 1
        super().__init__(problems[0] if one else f"fleet {folder}: {len(problems):,} mistakes\n  " + "\n  ".join(shown))


@dataclass(frozen=True)
class Fleet:
    """A fleet as its folder describes it."""

    folder: Path
    sites: tuple[SiteFile, ...]  # by name
    groups: tuple[str, ...]

    def select(self, names: Sequence[str] = (), groups: Sequence[str] = ()) -> list[SiteFile]:
        """The sites with a name like one of `names` ('plant-*') that are in one of `groups`; an empty one lets all through.

        `ConfigError` if a word of either selects nothing, or both together do.
        """
        return select(self.sites, self.groups, names, groups)


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
    reader = Reader(path, text, content)
    sites = reader.read(sorted(p for p in (folder / SITES_FOLDER).glob("*.toml") if not p.name.startswith(".")))
    if reader.mistakes:
        raise FleetError(folder, reader.problems)
    return Fleet(folder, tuple(sorted(sites, key=lambda s: s.site.site)), tuple(content.groups))
