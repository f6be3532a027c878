"""Libraries that could write to a device, cut down to the part that reads, before they go into an image. Control writes: its
image keeps the requests that it sends, and no others.

Named are the files that stay and the definitions that go. A name that is not found ends the build: a new version of the library
is looked at by a person before it is shipped. What is cut says so in its first line, as its licence (LGPL) wants.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from containers.syntax import tree_of
from pipelines.errors import ConfigError

NOTE = "# Cut by sitestream to what a reader needs: {}. The original is in the package of this name and version.\n"


@dataclass(frozen=True)
class Cut:
    """What stays of a library: all else of its folder goes."""

    kept: tuple[str, ...]  # files, below the library's folder
    emptied: tuple[str, ...]  # of those: packages whose own imports are not wanted
    definitions: tuple[tuple[str, tuple[str, ...]], ...]  # by file: classes, functions and imports that go
    requests: tuple[str, str, tuple[str, ...]]  # a file, the ending of classes, and the only ones with it that stay
    ids: str  # a file with a class of numbers: those that no file names go
    unneeded: tuple[str, ...]  # requirements of the library that only what goes needs
    beside: str  # a package that only the image of a service that writes has: beside it, `writes` stay
    writes: tuple[str, ...]  # of the definitions that go

    def for_writing(self) -> Cut:
        """The cut for that service."""
        definitions = tuple((path, tuple(n for n in names if n not in self.writes)) for path, names in self.definitions)
        path, ending, allowed = self.requests
        more = tuple(n.removesuffix(ending) for n in self.writes if n.endswith(ending))
        return replace(self, definitions=definitions, requests=(path, ending, (*allowed, *more)))


READS = (
    *(
        "FindServers",
        "GetEndpoints",
        "OpenSecureChannel",
        "CloseSecureChannel",
        "CreateSession",
        "ActivateSession",
        "CloseSession",
    ),
    *("Cancel", "Browse", "BrowseNext", "TranslateBrowsePathsToNodeIds", "RegisterNodes", "UnregisterNodes", "Read"),
    *(
        "MonitoredItemCreate",
        "CreateMonitoredItems",
        "MonitoredItemModify",
        "ModifyMonitoredItems",
        "SetMonitoringMode",
    ),
    *("DeleteMonitoredItems", "CreateSubscription", "ModifySubscription", "SetPublishingMode", "Publish", "Republish"),
    *("TransferSubscriptions", "DeleteSubscriptions"),
)
WRITES = (
    *("WriteRequest", "WriteParameters", "WriteValue", "CallRequest", "CallParameters", "CallMethodRequest"),
    *(
        "HistoryUpdateRequest",
        "HistoryUpdateParameters",
        "HistoryUpdateDetails",
        "UpdateDataDetails",
        "UpdateStructureDataDetails",
    ),
    *("UpdateEventDetails", "DeleteRawModifiedDetails", "DeleteAtTimeDetails", "DeleteEventDetails"),
    *(
        "AddNodesRequest",
        "AddNodesParameters",
        "AddNodesItem",
        "AddReferencesRequest",
        "AddReferencesParameters",
        "AddReferencesItem",
    ),
    *("DeleteNodesRequest", "DeleteNodesParameters", "DeleteNodesItem"),
    *("DeleteReferencesRequest", "DeleteReferencesParameters", "DeleteReferencesItem"),
    *("RegisterServerRequest", "RegisterServer2Request", "RegisterServer2Parameters", "SetTriggeringRequest"),
    *("HistoryReadRequest", "QueryFirstRequest", "QueryNextRequest", "FindServersOnNetworkRequest"),
)
CUTS = {
    "asyncua": Cut(
        kept=(
            "__init__.py", "client/__init__.py", "client/ua_client.py", "common/__init__.py", "common/connection.py",
            "common/utils.py", "crypto/__init__.py", "crypto/security_policies.py", "crypto/uacrypto.py",
            *(f"ua/{n}.py" for n in ("__init__", "attribute_ids", "object_ids", "status_codes", "ua_binary", "uaprotocol_auto")),
            *(f"ua/{n}.py" for n in ("relative_path", "uaprotocol_hand", "uatypes")),
            *(f"ua/uaerrors/{n}.py" for n in ("__init__", "_auto", "_base")),
        ),
        emptied=("__init__.py", "client/__init__.py", "common/__init__.py"),
        definitions=(
            # the client with a function for every service; what is left is the connection that it speaks through
            ("client/ua_client.py", ("UaClient", "StateSubscription", "SessionState", "UaSession", "Observer", "NULL_OBSERVER")),
            ("crypto/uacrypto.py", ("anyio", "get_content", "load_certificate", "load_private_key")),
            ("ua/uaprotocol_auto.py", WRITES),
        ),
        requests=("ua/uaprotocol_auto.py", "Request", READS),
        ids="ua/object_ids.py",
        unneeded=("aiosqlite", "anyio", "python-dateutil", "pytz", "sortedcontainers"),
        beside="pymodbus",
        writes=("WriteRequest", "WriteParameters", "WriteValue", "CallRequest", "CallParameters", "CallMethodRequest"),
    )
}  # fmt: skip


def needed(package: str, requirement: str) -> bool:
    """Whether what is left of a package still needs a requirement of it."""
    return package not in CUTS or requirement.lower() not in CUTS[package].unneeded


def prune(folder: Path) -> None:
    """Cut what is in a folder of installed packages; `ConfigError` if a library is not as it is known here."""
    for name, cut in CUTS.items():
        if (folder / name).is_dir():
            _prune(folder / name, cut.for_writing() if (folder / cut.beside).is_dir() else cut)


def _prune(library: Path, cut: Cut) -> None:
    if missing := [path for path in cut.kept if not (library / path).is_file()]:
        raise ConfigError(_strange(library, f"{missing[0]} is not there"))
    for found in sorted(library.rglob("*"), reverse=True):
        if found.is_dir():
            if not any(found.iterdir()):
                found.rmdir()
        elif str(found.relative_to(library)) not in cut.kept:
            found.unlink()
    for path in cut.emptied:
        (library / path).write_text(NOTE.format("its imports are gone"))
    for path, names in cut.definitions:
        _rewrite(library, path, names)
    _check_requests(library, *cut.requests)
    _fewer_ids(library, cut.ids)


def _rewrite(library: Path, path: str, names: Collection[str]) -> None:
    file = library / path
    try:
        text = without(file.read_text(), names)
    except KeyError as e:
        raise ConfigError(_strange(library, f"{path} {e.args[0]}")) from e
    file.write_text(NOTE.format(f"{', '.join(names)} are gone") + text)


def _strange(library: Path, what: str) -> str:
    return (
        f"the installed version of {library.name} is not one that is known to be cut to what reads: {what}. "
        "Install the version that this release was made with, or revise containers/prune.py"
    )


def without(text: str, names: Collection[str]) -> str:
    """A module's text without the top-level statements that define, import or register these names.

    `KeyError` says which name is not defined or imported there, or is still used by what is left.
    """
    tree = tree_of(text)
    gone = [s for s in tree.body if _is_about(s, names)]
    found = {name for s in gone for name in _defined(s)}
    if missing := sorted(set(names) - found):
        raise KeyError(f"has no {missing[0]}")
    lines = text.splitlines(keepends=True)
    for statement in gone:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
        lines[first - 1 : statement.end_lineno] = [""] * ((statement.end_lineno or first) - first + 1)
    left = "".join(lines)
    if used := sorted(set(names) & {n.id for n in ast.walk(tree_of(left)) if isinstance(n, ast.Name)}):
        raise KeyError(f"still uses {used[0]}")
    return left


def _defined(statement: ast.stmt) -> Iterable[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    return []


def _is_about(statement: ast.stmt, names: Collection[str]) -> bool:
    """Whether a statement defines one of the names, imports only such, or assigns something of one."""
    defined = list(_defined(statement))
    if defined:
        return all(name in names for name in defined)
    return isinstance(statement, ast.Assign) and any(
        _names(part, names) for part in (statement.value, *statement.targets)
    )


def _names(part: ast.expr, names: Collection[str]) -> bool:
    """Whether one side of an assignment is such a name, a place under it, or made of its number: how types are registered."""
    if isinstance(part, ast.Subscript):
        part = part.slice
    if isinstance(part, ast.Call) and part.args:
        part = part.args[0]
    if isinstance(part, ast.Attribute):
        return part.attr.removesuffix("_Encoding_DefaultBinary") in names
    return isinstance(part, ast.Name) and part.id in names


def _check_requests(library: Path, path: str, ending: str, allowed: Collection[str]) -> None:
    classes = [s.name for s in tree_of((library / path).read_text()).body if isinstance(s, ast.ClassDef)]
    have = {name.removesuffix(ending) for name in classes if name.endswith(ending)}
    if strange := sorted(have ^ set(allowed)):
        raise ConfigError(_strange(library, f"{path} {'has' if strange[0] in have else 'lacks'} {strange[0]}{ending}"))


def _fewer_ids(library: Path, path: str) -> None:
    """Leave of the thousands of numbers those that the library's files name."""
    file = library / path
    trees = [tree_of(f.read_text()) for f in library.rglob("*.py") if f != file]
    named = {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    text = file.read_text()  # too large to be parsed: a line each
    classes = re.findall(r"^class (\w+):$", text, re.M)
    left = [(name, number) for name, number in re.findall(r"^    (\w+) = (\d+)$", text, re.M) if name in named]
    if len(classes) != 1 or not left:
        raise ConfigError(_strange(library, f"{path} is not one class of numbers"))
    lines = [NOTE.format("numbers that nothing names are gone"), f"class {classes[0]}:\n"]
    lines += [f"    {name} = {number}\n" for name, number in left]
    names = classes[0].removesuffix("s")
    lines += [f"\n\n{names}Names = {{\n", *(f"    {number}: {name!r},\n" for name, number in left), "}\n"]
    file.write_text("".join(lines))
