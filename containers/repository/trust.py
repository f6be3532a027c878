"""What a site trusts, on its disk: the root, the newest version seen of every document, the latest time seen.

The state lies there twice; each copy is written whole (to the side, fsync, rename), the second after the first, before anything
is acted upon. So one copy may be lost or damaged without losing what was remembered. If both are, nothing is accepted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from containers.files import locked_folder, write_whole
from containers.repository.errors import BrokenStore
from containers.repository.statement import State, Verified, check, first_root, next_root, root_version
from containers.repository.transfer import disk_full_explained
from pipelines.clock import Clock
from pipelines.errors import ConfigError

COPIES = ("state.a.json", "state.b.json")
ROOTS_MAX = 64  # that are taken at once
TIME_STEP_NS = 600 * 10**9  # so often the time alone is worth a write: flash wears out


class _Copy(msgspec.Struct, frozen=True):
    generation: int
    state: State


class TrustStore:
    """The trust store in a folder. Made with `init`, by hand or when the site is set up, from a root that came on a safe way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def init(self, root: bytes) -> None:
        """Trust a root. `ConfigError` if the store is whole: only signed roots replace one; a broken store is made anew."""
        state = first_root(root)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(self.folder):
            if any(isinstance(found, _Copy) for found in self._copies()):
                raise ConfigError(
                    f"{self.folder} trusts a root already: newer roots come from the repository; to begin anew, move it away"
                )
            self._write(_Copy(1, state))

    @property
    def state(self) -> State:
        """What is trusted and remembered; `BrokenStore` if that cannot be known."""
        return self._read().state

    @property
    def damaged(self) -> list[str]:
        """What is wrong with the copies, one text each, if anything is; one that is whole suffices, and heals the other."""
        return [found for found in self._copies() if isinstance(found, str)]

    def change(self, decide: Callable[[State], State]) -> None:
        """Replace the state by what `decide` makes of it, unless it raises. What is new is on the disk when this returns."""
        self._read()  # a store that is not there cannot be locked
        with locked_folder(self.folder):
            old = self._read()
            new = decide(old.state)
            aged = msgspec.structs.replace(new, time_ns=old.state.time_ns)
            if aged != old.state or new.time_ns - old.state.time_ns >= TIME_STEP_NS or self.damaged:
                self._write(_Copy(old.generation + 1, new))

    def _read(self) -> _Copy:
        copies = self._copies()
        whole = [found for found in copies if isinstance(found, _Copy)]
        if not whole:
            raise self._broken([found for found in copies if isinstance(found, str)])
        return max(whole, key=lambda found: found.generation)

    def _broken(self, reasons: list[str]) -> BrokenStore:
        return BrokenStore(
            f"the trust store {self.folder} is missing or damaged ({'; '.join(reasons)}): nothing new is accepted, what runs "
            "goes on. Set it up again on this machine with the fleet's newest root"
        )

    def _copies(self) -> list[_Copy | str]:
        return [_copy(self.folder / name) for name in COPIES]

    def _write(self, copy: _Copy) -> None:
        body = msgspec.json.encode(copy)
        for name in COPIES:
            with disk_full_explained(self.folder / name):
                write_whole(self.folder / name, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def verify(trusted: TrustStore, statement: bytes, path: str, document: bytes, clock: Clock) -> Verified:
    """Whether `document` may be used as what `path` means; it is remembered before this returns. See `statement.check`."""
    found: list[Verified] = []

    def decide(state: State) -> State:
        verified, remembered = check(state, statement, path, document, clock.now_ns())
        found.append(verified)
        return remembered

    trusted.change(decide)
    return found[0]


def update_root(trusted: TrustStore, fetch: Callable[[int], bytes | None]) -> int:
    """Take all newer roots, one by one, each from `fetch(version)`, until that gives None; the version that is trusted then.

    Call it before `verify`. Those that were good are kept if one is not.
    """
    for _ in range(ROOTS_MAX):
        version = root_version(trusted.state)
        new = fetch(version + 1)
        if new is None:
            return version
        trusted.change(lambda state, root=new: next_root(state, root))  # type: ignore[misc]  # bound per turn
    return root_version(trusted.state)


def _copy(path: Path) -> _Copy | str:
    """A copy of the state, or what is wrong with it."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return f"{path.name} is damaged"
        return msgspec.json.decode(body, type=_Copy)
    except OSError as e:
        return f"{path.name}: {e.strerror}"
    except msgspec.MsgspecError as e:
        return f"{path.name} is damaged: {e}"
