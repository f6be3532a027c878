"""One secure channel to an OPC UA server: requests out, answers in. Never used twice.

The messages and their protection are asyncua's; what leaves passes a check first: `connectors.opcua.guard`, which lets nothing
through that changes a server, unless the channel was opened with another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from asyncua import ua
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.common.utils import Buffer, create_nonce
from asyncua.crypto.security_policies import SecurityPolicy
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from connectors.opcua import guard
from pipelines.clock import Clock
from pipelines.errors import NotConnected

CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 10.0
CLOSE_S_MAX = 1.0
CHUNK_BYTES_MAX = 65_535
MESSAGE_BYTES_MAX = 64 * 2**20
LIFETIME_S = 3_600.0  # of the channel's keys; renewed after three quarters
_KINDS = (b"MSG", b"OPN", b"CLO", b"ACK", b"ERR")  # of chunks that a server sends
Check = Callable[[bytes], None]
log = logging.getLogger("opcua")
logging.getLogger("asyncua").setLevel(
    logging.CRITICAL + 1
)  # what matters of it comes to us as an error, and is told once
R = TypeVar("R")


class _Guarded(SecureConnection):
    """Seals messages; only those that may leave."""

    def __init__(self, policy: SecurityPolicy, limits: TransportLimits, check: Check) -> None:
        super().__init__(policy, limits)
        self._check = check

    def message_to_binary(
        self, message: bytes, message_type: Any = ua.MessageType.SecureMessage, request_id: int = 0
    ) -> bytes:
        self._check(message)
        return super().message_to_binary(message, message_type, request_id)


class _Protocol(UASocketProtocol):
    """asyncua's, with a guard on its way out and a limit on its way in."""

    def __init__(self, policy: SecurityPolicy, check: Check) -> None:
        super().__init__(ANSWER_S_MAX, policy)
        chunks = MESSAGE_BYTES_MAX // CHUNK_BYTES_MAX + 1
        self._connection = _Guarded(
            policy, TransportLimits(CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, chunks, MESSAGE_BYTES_MAX), check
        )
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        super().connection_lost(exc)
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`; a rest that is not the beginning of a chunk would be waited for in vain."""
        super().data_received(data)
        rest = self.receive_buffer or b""
        foreign = len(rest) >= 8 and (rest[:3] not in _KINDS or int.from_bytes(rest[4:8], "little") > CHUNK_BYTES_MAX)
        if foreign and self.transport is not None:
            self.transport.abort()


class Refused(NotConnected):
    """The server answered a request with a status that is not good."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Channel:
    """A connection with its keys. `NotConnected` from any call means that it is of no more use; `Refused` that a request was."""

    def __init__(self, protocol: _Protocol, where: str) -> None:
        self._protocol, self.where = protocol, where
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, url: str, host: str, port: int, policy: SecurityPolicy, clock: Clock, check: Check = guard.check
    ) -> Channel:
        """Connect and agree on keys; `NotConnected` says why it could not. `check` raises for a request that may not leave."""
        protocol, where = _Protocol(policy, check), f"{host}:{port}"
        channel = cls(protocol, where)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await asyncio.get_running_loop().create_connection(lambda: protocol, host, port)
                await protocol.send_hello(url, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX // CHUNK_BYTES_MAX + 1)
                lifetime_s = await channel._keys(policy, ua.SecurityTokenRequestType.Issue)
        except TimeoutError:
            await channel.drop()
            raise NotConnected(
                f"OPC UA server {where} does not answer within {CONNECT_S_MAX:g} s: is it running, is it reachable?"
            ) from None
        except UaStatusCodeError as e:
            await channel.drop()
            raise Refused(f"OPC UA server {where} refuses a secure channel: {status_text(e.code)}", e.code) from e
        except ConnectionError as e:
            await channel.drop()
            raise NotConnected(
                f"OPC UA server {where} cannot be reached, or hangs up ({e}): start it, or correct its address"
            ) from e
        except OSError as e:
            raise NotConnected(
                f"OPC UA server {where} cannot be reached ({e}): start it, or correct its address"
            ) from e
        channel._keeper = asyncio.create_task(channel._keep(policy, lifetime_s, clock))
        return channel

    async def _keys(self, policy: SecurityPolicy, kind: ua.SecurityTokenRequestType) -> float:
        asked = ua.OpenSecureChannelParameters()
        asked.RequestType, asked.SecurityMode = kind, policy.Mode
        asked.RequestedLifetime = ua.UInt32(int(LIFETIME_S * 1000))
        asked.ClientNonce = create_nonce(policy.secure_channel_nonce_length)
        given = await self._protocol.open_secure_channel(asked)
        return float(given.SecurityToken.RevisedLifetime or LIFETIME_S * 1000) / 1000

    async def _keep(self, policy: SecurityPolicy, lifetime_s: float, clock: Clock) -> None:
        try:
            while True:
                await clock.sleep(lifetime_s * 0.75)
                lifetime_s = await self._keys(policy, ua.SecurityTokenRequestType.Renew)
                self._protocol.revolve_security_token()
        except (UaError, OSError, TimeoutError) as e:
            log.warning(
                "OPC UA server %s does not renew the keys of the channel: %s", self.where, e or type(e).__name__
            )
            self.abort()

    @property
    def open_still(self) -> bool:
        """Whether the connection is there."""
        return self._protocol.transport is not None

    def authenticate(self, token: ua.NodeId) -> None:
        """From now on requests are sent in the name of this session."""
        self._protocol.authentication_token = token

    async def call(self, request: Any, response: type[R]) -> R:
        """The answer to a request."""
        return decoded(await self.body(request), response, self.where)

    async def body(self, request: Any) -> Buffer:
        """The bytes of the answer to a request."""
        name = type(request).__name__.removesuffix("Request")
        try:
            return await self._protocol.send_request(request)
        except UaStatusCodeError as e:
            raise Refused(f"OPC UA server {self.where} refuses {name}: {status_text(e.code)}", e.code) from e
        except TimeoutError:
            self.abort()
            raise NotConnected(f"OPC UA server {self.where} does not answer {name} within {ANSWER_S_MAX:g} s") from None
        except (OSError, UaError) as e:
            raise NotConnected(f"OPC UA server {self.where} closed the connection ({e or type(e).__name__})") from e

    def send(self, request: Any) -> asyncio.Future[Buffer]:
        """Send a request whose answer may take any time."""
        try:
            return self._protocol._send_request(request, 0)
        except OSError as e:
            raise NotConnected(f"OPC UA server {self.where} closed the connection") from e

    async def close(self) -> None:
        """Close the channel, and the connection with it."""
        with contextlib.suppress(Exception):
            await self._protocol.close_secure_channel()
        if (transport := self._protocol.transport) is not None:
            transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._protocol.lost.wait()
        await self.drop()

    async def drop(self) -> None:
        """Drop the connection, and wait until it is gone."""
        self.abort()
        if self._protocol.transport is not None:
            await self._protocol.lost.wait()

    def abort(self) -> None:
        """Drop the connection."""
        if (transport := self._protocol.transport) is not None:
            transport.abort()
        self._stop()

    def _stop(self) -> None:
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()


def decoded(data: Buffer, response: type[R], where: str) -> R:
    """A response from its bytes; `Refused` if it is a fault, `NotConnected` if it is none at all."""
    try:
        got: Any = struct_from_binary(response, data)
        status = got.ResponseHeader.ServiceResult
    except Exception as e:  # whatever a library makes of bytes that are none of OPC UA
        raise NotConnected(
            f"OPC UA server {where} sent what is no {response.__name__} ({e or type(e).__name__})"
        ) from e
    if not status.is_good():
        raise Refused(f"OPC UA server {where} refuses: {status_text(status.value)}", status.value)
    return got  # type: ignore[no-any-return]


def parameters(data: Buffer, where: str) -> bytes:
    """What follows the header of a response; `Refused` if the response is a fault."""
    try:
        kind = nodeid_from_binary(data)
        status = struct_from_binary(ua.ResponseHeader, data).ServiceResult
    except Exception as e:  # see `decoded`
        raise NotConnected(f"OPC UA server {where} sent what is no response ({e or type(e).__name__})") from e
    if not status.is_good() or kind.Identifier == ua.ObjectIds.ServiceFault_Encoding_DefaultBinary:
        raise Refused(f"OPC UA server {where} refuses: {status_text(status.value)}", status.value)
    return data.read(len(data))


def status_text(code: int) -> str:
    """'BadUserAccessDenied (User does not have permission …)'."""
    status = ua.StatusCode(ua.UInt32(code))
    return f"{status.name} ({status.doc})"
