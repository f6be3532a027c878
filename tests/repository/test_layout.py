"""Layouts on disk: the same bytes for the same content, other programs' layouts, damage."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers.files import locked_folder
from containers.repository import artifact
from containers.repository.base import MANIFEST_BYTES_MAX, Repository, sha256
from containers.repository.errors import BrokenLayout, DiskFull, NotFound, TooLarge, WrongDigest
from containers.repository.layout import Folder, Tar
from tests.repository.conformance import layer

Step = Callable[[Repository], object]


def document(name: str, tag: str, content: bytes) -> Step:
    return lambda repo: artifact.put_document(repo, name, tag, content, "text/plain", b"signed")


STEPS = [document("release", "v1", b"1"), document("release", "v2", b"2"), document("site/hall1", "desired", b"3")]


def saved(path: Path, steps: list[Step]) -> bytes:
    for step in steps:
        with Tar(path) as repo:
            step(repo)
    return path.read_bytes()


def test_a_tar_has_the_same_bytes_whatever_happened_before(tmp_path: Path) -> None:
    straight = saved(tmp_path / "a.tar", STEPS)
    assert saved(tmp_path / "b.tar", [*reversed(STEPS), STEPS[0]]) == straight
    assert (
        saved(tmp_path / "c.tar", [document("release", "v1", b"draft"), *STEPS]) == straight
    )  # what was replaced is gone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "b.tar", "c.tar"]
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:2]] == ["oci-layout", "index.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_the_index_is_what_other_programs_expect(tmp_path: Path) -> None:
    for step in STEPS:
        step(Folder(tmp_path))
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    names = [e["annotations"]["org.opencontainers.image.ref.name"] for e in index["manifests"]]
    assert names == ["release:v1", "release:v2", "site/hall1:desired"]
    for entry in index["manifests"]:
        blob = tmp_path / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
        assert (entry["size"], entry["digest"]) == (blob.stat().st_size, sha256(blob.read_bytes()))


def test_a_tar_that_other_programs_packed(tmp_path: Path) -> None:
    for step in STEPS:
        step(Folder(tmp_path / "layout"))
    subprocess.run(["tar", "-C", str(tmp_path / "layout"), "-cf", str(tmp_path / "x.tar"), "."], check=True)
    with Tar(tmp_path / "x.tar") as repo:
        found = artifact.get_document(repo, "release", "v2")
        assert found
        assert found.content == b"2"


def test_an_error_leaves_the_tar_as_it_was(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.tar", STEPS[:1])

    def broken() -> None:
        with Tar(tmp_path / "a.tar") as repo:
            STEPS[1](repo)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert (tmp_path / "a.tar").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_reading_a_tar_writes_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "a.tar", STEPS)
    before = (tmp_path / "a.tar").stat()
    with Tar(tmp_path / "a.tar") as repo:
        assert repo.tags("release") == ["v1", "v2"]
        assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").stat().st_mtime_ns == before.st_mtime_ns


def test_a_large_layer_goes_through_a_tar(tmp_path: Path) -> None:
    content = bytes(1000) * 6000  # larger than any manifest may be
    assert len(content) > MANIFEST_BYTES_MAX
    with Tar(tmp_path / "a.tar") as repo:
        artifact.put_image(repo, "plant", b"{}", [layer(tmp_path / "layer", content)], "one")
    with Tar(tmp_path / "a.tar") as repo:
        assert b"".join(repo.blob("plant", sha256(content), 5_000_000)) == content[5_000_000:]


def test_a_first_push_that_breaks_off_goes_on(tmp_path: Path) -> None:
    Folder(tmp_path).push_blob("plant", sha256(b"blob"), 4, b"blob")
    assert Folder(tmp_path).has_blob("plant", sha256(b"blob"))
    assert Folder(tmp_path).tags("plant") == []


def test_a_push_waits_for_another(tmp_path: Path) -> None:
    Folder(tmp_path).push_blob("plant", sha256(b"blob"), 4, b"blob")
    with ThreadPoolExecutor() as pool:
        with locked_folder(tmp_path):
            push = pool.submit(_push, tmp_path, 1)
            with pytest.raises(TimeoutError):
                push.result(0.2)
            assert not (tmp_path / "index.json").exists()
        push.result(10)


def _push(folder: Path, number: int) -> None:
    for i in range(10):
        artifact.put_document(Folder(folder), "release", f"v{number}-{i}", b"%d" % i, "text/plain")


def test_two_push_into_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # the lock is as good between threads
        list(pool.map(_push, [tmp_path] * 2, range(2)))
    assert len(Folder(tmp_path).tags("release")) == 20


def test_what_is_no_layout(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(
        BrokenLayout, match="letters is no OCI image layout: name one, or a folder that is new or empty"
    ):
        Folder(tmp_path / "letters")
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(BrokenLayout, match=r"text\.tar cannot be read as a tar file .*: save or copy it anew"):
        Tar(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "letters" / "a.txt", "a.txt")
    with pytest.raises(BrokenLayout, match=r"other\.tar holds no OCI image layout: name a file that was saved by"):
        Tar(tmp_path / "other.tar")
    with pytest.raises(NotFound, match=r"there is no folder .*nowhere for a\.tar: make it first"):
        Tar(tmp_path / "nowhere" / "a.tar")


def test_a_tar_that_was_not_copied_whole(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.tar", STEPS)
    (tmp_path / "a.tar").write_bytes(whole[:1600])
    with pytest.raises(BrokenLayout, match=r"a\.tar cannot be read as a tar file"):
        Tar(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:../x","size":1}]}', "[" * 9999],
)
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    STEPS[0](Folder(tmp_path))
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(BrokenLayout, match=r"is damaged: index\.json is no manifest .*: save it anew"):
        Folder(tmp_path).tags("release")


def test_a_damaged_manifest_and_a_damaged_blob(tmp_path: Path) -> None:
    digest = artifact.put_document(Folder(tmp_path), "release", "v1", b"content", "text/plain")
    blobs = tmp_path / "blobs" / "sha256"
    (blobs / sha256(b"content").removeprefix("sha256:")).write_bytes(b"CONTENT")
    with pytest.raises(WrongDigest, match="gave other content"):
        artifact.get_document(Folder(tmp_path), "release", "v1")
    (blobs / digest.removeprefix("sha256:")).write_bytes(b"{}")
    with pytest.raises(WrongDigest, match="gave other content for manifest"):
        artifact.get_document(Folder(tmp_path), "release", "v1")
    (blobs / digest.removeprefix("sha256:")).unlink()
    with pytest.raises(NotFound, match="has no release v1: push it there first"):
        artifact.get_document(Folder(tmp_path), "release", "v1")
    with (blobs / digest.removeprefix("sha256:")).open("wb") as file:
        file.truncate(MANIFEST_BYTES_MAX + 1)
    with pytest.raises(TooLarge, match="is longer than 4194304 bytes: nothing of it is used"):
        artifact.get_document(Folder(tmp_path), "release", "v1")


def test_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(DiskFull, match=r"no space is left for .*: free some and try again"):
            Folder(tmp_path / "layout").push_blob("plant", sha256(bytes(2_000_000)), 2_000_000, bytes(2_000_000))
        assert [p.name for p in (tmp_path / "layout").rglob("*") if p.is_file()] == ["oci-layout"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
