"""What `upload` may do in the bucket: put new objects below its site's folder, and look at them. Asked of a real S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore
import pytest
from docker.models.containers import Container

from tests.privilege.site import NAME, LeastSite, Verdict, attempt

PROGRAM = Path(__file__).with_name("inside_store.py").read_text()
OTHER = "hall2/tiny/second/data.parquet"
ACTS: dict[str, list[Any]] = {
    "put a new object": ["put", f"{NAME}/new"],
    "get it back": ["get", f"{NAME}/new"],
    "put over it": ["overwrite", f"{NAME}/new"],
    "list the bucket": ["list_all", ""],
    "list its own folder": ["list_all", NAME],
    "list another bucket": ["list_bucket", "private"],
    "put into another site's folder": ["put", "hall2/new"],
    "get another site's object": ["get", OTHER],
    "put over another site's object": ["overwrite", OTHER],
    "delete its own object": ["delete", f"{NAME}/new"],
    "delete another site's object": ["delete", OTHER],
}
MAY = {"put a new object", "get it back", "put over it"}  # S3 has no right to put that is not also one to put over


def tried(site: LeastSite, container: Container) -> dict[str, Verdict]:
    """Try all, in this order."""
    if not (site.s3.folder / "private").exists():
        site.s3.make_bucket("private")
    obstore.put(site.s3.store(), OTHER, b"of another site")
    (site.s3.folder / site.s3.bucket / NAME / "new").unlink(missing_ok=True)
    where = {"bucket": site.s3.bucket, "endpoint": site.s3.endpoint}
    return attempt(container, ACTS, program=PROGRAM, more=where)


@pytest.fixture(scope="module")
def of_upload(site: LeastSite) -> dict[str, Verdict]:
    """What became of all, with the keys of `upload`."""
    return tried(site, site.container("upload"))


@pytest.mark.parametrize("act", ACTS)
def test_upload_may_put_and_get_below_its_folder(of_upload: dict[str, Verdict], act: str) -> None:
    allowed, said = of_upload[act]
    assert allowed is (act in MAY), said


def test_the_owner_of_the_bucket_may_do_all_of_it(site: LeastSite, too_free: Container) -> None:
    found = tried(site, too_free)
    assert {act for act, (allowed, _) in found.items() if allowed} == set(ACTS), found
