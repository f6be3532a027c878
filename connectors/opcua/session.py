"""A session with an OPC UA server: made anew, or taken up again on another channel."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.common.utils import create_nonce
from asyncua.crypto import security_policies, uacrypto
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.uaerrors import UaError

from connectors.opcua import PORT, guard
from connectors.opcua.channel import Channel, Check, Refused
from connectors.opcua.identity import Identity, fingerprint, first_certificate
from pipelines.clock import Clock
from pipelines.errors import ConfigError, NotConnected

log = logging.getLogger("opcua")
DENIED = frozenset({
    ua.StatusCodes.BadUserAccessDenied, ua.StatusCodes.BadIdentityTokenInvalid, ua.StatusCodes.BadIdentityTokenRejected,
})  # fmt: skip


@dataclass
class Session:
    """What a server knows us by."""

    token: ua.NodeId
    nonce: bytes
    server_certificate: bytes | None
    tokens: list[Any]  # UserTokenPolicy: how we may say who we are


async def reach(identity: Identity, url: str, clock: Clock, check: Check = guard.check) -> Channel:
    """A channel to a server; `NotConnected` if there cannot be one now, `ConfigError` if that is because of our security."""
    at = urlsplit(url)
    host, port = at.hostname or "", at.port or PORT
    try:
        return await Channel.open(url, host, port, identity.policy, clock, check)
    except NotConnected as e:
        if identity.expects is not None:
            await _explain(identity, url, host, port, clock)
        raise e


async def _explain(identity: Identity, url: str, host: str, port: int, clock: Clock) -> None:
    """`ConfigError` if the server shows another certificate, or has no such security; it tells everybody what it has."""
    with contextlib.suppress(NotConnected):
        channel = await Channel.open(url, host, port, SecurityPolicyNone(), clock)
        try:
            request = ua.GetEndpointsRequest()
            request.Parameters.EndpointUrl = url
            offered = (await channel.call(request, ua.GetEndpointsResponse)).Endpoints
        finally:
            await channel.close()
        policy = identity.policy
        mine = [e for e in offered if (e.SecurityMode, e.SecurityPolicyUri) == (policy.Mode, policy.URI)]
        if not mine:
            names = {
                f"{e.SecurityPolicyUri.rpartition('#')[2]},{e.SecurityMode.name}".replace("_", "") for e in offered
            }
            raise ConfigError(
                f"OPC UA server {host}:{port} has no such security= as asked for; it has {', '.join(sorted(names))}"
            )
        shown = first_certificate(mine[0].ServerCertificate or b"")
        if identity.expects is not None and shown != identity.expects:
            raise ConfigError(changed(identity.expects, shown or None))


async def create(channel: Channel, identity: Identity, url: str, name: str, keep_s: float) -> Session:
    """A new session, activated. `ConfigError` if the server is not the one that is expected, or refuses our name."""
    policy = identity.policy
    asked = ua.CreateSessionParameters()
    asked.ClientDescription = ua.ApplicationDescription(
        ApplicationUri=identity.uri, ProductUri="urn:sitestream", ApplicationName=ua.LocalizedText("Sitestream"),
        ApplicationType=ua.ApplicationType.Client,
    )  # fmt: skip
    asked.ClientNonce = create_nonce(32)
    asked.ClientCertificate = policy.host_certificate or None
    asked.EndpointUrl, asked.SessionName, asked.RequestedSessionTimeout = url, name, keep_s * 1000
    request = ua.CreateSessionRequest()
    request.Parameters = asked
    got = (await channel.call(request, ua.CreateSessionResponse)).Parameters
    certificate = first_certificate(got.ServerCertificate) if got.ServerCertificate else None
    _check_server(identity, certificate)
    try:
        policy.asymmetric_cryptography.verify(
            (policy.host_certificate or b"") + asked.ClientNonce, got.ServerSignature.Signature
        )
    except Exception as e:
        raise ConfigError(f"OPC UA server {channel.where} cannot prove that it holds the key of its certificate") from e
    tokens = [
        t
        for e in got.ServerEndpoints
        if (e.SecurityMode, e.SecurityPolicyUri) == (policy.Mode, policy.URI)
        for t in e.UserIdentityTokens
    ]
    session = Session(got.AuthenticationToken, got.ServerNonce or b"", certificate, tokens)
    await activate(channel, identity, session)
    return session


def _check_server(identity: Identity, certificate: bytes | None) -> None:
    if identity.expects is not None and certificate != identity.expects:
        raise ConfigError(changed(identity.expects, certificate))


def changed(expected: bytes, certificate: bytes | None) -> str:
    """What to say of a server that shows another certificate than the one that is known."""
    shows = f"one with the fingerprint {fingerprint(certificate)}" if certificate else "none"
    return (
        f"the OPC UA server's certificate is not the one in `server_certificate` (fingerprint {fingerprint(expected)}): it shows "
        f"{shows}. If it was renewed on purpose, put the new one into the secret; else somebody stands in between"
    )


async def activate(channel: Channel, identity: Identity, session: Session) -> None:
    """Bind a session to this channel; `Refused` if the server does not know it any more, `ConfigError` if it refuses our name."""
    channel.authenticate(session.token)
    policy = identity.policy
    asked = ua.ActivateSessionParameters()
    challenge = (session.server_certificate or b"") + session.nonce
    asked.ClientSignature.Algorithm = policy.AsymmetricSignatureURI or None
    asked.ClientSignature.Signature = policy.asymmetric_cryptography.signature(challenge)
    asked.LocaleIds = ["en"]
    asked.UserIdentityToken = _user(identity, session, channel.where)
    request = ua.ActivateSessionRequest()
    request.Parameters = asked
    try:
        got = await channel.call(request, ua.ActivateSessionResponse)
    except Refused as e:
        if e.status in DENIED:
            raise ConfigError(
                f"OPC UA server {channel.where} refuses user {identity.username or 'anonymous'!r}: {e}"
            ) from e
        raise
    session.nonce = got.Parameters.ServerNonce or b""


def _user(identity: Identity, session: Session, where: str) -> Any:
    if identity.username is None:
        return ua.AnonymousIdentityToken(PolicyId=_token(session, ua.UserTokenType.Anonymous, identity, where).PolicyId)
    offered = _token(session, ua.UserTokenType.UserName, identity, where)
    token = ua.UserNameIdentityToken(PolicyId=offered.PolicyId, UserName=identity.username)
    uri = offered.SecurityPolicyUri or identity.policy.URI
    secret = (identity.password or "").encode()
    if uri == SecurityPolicyNone.URI or not session.server_certificate:
        if identity.expects is None or identity.policy.Mode != ua.MessageSecurityMode.SignAndEncrypt:
            log.warning(
                "OPC UA server %s takes the password unencrypted only: everybody on the network can read it", where
            )
        token.Password = secret
        return token
    key = uacrypto.x509_from_der(session.server_certificate).public_key()
    plain = len(secret + session.nonce).to_bytes(4, "little") + secret + session.nonce  # part 4, 7.36.2.2
    try:
        token.Password, token.EncryptionAlgorithm = security_policies.encrypt_asymmetric(key, plain, uri)
    except UaError as e:
        raise ConfigError(f"OPC UA server {where} wants passwords protected by {uri}, which is not known here") from e
    return token


def _token(session: Session, kind: Any, identity: Identity, where: str) -> Any:
    found = next((t for t in session.tokens if t.TokenType == kind), None)
    if found is None:
        if identity.username is None:
            raise ConfigError(f"OPC UA server {where} lets nobody in without a name: give username= and password=")
        raise ConfigError(
            f"OPC UA server {where} takes no user names at this security: leave username= away, or set security="
        )
    return found


async def close(channel: Channel, session: Session) -> None:
    """End a session and its subscriptions, as far as the server listens."""
    channel.authenticate(session.token)
    request = ua.CloseSessionRequest()
    request.DeleteSubscriptions = True
    try:
        await channel.call(request, ua.CloseSessionResponse)
    except NotConnected as e:
        log.debug("the session could not be closed: %s", e)
