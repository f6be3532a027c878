"""What may be sent to an OPC UA server: the services that look, and none that changes anything. Pure.

Every request leaves through `check`, as the bytes that are about to be sealed for the wire. What is not on the list is refused,
whoever made it.
"""

from __future__ import annotations

from pipelines.errors import SitestreamError

# Ids of the binary encodings of requests (OPC UA part 6, NodeIds.csv), in namespace 0
ALLOWED = {
    446: "OpenSecureChannel",
    452: "CloseSecureChannel",
    428: "GetEndpoints",
    422: "FindServers",
    461: "CreateSession",
    467: "ActivateSession",
    473: "CloseSession",
    479: "Cancel",
    527: "Browse",
    533: "BrowseNext",
    554: "TranslateBrowsePathsToNodeIds",
    560: "RegisterNodes",
    566: "UnregisterNodes",
    631: "Read",
    787: "CreateSubscription",
    793: "ModifySubscription",
    799: "SetPublishingMode",
    847: "DeleteSubscriptions",
    826: "Publish",
    832: "Republish",
    841: "TransferSubscriptions",
    751: "CreateMonitoredItems",
    763: "ModifyMonitoredItems",
    769: "SetMonitoringMode",
    781: "DeleteMonitoredItems",
}


class Forbidden(SitestreamError):
    """Something tried to send a request that could change the server."""


def request_id(message: bytes) -> int | None:
    """The id of the request that a message holds (a NodeId of namespace 0 in two, four or seven bytes); None if it is another."""
    form = message[:1]
    if form == b"\0" and len(message) >= 2:
        return message[1]
    if form == b"\1" and message[1:2] == b"\0" and len(message) >= 4:
        return int.from_bytes(message[2:4], "little")
    if form == b"\2" and message[1:3] == b"\0\0" and len(message) >= 7:
        return int.from_bytes(message[3:7], "little")
    return None


def check(message: bytes) -> None:
    """`Forbidden` if a message is not one of the requests that only look."""
    number = request_id(message)
    if number not in ALLOWED:
        raise Forbidden(
            f"request {number if number is not None else message[:8].hex()} is not one that a reader may send: it was held back; "
            "this is a bug, report it"
        )
