"""What every repository must do. A test class per kind inherits `Conformance` and gives the fixture `world`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from containers.repository import artifact, transfer
from containers.repository.base import Repository, sha256
from containers.repository.errors import Malformed, NotFound, TooLarge, WrongDigest, WrongLength
from containers.repository.manifests import OCI_MANIFEST, Body, encode
from pipelines.errors import ConfigError

BIG = bytes(range(256)) * 4096 * 20  # 20 MiB: more than a chunk
DOC, DOC_TYPE = b'{"hello":1}', "application/vnd.sitestream.test.v1+json"


@dataclass
class World:
    """One repository; every `open` is a new client of it, and what the one before did is done."""

    open: Callable[[], AbstractContextManager[Repository]]
    name: str  # that no other test uses


@dataclass(frozen=True)
class FileLayer:
    """A layer as `artifact.put_image` wants it."""

    digest: str
    size: int
    path: Path


def layer(path: Path, content: bytes) -> FileLayer:
    path.write_bytes(content)
    return FileLayer(sha256(content), len(content), path)


class Conformance:
    """The suite."""

    def test_a_blob_that_was_pushed_can_be_pulled_and_is_pushed_once(self, world: World, tmp_path: Path) -> None:
        digest, source = sha256(BIG), tmp_path / "blob"
        source.write_bytes(BIG)
        with world.open() as repo:
            assert not repo.has_blob(world.name, digest)
            assert repo.push_blob(world.name, digest, len(BIG), source)
            assert not repo.push_blob(world.name, digest, len(BIG), source)
            assert repo.has_blob(world.name, digest)
            transfer.pull_blob(repo, world.name, digest, len(BIG), tmp_path / "pulled")
        assert (tmp_path / "pulled").read_bytes() == BIG
        assert sorted(p.name for p in tmp_path.iterdir() if "pulled" in p.name) == ["pulled"]

    def test_a_blob_can_be_read_from_anywhere(self, world: World) -> None:
        content = bytes(range(100))
        with world.open() as repo:
            repo.push_blob(world.name, sha256(content), 100, content)
            for offset in (0, 1, 42, 99):
                assert b"".join(repo.blob(world.name, sha256(content), offset)) == content[offset:]

    def test_an_empty_blob(self, world: World, tmp_path: Path) -> None:
        with world.open() as repo:
            repo.push_blob(world.name, sha256(b""), 0, b"")
            transfer.pull_blob(repo, world.name, sha256(b""), 0, tmp_path / "empty")
        assert (tmp_path / "empty").read_bytes() == b""

    def test_a_pull_goes_on_where_an_earlier_one_stopped(self, world: World, tmp_path: Path) -> None:
        with world.open() as repo:
            repo.push_blob(world.name, sha256(BIG), len(BIG), BIG)
            (tmp_path / "blob.part").write_bytes(BIG[:1_000_000])
            offsets: list[int] = []

            class Spy:
                where = repo.where

                def blob(self, name: str, digest: str, offset: int = 0) -> object:
                    offsets.append(offset)
                    return repo.blob(name, digest, offset)

            transfer.pull_blob(Spy(), world.name, sha256(BIG), len(BIG), tmp_path / "blob")  # type: ignore[arg-type]
        assert (tmp_path / "blob").read_bytes() == BIG
        assert offsets == [1_000_000]

    def test_what_came_before_may_be_wrong_and_is_then_fetched_anew(self, world: World, tmp_path: Path) -> None:
        with world.open() as repo:
            repo.push_blob(world.name, sha256(b"right"), 5, b"right")
            (tmp_path / "blob.part").write_bytes(b"wr")
            with pytest.raises(
                WrongDigest, match=r"gave other content for sha256:.*removed and fetched anew next time"
            ):
                transfer.pull_blob(repo, world.name, sha256(b"right"), 5, tmp_path / "blob")
            assert list(tmp_path.glob("blob*")) == []
            transfer.pull_blob(repo, world.name, sha256(b"right"), 5, tmp_path / "blob")
            (tmp_path / "blob").write_bytes(b"wrong")  # damaged since
            (tmp_path / "blob.part").write_bytes(b"far too long")
            transfer.pull_blob(repo, world.name, sha256(b"right"), 5, tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == b"right"

    @pytest.mark.parametrize(("size", "said"), [(4, "gave more than the 4 bytes"), (6, "gave only 5 of the 6 bytes")])
    def test_a_blob_of_another_size(self, world: World, tmp_path: Path, size: int, said: str) -> None:
        with world.open() as repo:
            repo.push_blob(world.name, sha256(b"right"), 5, b"right")
            with pytest.raises(WrongLength, match=said):
                transfer.pull_blob(repo, world.name, sha256(b"right"), size, tmp_path / "blob")
            with pytest.raises(WrongLength, match=said):
                transfer.read_blob(repo, world.name, sha256(b"right"), size, 100)
        assert list(tmp_path.glob("blob*")) == []

    def test_a_blob_that_is_too_large_is_not_read(self, world: World) -> None:
        with world.open() as repo, pytest.raises(TooLarge, match="has 101 bytes; at most 100 are read"):
            transfer.read_blob(repo, world.name, sha256(b"x"), 101, 100)

    def test_what_is_pushed_must_be_what_its_digest_says(self, world: World) -> None:
        with world.open() as repo:
            with pytest.raises(WrongDigest, match="build it anew"):
                repo.push_blob(world.name, sha256(b"one"), 3, b"two")
            with pytest.raises(WrongLength, match="has 3 bytes instead of 4"):
                repo.push_blob(world.name, sha256(b"one"), 4, b"one")
            with pytest.raises(WrongDigest, match="not to be trusted"):
                repo.put_manifest(world.name, sha256(b"one"), b"{}", OCI_MANIFEST)
            assert not repo.has_blob(world.name, sha256(b"one"))

    def test_what_is_not_there(self, world: World, tmp_path: Path) -> None:
        missing = sha256(b"missing")
        with world.open() as repo:
            assert not repo.has_blob(world.name, missing)
            assert repo.tags(world.name) == []
            with pytest.raises(NotFound):
                transfer.pull_blob(repo, world.name, missing, 7, tmp_path / "blob")
            for reference in ("latest", missing):
                with pytest.raises(NotFound, match=f"has no {world.name} {reference}: push it there first"):
                    repo.manifest(world.name, reference)

    @pytest.mark.parametrize("name", ["Upper", "a//b", "../b", "a/", "", "a..b", "a" * 201])
    def test_names_that_cannot_be(self, world: World, name: str) -> None:
        with world.open() as repo, pytest.raises(ConfigError, match="cannot be a name in a repository"):
            repo.has_blob(name, sha256(b""))

    def test_references_that_cannot_be(self, world: World) -> None:
        with world.open() as repo:
            with pytest.raises(ConfigError, match="cannot be a tag"):
                repo.manifest(world.name, "a/b")
            for digest in ("sha256:../../etc/passwd", "sha256:" + "0" * 63, "md5:" + "0" * 32):
                with pytest.raises(WrongDigest, match="is no digest"):
                    repo.manifest(world.name, digest)
                with pytest.raises(WrongDigest, match="is no digest"):
                    repo.has_blob(world.name, digest)

    def test_documents_by_tag(self, world: World) -> None:
        with world.open() as repo:
            first = artifact.put_document(repo, world.name, "v1", DOC, DOC_TYPE)
            artifact.put_document(repo, world.name, "v2", DOC, DOC_TYPE, b"signed")
        with world.open() as repo:
            assert repo.tags(world.name) == ["v1", "v2"]
            found = artifact.get_document(repo, world.name, "v2")
            assert found
            assert (found.content, found.media_type, found.statement) == (DOC, DOC_TYPE, b"signed")
            assert artifact.get_document(repo, world.name, "v2", known=found.digest) is None
            assert artifact.get_document(repo, world.name, first) == artifact.Document(DOC, DOC_TYPE, b"", first)
            artifact.put_document(repo, world.name, "v1", b"{}", DOC_TYPE)
        with world.open() as repo:
            again = artifact.get_document(repo, world.name, "v1")
            assert again
            assert again.content == b"{}"
            assert repo.tags(world.name) == ["v1", "v2"]

    def test_names_are_apart(self, world: World) -> None:
        with world.open() as repo:
            artifact.put_document(repo, f"{world.name}/a", "v1", b"a", DOC_TYPE)
            artifact.put_document(repo, f"{world.name}/b", "v1", b"b", DOC_TYPE)
            found = [artifact.get_document(repo, f"{world.name}/{name}", "v1") for name in "ab"]
            assert [f and f.content for f in found] == [b"a", b"b"]
            assert repo.tags(f"{world.name}/a") == ["v1"]

    def test_an_image_shares_layers(self, world: World, tmp_path: Path) -> None:
        base, code = layer(tmp_path / "base", b"base"), layer(tmp_path / "code", b"code")
        with world.open() as repo:
            first = artifact.put_image(repo, world.name, b'{"n":1}', [base], "one")
        base.path.unlink()  # it is there: nobody reads it again
        base.path.write_bytes(b"gone")
        with world.open() as repo:
            second = artifact.put_image(repo, world.name, b'{"n":2}', [base, code])
        with world.open() as repo:
            manifest = repo.manifest(world.name, second)
            assert repo.manifest(world.name, "one").digest == first
            assert manifest.media_type == OCI_MANIFEST
            assert manifest == repo.manifest(world.name, manifest.digest)
            body = json.loads(manifest.content)
            assert [e["digest"] for e in body["layers"]] == [base.digest, code.digest]
            assert body["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"

    def test_something_else_under_the_name_of_a_document(self, world: World, tmp_path: Path) -> None:
        with world.open() as repo:
            artifact.put_image(repo, world.name, b"{}", [layer(tmp_path / f"{i}", b"%d" % i) for i in range(2)], "v1")
            with pytest.raises(Malformed, match=f"{world.name} v1 of .* is no document"):
                artifact.get_document(repo, world.name, "v1")

    def test_a_manifest_that_is_too_large_is_not_stored(self, world: World) -> None:
        huge = encode(Body(2, OCI_MANIFEST, " " * (4 << 20)))
        with (
            world.open() as repo,
            pytest.raises(TooLarge, match=r"a manifest has 41943.. bytes; at most 4194304 are stored"),
        ):
            repo.put_manifest(world.name, "huge", huge, OCI_MANIFEST)

    def test_roots_end_somewhere(self, world: World) -> None:
        with world.open() as repo:
            artifact.put_roots(repo, [b"one", b"two"])
            assert [artifact.get_root(repo, version) for version in (1, 2, 3)] == [b"one", b"two", None]
