"""Which modules a service needs: everything that its entry module imports, and nothing else.

Read from the source text, so nothing is imported to find out. Imports inside functions count; those under `if TYPE_CHECKING`
do not.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import connectors
import containers
import pipelines
from containers.syntax import tree_of
from pipelines.errors import ConfigError

Find = Callable[[str], Path | None]
_PACKAGES = {p.__name__: Path(p.__path__[0]) for p in (pipelines, connectors)}


@functools.cache  # asked some 20,000 times for each site of a fleet
def ours(module: str) -> Path | None:
    """The file of one of our own modules, None if it is not ours."""
    package, _, rest = module.partition(".")
    return _file(_PACKAGES[package], rest) if package in _PACKAGES else None


def of_agent(module: str) -> Path | None:
    """The file of one of the modules that a site's agent may have. It computes nothing: `pipelines` itself, which brings
    numpy and Arrow along, is to it an empty package."""
    package, _, rest = module.partition(".")
    if module == "pipelines":
        return Path(containers.__path__[0], "__init__.py")  # holds nothing
    return _file(Path(containers.__path__[0]), rest) if package == "containers" else ours(module)


def without_pipelines(module: str) -> Path | None:
    """As `ours`, but for the package `pipelines` itself, which imports all with which pipelines are written; what lies in it is
    found without it (PEP 420).
    """
    return None if module == pipelines.__name__ else ours(module)


def beside(folder: Path) -> Find:
    """Finds modules that lie in a folder, such as those next to a pipeline file; never our own."""
    return lambda module: None if module.partition(".")[0] in _PACKAGES else _file(folder, module)


def _file(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split(".")) if module else folder
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def entry(module: str) -> str:
    """What `python -m module` runs."""
    return f"{module}.__main__" if ours(f"{module}.__main__") else module


def closure(roots: Iterable[str], find: Find) -> dict[str, Path]:
    """The files of the roots and of all that they import, as far as `find` knows them, by module name in order.

    `ConfigError` if a root does not exist.
    """
    found: dict[str, Path] = {}
    for root in roots:
        if find(root) is None:
            raise ConfigError(
                f"module {root} does not exist: this installation is not complete; install sitestream again"
            )
        _add(root, find, found)
    return dict(sorted(found.items()))


def _add(module: str, find: Find, found: dict[str, Path]) -> None:
    for name in _with_parents(module):
        file = find(name)
        if file is None or name in found:
            continue
        found[name] = file
        for needed in imports(file, name):
            _add(needed, find, found)


def imports(file: Path, module: str) -> frozenset[str]:
    """Names of all modules (and of what may be modules) that a file imports; `ConfigError` if it is not Python."""
    return _imports(file.read_text(), file, module)


@functools.lru_cache(1000)  # the services have most of their modules in common
def _imports(text: str, file: Path, module: str) -> frozenset[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = tree_of(text, str(file))
    except SyntaxError as e:
        raise ConfigError(f"{file}:{e.lineno}: {e.msg}") from e
    found: set[str] = set()
    for node in _reached(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _reached(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _reached(child)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def in_image(files: Mapping[str, Path]) -> dict[str, bytes]:
    """What to copy: path by module name ('pipelines/dsl.py') -> content."""
    return {image_path(name, file): file.read_bytes() for name, file in files.items()}


def image_path(module: str, file: Path) -> str:
    """Where a module lies below its root: 'pipelines.dsl' -> 'pipelines/dsl.py'."""
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if file.name == "__init__.py" else f"{path}.py"
