"""The site's copy of what is signed: TUF metadata, verified at each step of its workflow, and images, fetched piece by piece.

Blocking: call it from a thread, one at a time. Everything lies below one folder: `metadata/` (python-tuf's own), and `images/`
with a file for each image, named by its sha256; one that is not whole yet has the suffix `.part`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import urllib3
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import Updater, UpdaterConfig

from connectors.firmware.campaign import PLAN_BYTES_MAX, PLAN_PATH, PLAN_ROLE, Campaign, Plan, decode
from connectors.firmware.manifest import Image, image_of
from pipelines.errors import BadData, ConfigError, LimitExceeded, Unavailable
from pipelines.urls import masked, parts_of

PIECE_BYTES = 256 * 2**10
TIMEOUT_S = 30.0
TRIES_MAX = 5  # of one download, each from where the one before it ended
METADATA_BYTES_MAX = 2 * 2**20
KEY_NAME = "x-sitestream-name"  # of a key, as `pipeline firmware keys` writes it
_LIMITS = UpdaterConfig(
    root_max_length=METADATA_BYTES_MAX,
    timestamp_max_length=16_384,
    snapshot_max_length=METADATA_BYTES_MAX,
    targets_max_length=METADATA_BYTES_MAX,
)


class Untrusted(BadData):
    """What the repository gave is not what was signed, not signed by those who must, expired, or older than what was seen."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="untrusted")


@dataclass(frozen=True)
class Signed:
    """What is verified, as of one refresh."""

    plan: Plan
    signers: str  # names of the keys that signed the plan
    images: Mapping[str, Image]  # by campaign
    metadata: Mapping[str, tuple[str, ...]]  # by model: the signed files that a device verifies
    roots: Mapping[int, str]  # by version, in that order: from the one that was trusted first to the one that counts
    expires_ns: int  # none of it counts after that

    def roots_after(self, version: int) -> tuple[str, ...]:
        """Those that somebody has to follow who trusts the root with this version."""
        return tuple(text for v, text in self.roots.items() if v > version)


