"""Signed statements about documents, and whether to believe them (TUF specification 1.0.33). Pure: no clock, no disk, no network.

A *statement* is TUF Targets metadata with exactly one target: the document's path, length and sha256. Its version says which of
two is newer, `expires` until when it counts. Which keys must sign it stands in a *root*; a root is replaced by one with the next
version, which the keys of both have signed (5.3), so that keys can be exchanged although no site is visited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.api.serialization.json import JSONSerializer

from containers.repository import errors as e
from pipelines.errors import LimitExceeded

STATEMENT_BYTES_MAX, ROOT_BYTES_MAX, DOCUMENT_BYTES_MAX = 64 << 10, 256 << 10, 4 << 20
PATHS_MAX = 256
CLOCK_BEHIND_MAX_S = 3600
CREATED = "x-sitestream-created"  # of a root: when it was made, as `expires` is written
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
ROOT_ROLE, RELEASE_ROLE = "root", "targets"
T = TypeVar("T", Root, Targets)


class Seen(msgspec.Struct, frozen=True):
    """The newest statement about a path."""

    version: int
    digest: str


class State(msgspec.Struct, frozen=True):
    """What a site trusts and remembers. `seen`: by path, then by the id of the key that signed."""

    root: bytes
    seen: Mapping[str, Mapping[str, Seen]] = {}
    time_ns: int = 0  # the latest at which something was believed


@dataclass(frozen=True)
class Verified:
    """A document that may be used."""

    version: int
    expires: datetime


def sign(document: bytes, path: str, version: int, expires: datetime, keys: Sequence[Signer]) -> bytes:
    """State that `document` is what `path` means from now on. `version` must be higher than that of any earlier statement."""
    target = TargetFile(len(document), {"sha256": hashlib.sha256(document).hexdigest()}, path)
    statement = Metadata(
        Targets(version, expires=expires.astimezone(UTC).replace(microsecond=0), targets={path: target})
    )
    return signed(statement, keys)


def signed(metadata: Metadata[T], keys: Sequence[Signer]) -> bytes:
    """Metadata with the signatures of all `keys`, as it is stored."""
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def check(state: State, statement: bytes, path: str, document: bytes, now_ns: int) -> tuple[Verified, State]:
    """Whether `document` is what `path` means, and what to remember then. Raises `Untrusted`, `TooLarge` or `LimitExceeded`."""
    what = f"the statement about {path}"
    root = load(Root, state.root, ROOT_BYTES_MAX, "the trusted root").signed
    metadata = load(Targets, statement, STATEMENT_BYTES_MAX, what)
    signers = _signers(root, RELEASE_ROLE, metadata, what)
    _require_clock(root, state, now_ns)
    for thing, expires in ((f"root {root.version}", root.expires), (what, metadata.signed.expires)):
        _require_fresh(thing, expires, now_ns)
    digest = _require_document(metadata.signed, path, document)
    _require_newer(state, root, path, Seen(metadata.signed.version, digest))
    return Verified(metadata.signed.version, metadata.signed.expires), _remembering(
        state, root, path, signers, Seen(metadata.signed.version, digest), now_ns
    )


def signed_version(root: bytes, statement: bytes, path: str, document: bytes | None = None) -> int:
    """The version of a statement that keys of a root have signed, expired or not. `Untrusted` if they have not, or if it speaks
    of another than the `document` that is given."""
    what = f"the statement about {path}"
    metadata = load(Targets, statement, STATEMENT_BYTES_MAX, what)
    _signers(load(Root, root, ROOT_BYTES_MAX, "the newest root").signed, RELEASE_ROLE, metadata, what)
    if document is not None:
        _require_document(metadata.signed, path, document)
    return metadata.signed.version


def first_root(root: bytes) -> State:
    """Trust in a root that came by hand; it must be whole, and signed by the keys that it names."""
    metadata = load(Root, root, ROOT_BYTES_MAX, "the root")
    _signers(metadata.signed, ROOT_ROLE, metadata, f"root {metadata.signed.version}")
    created(metadata.signed)
    return State(root)


def next_root(state: State, root: bytes) -> State:
    """Trust in the root that follows. One that has expired is a step to the next all the same."""
    old = load(Root, state.root, ROOT_BYTES_MAX, "the trusted root").signed
    new = load(Root, root, ROOT_BYTES_MAX, f"root {old.version + 1}")
    what = f"root {new.signed.version}"
    _signers(old, ROOT_ROLE, new, what)
    _signers(new.signed, ROOT_ROLE, new, what)
    if new.signed.version != old.version + 1:
        raise e.RootSkipped(
            f"{what} was given where root {old.version + 1} must follow root {old.version}: none may be left out; push them all"
        )
    created(new.signed)
    return msgspec.structs.replace(state, root=root)


def root_version(state: State) -> int:
    """Version of the trusted root."""
    return load(Root, state.root, ROOT_BYTES_MAX, "the trusted root").signed.version


def load(kind: type[T], content: bytes, bytes_max: int, what: str) -> Metadata[T]:
    """Read metadata, unverified; `TooLarge` or `Malformed`."""
    if len(content) > bytes_max:
        raise e.TooLarge(f"{what} has {len(content)} bytes; at most {bytes_max} are read")
    try:
        found: Metadata[T] = Metadata.from_bytes(content)
    except DeserializationError as error:
        raise e.Malformed(f"{what} is not signed metadata ({error.__cause__}): it is not used") from error
    if not isinstance(found.signed, kind):
        raise e.Malformed(f"{what} is metadata of another kind ({found.signed.type}): it is not used")
    return found


def created(root: Root) -> datetime:
    """When a root was made."""
    try:
        return datetime.strptime(root.unrecognized_fields[CREATED], TIME_FORMAT).replace(tzinfo=UTC)
    except (LookupError, TypeError, ValueError) as error:
        raise e.Malformed(
            f"root {root.version} does not say when it was made ({CREATED}): make it with  pipeline keys"
        ) from error


def _signers(root: Root, role: str, metadata: Metadata[T], what: str) -> list[str]:
    """Ids of the keys of a role that have signed, if they are enough."""
    try:
        payload = metadata.signed_bytes
    except SerializationError as error:
        raise e.Malformed(f"{what} cannot be written canonically ({error}): it is not used") from error
    result = root.get_verification_result(role, payload, metadata.signatures)
    if result:
        return sorted(result.signed)
    if forged := [keyid for keyid in result.unsigned if keyid in metadata.signatures]:
        raise e.ForgedSignature(
            f"{what} bears a signature that key {forged[0][:8]} did not make: somebody has changed or forged it; it is not used"
        )
    if not result.signed:
        names = ", ".join(keyid[:8] for keyid in metadata.signatures) or "nobody"
        raise e.UnknownKey(
            f"{what} is signed by {names}, and root {root.version} does not know that key for this: sign it with a key that  "
            "pipeline keys show  lists, or push the newest root"
        )
    raise e.BelowThreshold(
        f"{what} is signed by {len(result.signed)} of the {result.threshold} keys that must: sign it with more"
    )


def _require_clock(root: Root, state: State, now_ns: int) -> None:
    latest_ns = max(state.time_ns, int(created(root).timestamp()) * 10**9)
    if now_ns < latest_ns - CLOCK_BEHIND_MAX_S * 10**9:
        raise e.WrongClock(
            f"clock wrong: it stands at {_shown(now_ns)}, and {_shown(latest_ns)} has certainly passed; nothing new is accepted "
            "until it is right: set it, or let this machine reach a time server"
        )


def _require_fresh(thing: str, expires: datetime, now_ns: int) -> None:
    if now_ns >= expires.timestamp() * 10**9:
        raise e.Expired(
            f"{thing} expired at {expires:{TIME_FORMAT}}, and this machine's clock says {_shown(now_ns)}: sign it anew; if that "
            "was done, the repository holds an old copy back"
        )


def _require_document(targets: Targets, path: str, document: bytes) -> str:
    """The digest of `document`, if that is what the statement speaks of."""
    if list(targets.targets) != [path]:
        named = ", ".join(targets.targets) or "nothing"
        raise e.WrongTarget(
            f"the statement that came for {path} speaks of {named}: it was put in the wrong place; it is not used"
        )
    target = targets.targets[path]
    if target.length > DOCUMENT_BYTES_MAX or len(document) > DOCUMENT_BYTES_MAX:
        raise e.TooLarge(f"{path} has {max(target.length, len(document))} bytes; at most {DOCUMENT_BYTES_MAX} are read")
    if len(document) != target.length:
        raise e.WrongLength(f"{path} has {len(document)} bytes, and {target.length} were signed: it is not used")
    digest = hashlib.sha256(document).hexdigest()
    if target.hashes.get("sha256") != digest:
        raise e.WrongDigest(f"{path} has other content ({digest[:12]}…) than was signed: it is not used")
    return digest


def _require_newer(state: State, root: Root, path: str, new: Seen) -> None:
    newest = max((s for _, s in _counting(state, root, path)), key=lambda s: s.version, default=new)
    if new.version < newest.version:
        raise e.Replayed(
            f"{path} came in version {new.version}, and version {newest.version} was seen before: an old copy is not used; "
            "to go back, sign the old content under a new version"
        )
    if new.version == newest.version and new.digest != newest.digest:
        raise e.Replayed(
            f"{path} came in version {new.version} with other content than before: sign it under a new version"
        )


def _counting(state: State, root: Root, path: str) -> list[tuple[str, Seen]]:
    """What was seen, signed by keys that still count: a stolen key that signed version 2^60 must not bar what follows."""
    return [(k, s) for k, s in state.seen.get(path, {}).items() if k in root.get_delegated_role(RELEASE_ROLE).keyids]


def _remembering(state: State, root: Root, path: str, signers: Sequence[str], new: Seen, now_ns: int) -> State:
    seen = {**state.seen, path: {**dict(_counting(state, root, path)), **dict.fromkeys(signers, new)}}
    if len(seen) > PATHS_MAX:
        raise LimitExceeded(
            f"{path} would be the {len(seen)}th path with a statement; at most {PATHS_MAX}: give documents lasting paths"
        )
    return msgspec.structs.replace(state, seen=seen, time_ns=max(state.time_ns, now_ns))


def _shown(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):{TIME_FORMAT}}"
