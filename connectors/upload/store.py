"""The site's store: files put under a new name or not at all. `file:///folder` and `s3://bucket/prefix`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from connectors.secrets import Secret
from connectors.upload.disk import Disk
from pipelines.errors import ConfigError, StateError, Unavailable
from pipelines.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Config  # exists for type checkers only

ANSWER_S_MAX = 30.0  # for a request without its data …
UPLINK_BYTES_PER_S_MIN = 8 * 1024  # … which must go at least so fast
T = TypeVar("T")


class Store(Protocol):
    """Two requests are all that is asked of a store."""

    async def create(self, path: str, data: bytes) -> bool:
        """Put an object that is not there; False, and nothing is changed, if one is. `Unavailable` otherwise."""
        ...

    async def get(self, path: str) -> bytes | None:
        """An object, None if there is none; `Unavailable` if that cannot be known."""
        ...


async def put_once(store: Store, path: str, data: bytes) -> bool:
    """Put an object; False if it was there with this very content; `StateError` if it was there with another."""
    if await store.create(path, data):
        return True
    there = await store.get(path)
    if there is None:
        raise Unavailable(f"{path} was there and is gone: somebody removes objects from the store")
    if there == data:
        return False
    raise StateError(
        f"{path} is in the store with other content (sha256 {_sha(there)}, not {_sha(data)}) and is not overwritten: two sites "
        "or two services write the same table under the same name, or the spool or Kafka was set back to an earlier state: "
        "stop the other one, or give this one another store or table"
    )


class Folder:
    """A folder of this machine or of a mounted share. (obstore's own put does not wait for the disk.)"""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`."""
        return await self._guarded(path, lambda: self._create(self.root / path, data))

    async def get(self, path: str) -> bytes | None:
        """See `Store.get`."""
        file = self.root / path
        return await self._guarded(path, lambda: file.read_bytes() if file.exists() else None)

    def _create(self, path: Path, data: bytes) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        new, disk = path.with_name(f".{uuid.uuid4().hex}"), Disk()
        disk.write(new, lambda file: _fill(file, data))
        try:
            os.link(disk.tmp(new), path)  # unlike a rename, fails if the name is taken
        except FileExistsError:
            return False
        finally:
            disk.remove(disk.tmp(new))
        for folder in path.parents:
            disk.sync(folder)
            if folder == self.root:
                break
        return True

    async def _guarded(self, path: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as e:
            raise Unavailable(f"store folder {self.root} does not take or give {path} ({e.strerror or e})") from e


class Bucket:
    """An S3 bucket, or a part of it, through obstore. Retries are left to the caller."""

    def __init__(self, store: S3Store, name: str) -> None:
        self._store, self._name = store, name

    async def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`: a PUT with If-None-Match."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX + len(data) / UPLINK_BYTES_PER_S_MIN):
                await obstore.put_async(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as e:  # TimeoutError is an OSError
            raise self._unavailable(path, e) from e
        return True

    async def get(self, path: str) -> bytes | None:
        """See `Store.get`."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = await obstore.get_async(self._store, path)
            async with asyncio.timeout(ANSWER_S_MAX + answer.meta["size"] / UPLINK_BYTES_PER_S_MIN):
                return bytes(await answer.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as e:
            raise self._unavailable(path, e) from e

    def _unavailable(self, path: str, e: Exception) -> Unavailable:
        reason = (str(e) or type(e).__name__).partition("\n")[0]
        return Unavailable(f"store {self._name} does not take or give {path}: {reason}")


def open_store(settings: Settings) -> Store:
    """The store that the settings name; `ConfigError` if they are wrong. Does not ask whether it is there."""
    try:
        url = urlsplit(settings.store)
    except ValueError:  # such as of s3://[
        url = urlsplit("")
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        return Folder(Path(url.path))
    if url.scheme == "s3" and url.netloc:
        return _bucket(settings, url.netloc, url.path.strip("/"))
    raise ConfigError(
        f"store {settings.store!r} cannot be used: write file:///folder or s3://bucket/prefix in the site file"
    )


def _bucket(settings: Settings, bucket: str, prefix: str) -> Bucket:
    secrets = Path(settings.secrets_dir)
    endpoint = settings.options.get("s3_endpoint")
    config: S3Config = {
        "region": settings.options.get("s3_region", "us-east-1"),
        "access_key_id": Secret("s3_access_key").read(secrets),
        "secret_access_key": Secret("s3_secret_key").read(secrets),
    }
    if endpoint:
        config["endpoint"] = endpoint
    store = S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"allow_http": (endpoint or "").startswith("http://"), "connect_timeout": "5s", "timeout": "2d"},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
    )
    return Bucket(store, settings.store)


def _fill(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
