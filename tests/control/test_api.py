"""Control's HTTP API with a real service, Kafka, MQTT and TLS: what it takes, what it refuses with which words, how it waits."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nacl.signing import SigningKey

from connectors.control import api, audit
from connectors.control.api_admission import BURST_MAX, Tokens
from connectors.control.commands import COMMAND_BYTES_MAX, Command
from connectors.control.signing import signed
from containers.embedded import EmbeddedKafka
from pipelines.clock import SystemClock
from pipelines.errors import ConfigError
from pipelines.settings import Settings
from tests.bed import free_port
from tests.bed.certificate import self_signed
from tests.bed.mosquitto import Mosquitto
from tests.control.plant import ME, YOU, Device, Site

TOKEN, OTHER = "one-token-of-many-characters", "another-token-of-many-characters"
SECOND = 10**9


@dataclass
class Client:
    """Speaks to the API of a site."""

    site: Site
    url: str
    http: aiohttp.ClientSession

    def signed(self, key: SigningKey = ME, **changes: object) -> Command:
        now = time.time_ns()
        fields: dict[str, object] = {
            "id": uuid.uuid4().hex, "device": "p1", "verb": "stop", "issuer": "me", "issued_at_ns": now,
            "expires_at_ns": now + 30 * SECOND,
        }  # fmt: skip
        return signed(Command(**(fields | changes)), self.site.name, key)  # type: ignore[arg-type]  # as in the plant

    async def ask(
        self, method: str, path: str, body: Command | bytes | None = None, token: str | None = TOKEN
    ) -> tuple[int, Any, Any]:
        """(status, JSON, headers)."""
        data = body.encode() if isinstance(body, Command) else body
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.request(method, self.url + path, data=data, headers=headers) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json(), answer.headers

    async def refused(
        self, method: str, path: str, body: Command | bytes | None = None, **more: Any
    ) -> tuple[int, str, str]:
        status, told, _ = await self.ask(method, path, body, **more)
        return status, told["reason"], told["error"]


@pytest.fixture
async def client(kafka: EmbeddedKafka, mosquitto: Mosquitto, unique: str, tmp_path: Path) -> AsyncIterator[Client]:
    port = free_port()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "api_tokens").write_text(f"# who: the control room\n{TOKEN}\n{OTHER}\n")
    site = Site(unique, kafka.bootstrap, mosquitto.url, tmp_path, options={"listen": f"127.0.0.1:{port}"})
    async with site.control() as control, aiohttp.ClientSession() as http:
        await control.ready()
        yield Client(site, f"http://127.0.0.1:{port}", http)
        assert await control.stop() == 0
    assert "Traceback" not in site.log.read_text()


async def test_a_signed_command_is_taken_once_and_waited_for(client: Client) -> None:
    device = Device()
    async with device.on(client.site):
        command = client.signed(verb="set_speed", args={"speed": 0.5})
        status, told, headers = await client.ask("POST", "/v1/commands?wait=20s", command)
        assert (status, told["state"], told["detail"], told["final"]) == (200, "SUCCEEDED", "done", True)
        assert headers["Location"] == f"/v1/commands/{command.id}"
        status, again, _ = await client.ask("POST", "/v1/commands", command)  # whoever got no answer sends it again
        assert (status, again) == (200, told)
        assert dict(device.executions) == {command.id: 1}
        other = client.signed(id=command.id)
        assert (await client.refused("POST", "/v1/commands", other))[:2] == (409, "id")

        too_fast = client.signed(verb="set_speed", args={"speed": 9.0})
        _, told, _ = await client.ask("POST", "/v1/commands?wait=20s", too_fast)
        assert (told["state"], told["detail"]) == ("REJECTED", "speed: 9 is more than 2.5 m/s")
        status, listed, _ = await client.ask("GET", "/v1/devices/p1/commands?limit=2", token=OTHER)
        assert (status, [c["id"] for c in listed["commands"]]) == (200, [too_fast.id, command.id])
        assert (await client.ask("GET", "/v1/devices/p1/commands?limit=1"))[1]["commands"][0]["id"] == too_fast.id
        assert (await client.ask("GET", "/v1/devices/p2/commands"))[1] == {"device": "p2", "commands": []}


async def test_what_is_dangerous_is_approved_by_another(client: Client) -> None:
    async with Device().on(client.site):
        danger = client.signed(verb="open")
        status, told, _ = await client.ask("POST", "/v1/commands?wait=300ms", danger)
        assert (status, told["state"]) == (202, "AWAITING_APPROVAL")
        waits = asyncio.create_task(client.ask("GET", f"/v1/commands/{danger.id}?wait=20s"))
        assert [c["id"] for c in (await client.ask("GET", "/v1/approvals"))[1]["commands"]] == [danger.id]
        path = f"/v1/commands/{danger.id}/approvals"
        mine = client.signed(verb="approve", args={"id": danger.id})
        _, told, _ = await client.ask("POST", path + "?wait=20s", mine)
        assert told["state"] == "REJECTED"
        assert "another person must approve it" in told["detail"]
        assert not waits.done()
        yours = client.signed(YOU, issuer="you", verb="approve", args={"id": danger.id})
        status, told, _ = await client.ask("POST", path + "?wait=20s", yours)
        assert (status, told["state"]) == (200, "SUCCEEDED")
        status, told, _ = await waits
        assert (status, told["state"], told["signers"]) == (200, "SUCCEEDED", ["me", "you"])

        assert (await client.refused("POST", path, danger))[:2] == (400, "approval")
        nothing = client.signed(YOU, issuer="you", verb="approve", args={"id": "none"})
        assert (await client.refused("POST", "/v1/commands/none/approvals", nothing))[:2] == (404, "id")


async def test_what_is_not_taken_is_told_why(client: Client) -> None:
    good = client.signed()
    for token in (None, "x", TOKEN[:-1], "ü"):
        status, reason, text = await client.refused("POST", "/v1/commands", good, token=token)
        assert (status, reason) == (401, "token")
        assert "Authorization: Bearer" in text
    assert (await client.refused("POST", "/v1/commands", good, token=f"{TOKEN} x"))[0] == 401
    forged = client.signed(YOU)
    assert await client.refused("POST", "/v1/commands", forged) == (
        403, "signature", f"command {forged.id}: it is not signed by me",
    )  # fmt: skip
    eve = client.signed(issuer="eve")
    assert "nobody knows the issuer 'eve'" in (await client.refused("POST", "/v1/commands", eve))[2]
    pipelines = client.signed(issuer="press/alarm")  # nobody can speak for the pipeline
    assert (await client.refused("POST", "/v1/commands", pipelines))[:2] == (403, "signature")
    records = await audit.read(client.site.brokers, client.site.name)
    assert [r.state for r in records] == ["REFUSED"] * 3

    cases: list[tuple[bytes | Command, str, str]] = [
        (b"{", "json", "truncated"), (b"", "json", "truncated"), (b"[]", "json", "Expected `object`"),
        (b'{"id": 1}', "command", "not a command"), (client.signed(id="a b"), "command", "id: 1 to 128 letters"),
    ]  # fmt: skip
    for body, reason, text in cases:
        status, found, told = await client.refused("POST", "/v1/commands", body)
        assert (status, found) == (400, reason)
        assert text in told
    assert (await client.refused("POST", "/v1/commands", b"x" * (COMMAND_BYTES_MAX + 1)))[:2] == (413, "size")
    assert (await client.refused("GET", "/v1/commands/none?wait=1s"))[:2] == (404, "id")
    assert (await client.refused("GET", "/v2"))[:2] == (404, "path")
    status, told, headers = await client.ask("PUT", "/v1/commands")
    assert (status, told["reason"], headers["Allow"]) == (405, "method", "POST")
    for query, reason in {"wait=1h": "wait", "wait=soon": "wait"}.items():
        assert (await client.refused("GET", f"/v1/commands/{good.id}?{query}"))[:2] == (400, reason)
    assert (await client.refused("GET", "/v1/approvals?limit=0"))[:2] == (400, "limit")
    assert await client.site.states() == []  # and not one of all these is on record

    await hang_up(client, b"Content-Length: 500\r\n\r\n{")  # what is no mistake of ours leaves no trace in the log
    await hang_up(client, b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc")
    await hang_up(client, b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nZZ\r\n")

    answers = [await client.ask("GET", "/v1/approvals") for _ in range(2 * BURST_MAX)]
    late = [a for a in answers if a[0] == 429]
    assert late
    assert {a[0] for a in answers} == {200, 429}
    assert (late[0][1]["reason"], late[0][2]["Retry-After"]) == ("rate", "1")
    assert (await client.ask("GET", "/v1/approvals", token=OTHER))[0] == 200


async def hang_up(client: Client, rest: bytes) -> None:
    """Begin a request and go away in the middle of its body."""
    _, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
    writer.write(f"POST /v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode() + rest)
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.close()
    await writer.wait_closed()


async def test_connections_count_from_their_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CONNECTIONS_MAX", 1)
    (tmp_path / "api_tokens").write_text(TOKEN)
    certificate, key = self_signed("127.0.0.1")
    (tmp_path / "api_certificate").write_bytes(certificate)
    (tmp_path / "api_private_key").write_bytes(key)
    port = free_port()
    settings = Settings(
        site="s", brokers="b:1", pipeline="p.py", options={"listen": f"127.0.0.1:{port}"}, secrets_dir=str(tmp_path)
    )
    nothing: Any = None  # neither desk nor sender is asked for anything
    async with api.serving(settings, nothing, nothing, SystemClock()), aiohttp.ClientSession() as http:
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # which never greets
        await asyncio.sleep(0.05)
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"https://127.0.0.1:{port}/v1/approvals", ssl=False)
        writer.close()
        await asyncio.sleep(0.05)
        async with http.get(f"https://127.0.0.1:{port}/v1/approvals", ssl=False) as answer:
            assert answer.status == 401


async def test_without_the_option_no_port_is_open_and_what_is_wrong_with_it_is_told(tmp_path: Path) -> None:
    def serving(**options: str) -> AbstractAsyncContextManager[None]:
        settings = Settings(site="s", brokers="b:1", pipeline="p.py", options=options, secrets_dir=str(tmp_path))
        nothing: Any = None  # neither desk nor sender is asked for anything
        return api.serving(settings, nothing, nothing, SystemClock())

    async with serving():
        pass  # without secrets and without an address
    port = free_port()
    with pytest.raises(ConfigError, match="secret 'api_tokens' is missing: put it into the file"):
        await serving(listen=f"127.0.0.1:{port}").__aenter__()
    (tmp_path / "api_tokens").write_text(TOKEN)
    async with serving(listen=f"127.0.0.1:{port}"):
        with pytest.raises(
            ConfigError, match=rf"option listen: 127.0.0.1:{port} cannot be listened on .*: does another"
        ):
            await serving(listen=f"127.0.0.1:{port}").__aenter__()
    (tmp_path / "api_certificate").write_text("no certificate")
    with pytest.raises(ConfigError, match="secret 'api_private_key' is missing"):
        await serving(listen=f"127.0.0.1:{port}").__aenter__()
    (tmp_path / "api_private_key").write_text("no key")
    with pytest.raises(ConfigError, match="'api_certificate' and 'api_private_key' are no certificate and its key"):
        await serving(listen=f"127.0.0.1:{port}").__aenter__()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 0 tokens: write 1 to 100"),
        ("# nothing\n", "has 0 tokens"),
        ("short\n", "token 1 cannot be used: write at least 16 characters"),
        (f"{TOKEN}\nwith a space in it all\n", "token 2 cannot be used"),
    ],
)
def test_tokens_that_cannot_be_used(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        Tokens(text)


def test_strangers_wait_for_each_other_only() -> None:
    tokens = Tokens(TOKEN)
    strangers = [tokens.admit("Bearer " + "guess" * 5, 0.0)[0] for _ in range(BURST_MAX + 1)]
    assert strangers == [401] * BURST_MAX + [429]
    assert tokens.admit(f"bearer {TOKEN}", 0.0) == (0, 0)  # whoever is known is not kept out by strangers
    assert tokens.admit(f"Basic {TOKEN}", 5.0)[0] == 401


@pytest.mark.parametrize("listen", ["9471", "host:", "127.0.0.1:0", "127.0.0.1:70000"])
def test_addresses_that_are_none(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"write address:port, such as '127.0.0.1:9471'"):
        api._address(listen)
