"""A real OPC UA server (asyncua) on a thread of its own, with a plant that tests build."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from containers.child import free_port

T = TypeVar("T")
USERNAME, PASSWORD = "collect", "pass word ü"
OPERATOR = "operator"  # may write only where a node says so


class Users(UserManager):
    """Everybody may look; who says a name must be `USERNAME`, or `OPERATOR`, who may not write everywhere."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        """See asyncua."""
        if (username, password) == (OPERATOR, PASSWORD):
            return User(role=UserRole.User)
        good = username is None or (username, password) == (USERNAME, PASSWORD)
        return User(role=UserRole.Admin) if good else None


@dataclass(frozen=True)
class Papers:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


def papers(uri: str) -> Papers:
    """A self-signed certificate that says `uri` is who we are."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Papers(made.public_bytes(pem), private)


class OpcuaServer:
    """Starts in a second or two; nodes are made as they are first written to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}/plant"
        self.papers = papers("urn:test:server")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.nodes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
        self._thread.start()
        self.do(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(120)  # a busy machine starts it slowly

    def method(self, path: str, does: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
        """A method 'Plant/a/Start' of an object that is there."""
        at, _, name = path.rpartition("/")
        return self.do(self.nodes[f"/{at}"].add_method(2, name, does, inputs, outputs))

    async def _start(self) -> None:
        self.server = Server(user_manager=Users())
        await self.server.init()
        self.server.set_endpoint(self.url)
        await self.server.set_application_uri("urn:test:server")
        policies = ua.SecurityPolicyType
        self.server.set_security_policy([
            policies.NoSecurity, policies.Basic256Sha256_SignAndEncrypt, policies.Aes256Sha256RsaPss_Sign,
        ])  # fmt: skip
        await self.server.load_certificate(self.papers.certificate, "pem")
        await self.server.load_private_key(self.papers.key, None, "pem")
        await self.server.start()

    def restart(self) -> None:
        """Stop it, forget all sessions, and start it again on the same port with the same nodes."""
        self.forget()
        assert self.server.bserver is not None
        self.do(self.server.bserver.stop())
        self.do(self.server.bserver.start())

    async def _stop(self) -> None:
        await self.server.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def node(self, path: str, value: Any = 0.0, kind: Any = ua.VariantType.Double) -> Any:
        """The variable 'Plant/a/RMS' below Objects; made, and what it hangs below, if it is not there."""
        if path not in self.nodes:
            *folders, name = path.split("/")
            at, below = "", self.server.nodes.objects
            for folder in folders:
                at = f"{at}/{folder}"
                if at not in self.nodes:
                    self.nodes[at] = await below.add_object(2, folder)
                below = self.nodes[at]
            self.nodes[path] = await below.add_variable(2, name, value, kind)
        return self.nodes[path]

    def variable(self, path: str, value: Any = 0.0, kind: Any = ua.VariantType.Double) -> Any:
        """See `node`; from another thread."""
        return self.do(self.node(path, value, kind))

    def write(
        self, path: str, value: Any, time: datetime | None = None, *, status: int = 0, kind: Any = ua.VariantType.Double,
        server_time: Any = None, stamped: bool = True,
    ) -> None:  # fmt: skip
        """Set a value, as a device would: with its source timestamp (by default now), status and type."""
        self.do(self.writing(path, value, time, status=status, kind=kind, server_time=server_time, stamped=stamped))

    async def writing(
        self, path: str, value: Any, time: datetime | None = None, *, status: int = 0, kind: Any = ua.VariantType.Double,
        server_time: Any = None, stamped: bool = True,
    ) -> None:  # fmt: skip
        """See `write`; on the server's loop."""
        node = await self.node(path)
        source: Any = time or (datetime.now(UTC) if stamped else None)
        held = ua.Variant(value, kind) if status < 0x80000000 else ua.Variant()
        data = ua.DataValue(held, ua.StatusCode(ua.UInt32(status)), source, server_time)
        attribute = self.server.iserver.aspace._nodes[node.nodeid].attributes[ua.AttributeIds.Value]
        attribute.value = data  # as the server's own write does, but any type will do
        for handle, tell in list(attribute.datachange_callbacks.items()):
            await tell(handle, data)

    def remove(self, path: str) -> None:
        """Take a node out of its folder, where it is looked for. (asyncua cannot delete one that is monitored.)"""

        async def take_out() -> None:
            node = self.nodes.pop(path)
            await (await node.get_parent()).delete_reference(node, ua.ObjectIds.HasComponent)

        self.do(take_out())

    def forget(self) -> None:
        """Drop every session and subscription of clients, as a server does that has restarted inside."""

        async def drop() -> None:
            iserver = self.server.iserver
            for session in list(iserver._external_sessions.values()):
                await session.close_session(True)

        self.do(drop())

    def subscriptions(self) -> int:
        """How many subscriptions the server has."""
        return len(self.server.iserver.subscription_service.subscriptions)
