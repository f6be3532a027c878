"""The client of registries: who it says it is, whom it believes, and bad links."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path

import pytest

from containers.child import free_port
from containers.repository import artifact, manifests, transfer
from containers.repository import registry as module
from containers.repository.auth import Credentials, find_credentials
from containers.repository.base import sha256
from containers.repository.errors import (
    DiskFull,
    NotFound,
    TooLarge,
    Unauthorised,
    Unreachable,
    WrongDigest,
    WrongLength,
)
from containers.repository.link import parse_address
from containers.repository.registry import Registry
from pipelines.errors import ConfigError
from tests.bed.registry import ImageRegistry
from tests.repository.conformance import BIG
from tests.repository.faults import proxy, reply, server
from tests.repository.tokens import token_server

BED = Credentials(ImageRegistry.user, ImageRegistry.password)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No credentials of whoever runs the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))
    for variable in ("SITESTREAM_REGISTRY_USER", "SITESTREAM_REGISTRY_PASSWORD"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    """A registry with TLS and a password."""
    with ImageRegistry(tmp_path_factory.mktemp("guarded"), tls=True, auth=True) as running:
        yield running


def round_trip(repo: Registry) -> None:
    artifact.put_document(repo, "plant/release", "v1", b"content", "text/plain")
    found = artifact.get_document(repo, "plant/release", "v1")
    assert found
    assert found.content == b"content"


# who we are


def test_a_password_over_tls(guarded: ImageRegistry) -> None:
    with Registry(guarded.address, ca=guarded.ca, credentials=BED) as repo:
        round_trip(repo)


def test_credentials_from_the_environment(guarded: ImageRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITESTREAM_REGISTRY_USER", BED.user)
    with pytest.raises(
        ConfigError, match="only one of SITESTREAM_REGISTRY_USER and SITESTREAM_REGISTRY_PASSWORD is set"
    ):
        Registry(guarded.address, ca=guarded.ca)
    monkeypatch.setenv("SITESTREAM_REGISTRY_PASSWORD", BED.password)
    with Registry(guarded.address, ca=guarded.ca) as repo:
        round_trip(repo)


def test_credentials_of_docker_login(guarded: ImageRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    auth = base64.b64encode(f"{BED.user}:{BED.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{guarded.port}": {"auth": auth}}}))
    with Registry(guarded.address, ca=guarded.ca) as repo:
        round_trip(repo)


def test_credentials_of_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-bed"
    helper.write_text('#!/bin/sh\nread host; [ "$host" = bed:1 ] && echo \'{"Username":"u","Secret":"p"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (tmp_path / "config.json").write_text(
        '{"credsStore": "bed", "credHelpers": {"token:1": "token", "gone:1": "gone"}}'
    )
    (tmp_path / "docker-credential-token").write_text('#!/bin/sh\necho \'{"Username":"<token>","Secret":"p"}\'\n')
    (tmp_path / "docker-credential-token").chmod(0o755)
    env = {"DOCKER_CONFIG": str(tmp_path)}
    assert find_credentials("bed:1", env) == Credentials("u", "p")
    assert find_credentials("other:1", env) is None
    with pytest.raises(
        ConfigError, match="docker-credential-token keeps an identity token for token:1, which is not supported"
    ):
        find_credentials("token:1", env)
    with pytest.raises(
        ConfigError, match=r"docker-credential-gone, which Docker's configuration names .* cannot be run"
    ):
        find_credentials("gone:1", env)


@pytest.mark.parametrize("text", ["no json", '{"auths": {"h:1": {"auth": "%%%"}}}', "[]"])
def test_a_damaged_configuration_of_docker(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read .*: mend it with  docker login h:1"):
        find_credentials("h:1", {"DOCKER_CONFIG": str(tmp_path)})


def test_no_credentials_and_wrong_ones(guarded: ImageRegistry) -> None:
    with (
        Registry(guarded.address, ca=guarded.ca) as repo,
        pytest.raises(
            Unauthorised,
            match=r"does not let us in without credentials: docker login 127\..*, or set SITESTREAM",
        ),
    ):
        repo.tags("plant")
    with (
        Registry(guarded.address, ca=guarded.ca, credentials=Credentials("bed", "wrong")) as repo,
        pytest.raises(Unauthorised, match="it does not let us in as bed: docker login") as caught,
    ):
        repo.tags("plant")
    assert "wrong" not in str(caught.value) + repr(Credentials("bed", "wrong"))


def test_bearer_tokens(tmp_path: Path) -> None:
    with token_server(tmp_path, BED) as tokens, ImageRegistry(tmp_path, token=tokens.settings) as running:
        with Registry(running.address, credentials=BED) as repo:
            round_trip(repo)
            asked = len(tokens.scopes)
            round_trip(repo)
            assert len(tokens.scopes) == asked == 2  # one to read, one to write
        with (
            Registry(running.address, credentials=Credentials("bed", "wrong")) as repo,
            pytest.raises(
                Unauthorised, match=r"token, which issues the tokens of 127\.0\.0\.1:\d+, refuses: docker login"
            ),
        ):
            repo.tags("plant")


def test_a_token_that_has_expired_is_renewed(tmp_path: Path) -> None:
    with (
        token_server(tmp_path, BED) as tokens,
        ImageRegistry(tmp_path, token=tokens.settings) as running,
        Registry(running.address, credentials=BED) as repo,
    ):
        tokens.life_s = -120  # beyond the minute that registries allow
        with pytest.raises(Unauthorised, match="it does not let us in as bed"):
            repo.tags("plant")
        tokens.life_s = 300
        assert repo.tags("plant") == []


def test_a_password_is_not_sent_in_plain_to_who_issues_tokens() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        reply(request, 401, WWW_Authenticate='Bearer realm="http://elsewhere.example/token",service="x"')

    with (
        server(answer) as host,
        Registry(host, credentials=BED) as repo,
        pytest.raises(
            Unauthorised, match=r"to send the password to 'http://elsewhere\.example/token' without encryption"
        ),
    ):
        repo.tags("plant")


def test_credentials_go_to_nobody_else() -> None:
    seen: list[str | None] = []

    def other(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        reply(request, 200, b"blob")

    with server(other) as elsewhere:

        def answer(request: BaseHTTPRequestHandler) -> None:
            if request.headers.get("Authorization") != BED.header:
                return reply(request, 401, WWW_Authenticate='Basic realm="bed"')
            return reply(request, 307, Location=f"http://localhost:{elsewhere.rpartition(':')[2]}/bucket/blob?signed=1")

        with server(answer) as host, Registry(host, credentials=BED) as repo:
            assert transfer.read_blob(repo, "plant", sha256(b"blob"), 4, 4) == b"blob"
    assert seen == [None]


def test_credentials_do_not_follow_an_upload_elsewhere() -> None:
    seen: list[str | None] = []

    def other(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        reply(request, 201)

    with server(other) as elsewhere:

        def answer(request: BaseHTTPRequestHandler) -> None:
            if request.headers.get("Authorization") != BED.header:
                return reply(request, 401, WWW_Authenticate='Basic realm="bed"')
            if request.command == "HEAD":
                return reply(request, 404)
            return reply(request, 202, Location=f"http://{elsewhere}/upload")

        with server(answer) as host, Registry(host, credentials=BED) as repo:
            assert repo.push_blob("plant", sha256(b"blob"), 4, b"blob")
    assert seen == [None]


# whom we believe


def test_a_certificate_of_an_unknown_authority(guarded: ImageRegistry, tmp_path: Path) -> None:
    with (
        Registry(guarded.address, credentials=BED) as repo,
        pytest.raises(Unreachable, match=r"does not prove who it is .*: give the certificate authority that issued"),
    ):
        repo.tags("plant")
    with pytest.raises(
        ConfigError, match=r"none\.pem, the certificate authority of 127\..*, is not there: copy it there"
    ):
        Registry(guarded.address, ca=tmp_path / "none.pem")


def test_plain_http_to_a_tls_port(guarded: ImageRegistry) -> None:
    with Registry(f"127.0.0.1:{guarded.port}") as repo, pytest.raises(ConfigError, match="status 400"):
        repo.tags("plant")


@pytest.mark.parametrize(
    ("text", "plain", "base", "prefix"),
    [
        ("registry.example.com", False, "https://registry.example.com/v2/", ""),
        ("registry.example.com:5000/a/b/", False, "https://registry.example.com:5000/v2/", "a/b"),
        ("localhost:5000", False, "http://localhost:5000/v2/", ""),
        ("[::1]:5000/a", False, "http://[::1]:5000/v2/", "a"),
        ("https://127.0.0.1:5000", False, "https://127.0.0.1:5000/v2/", ""),
        ("http://10.0.0.1:5000", True, "http://10.0.0.1:5000/v2/", ""),
        ("10.0.0.1:5000", True, "http://10.0.0.1:5000/v2/", ""),
    ],
)
def test_addresses(text: str, plain: bool, base: str, prefix: str) -> None:
    address = parse_address(text, plain=plain)
    assert (address.base, address.prefix) == (base, prefix)


@pytest.mark.parametrize(
    "text", ["", "ftp://h/x", "https://", "https://user:pw@host", "https://[", "h:99999", "h:0", "h?x=1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a registry: write host:port/folder"):
        parse_address(text)


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="'https://…@host' is no address of a registry"):
        parse_address("https://user:pw@host")


def test_plain_http_must_be_wanted() -> None:
    with pytest.raises(ConfigError, match=r"http://10\.0\.0\.1:5000 is plain http, .*: use https, or say expressly"):
        parse_address("http://10.0.0.1:5000")


# bad links, and liars


def test_nobody_there() -> None:
    port = free_port()
    with (
        Registry(f"127.0.0.1:{port}") as repo,
        pytest.raises(Unreachable, match=rf"registry at 127\.0\.0\.1:{port} cannot be reached, .*refused\): try again"),
    ):
        repo.tags("plant")


def test_no_registry_there() -> None:
    with server(lambda request: reply(request, 200, b"<html>")) as host, Registry(host) as repo:
        with pytest.raises(Unreachable, match=rf"what answers at {host} is no registry"):
            repo.tags("plant")
        with pytest.raises(Unreachable, match="it does not say where an upload goes to"):
            repo._begin("plant")


def test_a_registry_in_trouble() -> None:
    with (
        server(lambda request: reply(request, 503, b"busy", Retry_After="60")) as host,
        Registry(host) as repo,
        pytest.raises(Unreachable, match=rf"{host} \(GET plant\): status 503: try again later; .* at its disk"),
    ):
        repo.tags("plant")


def test_what_is_forbidden() -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "read only"}]}'
    with (
        server(lambda request: reply(request, 403, body)) as host,
        Registry(host, credentials=BED) as repo,
        pytest.raises(Unauthorised, match=r"\(GET plant\): DENIED: read only: we may not do that as bed: docker login"),
    ):
        repo.tags("plant")


def test_a_pull_through_a_link_that_breaks_again_and_again(
    registry: ImageRegistry, unique: str, tmp_path: Path
) -> None:
    with Registry(registry.address) as repo:
        repo.push_blob(unique, sha256(BIG), len(BIG), BIG)
    with proxy(registry.port, down=6 << 20) as between, Registry(f"127.0.0.1:{between.port}") as repo:
        transfer.pull_blob(repo, unique, sha256(BIG), len(BIG), tmp_path / "blob")
        assert between.cuts == 3
    assert (tmp_path / "blob").read_bytes() == BIG


def test_a_pull_through_a_dead_link_keeps_what_came(registry: ImageRegistry, unique: str, tmp_path: Path) -> None:
    with Registry(registry.address) as repo:
        repo.push_blob(unique, sha256(BIG), len(BIG), BIG)
    with proxy(registry.port, down=6 << 20) as between, Registry(f"127.0.0.1:{between.port}") as repo:
        pieces = repo.blob(unique, sha256(BIG))
        next(pieces)
        between.down = 0
        with pytest.raises(Unreachable, match="or the link broke"):
            transfer.pull_blob(repo, unique, sha256(BIG), len(BIG), tmp_path / "blob")
        between.down = 6 << 20
        with pytest.raises(Unreachable):
            list(pieces)


def test_a_push_through_a_link_that_breaks(
    registry: ImageRegistry, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 << 20)
    with (
        proxy(registry.port, up=9 << 20, cuts_max=2) as between,
        Registry(f"127.0.0.1:{between.port}") as repo,
    ):
        assert repo.push_blob(unique, sha256(BIG), len(BIG), BIG)
        assert between.cuts == 2
        transfer.read_blob(repo, unique, sha256(BIG), len(BIG), len(BIG))


def test_a_push_goes_on_with_what_the_registry_has_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    kept, ranges = bytearray(), list[str | None]()

    def answer(request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length", 0))
        if request.command == "HEAD":
            return reply(request, 404)
        ranges.append(request.headers.get("Content-Range"))
        if len(ranges) == 3:  # the second chunk: the link breaks in the middle
            kept.extend(request.rfile.read(400))
            request.connection.close()
            return None
        kept.extend(request.rfile.read(length))
        status = {"POST": 202, "PATCH": 202, "GET": 204, "PUT": 201}[request.command]
        return reply(request, status, Location="upload", Range=f"0-{len(kept) - 1}")

    content = bytes(range(250)) * 10
    with server(answer) as host, Registry(host) as repo:
        assert repo.push_blob("plant", sha256(content), len(content), content)
    assert bytes(kept) == content
    assert ranges == [None, "0-999", "1000-1999", None, "1400-2399", None]


def test_a_push_begins_anew_if_the_registry_has_given_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    kept, seen = bytearray(), list[str]()

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.command == "HEAD":
            return reply(request, 404)
        seen.append(request.command)
        if len(seen) in (3, 4):  # the second chunk, and what has become of it
            return reply(request, 404)
        kept.extend(body)
        if request.command == "POST":
            kept.clear()
        return reply(request, 201 if request.command == "PUT" else 202, Location="upload")

    content = bytes(range(250)) * 10
    with server(answer) as host, Registry(host) as repo:
        assert repo.push_blob("plant", sha256(content), len(content), content)
    assert bytes(kept) == content
    assert seen == ["POST", "PATCH", "PATCH", "GET", "POST", "PATCH", "PATCH", "PUT"]


def test_a_push_through_a_dead_link_ends(registry: ImageRegistry, unique: str) -> None:
    with (
        proxy(registry.port, up=1 << 20) as between,
        Registry(f"127.0.0.1:{between.port}") as repo,
        pytest.raises(Unreachable, match="or the link broke"),
    ):
        repo.push_blob(unique, sha256(BIG), len(BIG), BIG)


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for _ in count():
        request.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


@pytest.mark.parametrize("fails", [3, 4])
def test_a_registry_that_fails_for_a_moment_is_asked_again(fails: int) -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        if len(asked) <= fails:
            reply(request, 500, b'{"errors": [{"code": "UNKNOWN", "message": "unknown error"}]}')
        else:
            reply(request, 200, b'{"tags": ["one"]}')

    with server(answer) as host, Registry(host) as registry:
        if fails < 4:
            assert registry.tags("plant") == ["one"]
        else:
            with pytest.raises(Unreachable, match="UNKNOWN: unknown error: try again later"):
                registry.tags("plant")
    assert asked == ["GET"] * 4


def test_what_a_registry_fails_to_take_is_not_sent_again() -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        reply(request, 500)

    with server(answer) as host, Registry(host) as registry, pytest.raises(Unreachable):
        registry.put_manifest("plant", "one", b"{}", manifests.OCI_MANIFEST)
    assert asked == ["PUT"]


def test_endless_answers(tmp_path: Path) -> None:
    with server(endless) as host, Registry(host) as repo:
        with pytest.raises(WrongLength, match=f"{host} gave more than the 1000000 bytes that sha256:"):
            transfer.pull_blob(repo, "plant", sha256(b"x"), 1_000_000, tmp_path / "blob")
        with pytest.raises(TooLarge, match=f"the answer of {host} is longer than 4194304 bytes: nothing of it is used"):
            repo.manifest("plant", "v1")
        with pytest.raises(TooLarge, match="longer than 1048576 bytes"):
            repo.tags("plant")
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_lies(tmp_path: Path) -> None:
    with server(lambda request: reply(request, 200, b"other")) as host, Registry(host) as repo:
        with pytest.raises(WrongDigest, match=f"{host} gave other content for {sha256(b'right')} of plant .*removed"):
            transfer.pull_blob(repo, "plant", sha256(b"right"), 5, tmp_path / "blob")
        with pytest.raises(WrongDigest, match="not to be trusted"):
            transfer.read_blob(repo, "plant", sha256(b"right"), 5, 5)
        with pytest.raises(WrongDigest, match=f"{host} gave other content for manifest {sha256(b'right')}"):
            repo.manifest("plant", sha256(b"right"))
    assert list(tmp_path.iterdir()) == []


def test_a_registry_without_ranges(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    with server(lambda request: reply(request, 200, content)) as host, Registry(host) as repo:
        (tmp_path / "blob.part").write_bytes(content[:100_001])
        transfer.pull_blob(repo, "plant", sha256(content), len(content), tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content


def test_tags_come_in_pages() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        last = request.path.partition("last=")[2]
        following = {"": "a", "a": "b"}.get(last)
        link = {"Link": f'</v2/plant/tags/list?last={following}>; rel="next"'} if following else {}
        reply(request, 200, json.dumps({"tags": [f"after-{last}"]}).encode(), **link)

    with server(answer) as host, Registry(host) as repo:
        assert repo.tags("plant") == ["after-", "after-a", "after-b"]


def test_a_full_disk(registry: ImageRegistry, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        with Registry(registry.address) as repo:
            repo.push_blob(unique, sha256(BIG), len(BIG), BIG)
            with pytest.raises(
                DiskFull, match=r"small has \d+ bytes left and 20971520 are needed: free some, and it goes on"
            ):
                transfer.pull_blob(repo, unique, sha256(BIG), len(BIG), small / "blob")
            monkeypatch.setattr(transfer, "_require_space", lambda *_: None)  # somebody else fills it meanwhile
            with pytest.raises(
                DiskFull, match=r"no space is left for .*blob\.part \(No space left on device\): free some"
            ):
                transfer.pull_blob(repo, unique, sha256(BIG), len(BIG), small / "blob")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_connections_are_used_again(registry: ImageRegistry, unique: str) -> None:
    with proxy(registry.port) as between, Registry(f"127.0.0.1:{between.port}/{unique}") as repo:
        round_trip(repo)
        assert between.connections == 1


def test_an_upload_that_the_registry_has_given_up_begins_anew(registry: ImageRegistry, unique: str) -> None:
    with Registry(registry.address) as repo:
        location, offset = repo._progress(unique, f"/v2/{unique}/blobs/uploads/{'0' * 8}-0000-0000-0000-{'0' * 12}")
        assert (offset, "blobs/uploads" in location) == (0, True)
        with pytest.raises(NotFound):
            next(repo.blob(unique, sha256(b"none")))
