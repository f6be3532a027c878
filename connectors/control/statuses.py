"""What an OPC UA server's status of a write or a call says of what was done. Pure. Codes: OPC UA part 6, StatusCode.csv."""

from __future__ import annotations

from asyncua import ua

from connectors.control.ledger import Event

_S = ua.StatusCodes
NOT_HEARD = frozenset({  # the session is gone, or the server does nothing now: it was not carried out, and may be later
    _S.BadSessionIdInvalid, _S.BadSessionClosed, _S.BadSessionNotActivated, _S.BadSecureChannelIdInvalid,
    _S.BadSecureChannelClosed, _S.BadTooManyOperations, _S.BadTcpServerTooBusy, _S.BadServerHalted, _S.BadServerNotConnected,
})  # fmt: skip
REFUSED = frozenset({  # what was asked for cannot be, or not by us: it is not done
    _S.BadUserAccessDenied, _S.BadNotWritable, _S.BadWriteNotSupported, _S.BadTypeMismatch, _S.BadOutOfRange,
    _S.BadNodeIdUnknown, _S.BadNodeIdInvalid, _S.BadAttributeIdInvalid, _S.BadNotExecutable, _S.BadMethodInvalid,
    _S.BadArgumentsMissing, _S.BadTooManyArguments, _S.BadInvalidArgument, _S.BadSecurityModeInsufficient, _S.BadInvalidState,
    _S.BadRequestNotAllowed, _S.BadServiceUnsupported, _S.BadNotImplemented, _S.BadLocked,
})  # fmt: skip
PERHAPS = frozenset({  # something between the server and the machine went wrong on the way: it may be done
    _S.BadTimeout, _S.BadRequestTimeout, _S.BadCommunicationError, _S.BadNoCommunication, _S.BadDeviceFailure,
    _S.BadInternalError, _S.BadUnexpectedError, _S.BadRequestInterrupted, _S.BadShutdown, _S.BadConnectionClosed,
    _S.BadRequestCancelledByRequest, _S.BadRequestCancelledByClient, _S.BadOperationAbandoned, _S.BadWaitingForResponse,
})  # fmt: skip
_UNCERTAIN, _BAD = 1, 2  # the two highest bits


def comes_later(code: int) -> bool:
    """Whether a good status says that it is taken, and done some time."""
    return code & 0xFFFF0000 == _S.GoodCompletesAsynchronously


def judged(code: int, who: str) -> tuple[Event, str] | None:
    """The event that a status means, and the detail; None if the request was done, or at least taken."""
    severity, bare = code >> 30, code & 0xFFFF0000
    if severity == 0:
        return None
    name = ua.StatusCode(ua.UInt32(bare)).name
    if severity == _UNCERTAIN or bare in PERHAPS:
        return Event.LOSE, f"{who} does not know whether it is done: {name}"
    if bare in NOT_HEARD:
        return Event.RETURN, f"{who} did not carry it out: {name}"
    return Event.REJECT if bare in REFUSED else Event.FAIL, f"{who} refuses: {name}"