class Mirror:
    """Reads one repository. `root` is the root that was trusted first."""

    def __init__(self, url: str, root: bytes, folder: Path, images_bytes_max: int) -> None:
        if parts_of(url, "http", "https") is None:
            raise ConfigError(f"firmware repository {masked(url)!r}: write 'https://host/folder'")
        self._url, self._root, self._max = url.rstrip("/"), root, images_bytes_max
        self._metadata, self._images = folder / "metadata", folder / "images"
        self._http = urllib3.PoolManager(timeout=TIMEOUT_S, retries=False)
        self._closed = threading.Event()
        try:
            for made in (self._metadata, self._images):
                made.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"data_dir {folder} cannot be written to: {e.strerror}") from e

    def close(self) -> None:
        """Break off what is being fetched, from any thread; it goes on from there next time."""
        self._closed.set()

    def refresh(self) -> Signed:
        """Look what is signed now. `Untrusted` says what is wrong with it, `Unavailable` that nobody answers."""
        try:
            updater = self._updater()
            updater.refresh()
            target = updater.get_targetinfo(PLAN_PATH)
            plan = decode(self._small(updater, target)) if target else Plan(counter=0)
            images = {c.id: image for c in plan.newest().values() if (image := self._image(updater, c))}
        except (DownloadError, urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"the firmware repository {self._url} does not answer: {e or type(e).__name__}") from e
        except (RepositoryError, ValueError) as e:
            raise Untrusted(f"the firmware repository {self._url} is not believed: {e}") from e
        models = {image.manifest.model for image in images.values()}
        return Signed(
            plan, self._signers(), images, {m: self._signed_of(m) for m in models}, self._roots(), self._expiry(models)
        )

    def _updater(self) -> Updater:
        where = str(self._metadata)
        try:
            return Updater(where, f"{self._url}/metadata", bootstrap=self._root, config=_LIMITS)
        except RepositoryError as e:
            raise ConfigError(f"the firmware root is no signed root ({e}): give the site the file 1.root.json") from e

    def _small(self, updater: Updater, target: TargetFile) -> bytes:
        if target.length > PLAN_BYTES_MAX:
            raise BadData(f"the firmware plan has {target.length} bytes; at most {PLAN_BYTES_MAX} are read")
        place = updater.download_target(target, str(self._metadata / "plan"), f"{self._url}/targets")
        return Path(place).read_bytes()

    @staticmethod
    def _image(updater: Updater, campaign: Campaign) -> Image | None:
        """The image of a campaign; None if nobody has signed it."""
        target = updater.get_targetinfo(campaign.path)
        return image_of(target.path, target.length, target.hashes, target.custom) if target else None

    def _signed_of(self, model: str) -> tuple[str, ...]:
        return tuple((self._metadata / f"{role}.json").read_text() for role in ("targets", model))

    def _signers(self) -> str:
        targets, plan = (Metadata.from_file(str(self._metadata / f"{role}.json")) for role in ("targets", PLAN_ROLE))
        found = targets.signed.get_verification_result(PLAN_ROLE, plan.signed_bytes, plan.signatures).signed
        return ", ".join(sorted(str(key.unrecognized_fields.get(KEY_NAME, key.keyid[:8])) for key in found.values()))

    def _roots(self) -> dict[int, str]:
        """What `Updater` has gone along, and keeps in files N.root.json; others there are those of a repository before."""
        first = Metadata.from_bytes(self._root).signed.version
        newest = Metadata.from_file(str(self._metadata / "root.json")).signed.version
        files = {int(p.name.partition(".")[0]): p for p in (self._metadata / "root_history").glob("*.root.json")}
        return {version: files[version].read_text() for version in sorted(files) if first <= version <= newest}

    def _expiry(self, models: Collection[str]) -> int:
        """Of what `Updater` has just verified and kept."""
        files = [self._metadata / f"{r}.json" for r in ("root", "timestamp", "snapshot", "targets", PLAN_ROLE, *models)]
        found = [Metadata.from_file(str(f)).signed.expires for f in files if f.exists()]
        return int(min(found).timestamp()) * 10**9

    def place(self, image: Image) -> Path:
        """Where an image is once it is here."""
        return self._images / image.sha256

    def verified(self, image: Image) -> bool:
        """Whether it is here, and is what was signed. Reads all of it."""
        place = self.place(image)
        if not place.exists():
            return False
        if _digest(place) == image.sha256:
            return True
        place.unlink()
        return False

    def fetch(self, image: Image, keep: Collection[Image], counted: Callable[[int], object]) -> Path:
        """Bring an image here, from where an earlier try ended; all but those to `keep` may be removed for it.

        `counted` is told each number of bytes. `Untrusted` if the bytes are not those that were signed; `LimitExceeded` if there
        is no room; `Unavailable` if the link broke too often.
        """
        if self.verified(image):
            return self.place(image)
        self._make_room(image, {i.sha256 for i in keep} | {image.sha256})
        part = self.place(image).with_suffix(".part")
        for _ in range(TRIES_MAX if not self._closed.is_set() else 0):
            if self._go_on(image, part, counted):
                return self._settle(image, part)
        have = part.stat().st_size if part.exists() else 0
        raise Unavailable(
            f"firmware {image.path}: the link broke {TRIES_MAX} times; {have} of {image.length} bytes are here"
        )

    def _make_room(self, image: Image, keep: Collection[str]) -> None:
        files = sorted(self._images.iterdir())
        for file in files:
            if file.stem not in keep:
                file.unlink()
        used = sum(f.stat().st_size for f in files if f.exists() and f.stem != image.sha256)
        if used + image.length > self._max:
            raise LimitExceeded(
                f"firmware {image.path} has {image.length} bytes and {used} are in use: raise the option images_max "
                f"({self._max} bytes)"
            )

    def _go_on(self, image: Image, part: Path, counted: Callable[[int], object]) -> bool:
        """Fetch what is missing; whether all is there then."""
        have = part.stat().st_size if part.exists() else 0
        if have >= image.length:
            return True
        folder, _, name = image.path.rpartition("/")
        url = f"{self._url}/targets/{folder}/{image.sha256}.{name}"  # consistent snapshots
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        try:
            answer = self._http.request("GET", url, headers=headers, preload_content=False)
            try:
                if answer.status not in (200, 206):
                    raise Unavailable(f"{url}: HTTP status {answer.status}: bring the repository to the mirror again")
                have = _begins_at(answer, have)
                with part.open("r+b" if have else "wb") as file:
                    file.seek(have)
                    while piece := answer.read1(PIECE_BYTES):  # what is there, so that a break loses nothing
                        have += len(piece)
                        if have > image.length or self._closed.is_set():
                            break
                        file.write(piece)
                        counted(len(piece))
            finally:
                answer.release_conn()
                answer.close()
        except (urllib3.exceptions.HTTPError, ConnectionError):
            return False
        return have >= image.length and not self._closed.is_set()

    def _settle(self, image: Image, part: Path) -> Path:
        if part.stat().st_size != image.length or (found := _digest(part)) != image.sha256:
            size = part.stat().st_size
            part.unlink()
            raise Untrusted(
                f"firmware {image.path}: the mirror gave {size} bytes that are not those that were signed "
                f"({image.length} bytes, sha256 {image.sha256[:12]}…, not {found[:12] if size == image.length else '?'}…)"
            )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(self.place(image))
        return self.place(image)


def _begins_at(answer: urllib3.BaseHTTPResponse, asked: int) -> int:
    """Where what a server sends begins: it need not heed a range."""
    begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return asked if answer.status == 206 and begins == str(asked) else 0


def _digest(place: Path) -> str:
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trusted_root(path: Path) -> bytes:
    """The root that a site was given; `ConfigError` if it is not there."""
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(f"firmware root {path} cannot be read ({e.strerror}): run  pipeline deploy") from e


__all__ = ["Mirror", "Signed", "Untrusted", "trusted_root"]
