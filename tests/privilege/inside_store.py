"""What is tried with the keys of `upload` on the store: given to `python3 -c` within its container.

inside_store.py '{"try": {"name": ["act", arg, …], …}, "bucket": …, "endpoint": …}'   {"name": [allowed, "what happened"], …}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

ASKED = json.loads(sys.argv[1])
SECRETS = Path("/run/sitestream/secrets")


def open_bucket(name: str) -> S3Store:
    """A bucket, with this container's keys."""
    return S3Store(
        name,
        endpoint=ASKED["endpoint"],
        region="us-east-1",
        access_key_id=(SECRETS / "s3_access_key").read_text(),
        secret_access_key=(SECRETS / "s3_secret_key").read_text(),
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


STORE = open_bucket(ASKED["bucket"])


def put(path: str) -> None:
    """Put a new object."""
    obstore.put(STORE, path, b"test", mode="create")


def overwrite(path: str) -> None:
    """Put an object in the place of another."""
    obstore.put(STORE, path, b"test", mode="overwrite")


def get(path: str) -> None:
    """Get an object."""
    obstore.get(STORE, path).bytes()


def delete(path: str) -> None:
    """Delete an object."""
    obstore.delete(STORE, path)


def list_all(prefix: str) -> None:
    """See what there is."""
    obstore.list_with_delimiter(STORE, prefix)


def list_bucket(bucket: str) -> None:
    """See what there is in another bucket."""
    obstore.list_with_delimiter(open_bucket(bucket))


def attempt(act: str, arguments: list[Any]) -> tuple[bool, str]:
    """Whether an act is allowed."""
    try:
        globals()[act](*arguments)
    except BaseError as e:
        text = str(e)
        return "AccessDenied" not in text, text[:300]
    return True, "done"


print(json.dumps({name: attempt(act, arguments) for name, (act, *arguments) in ASKED["try"].items()}))
