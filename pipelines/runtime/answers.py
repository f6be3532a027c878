"""Whether a Kafka broker answers, asked without a client."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

ANSWER_TIMEOUT_S = 2.0


def kafka_answers(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a Kafka broker answers a Metadata request there and names a live broker."""
    try:
        reply = _ask_metadata(host, port, tls)
    except (OSError, struct.error):
        return False
    brokers: int = struct.unpack_from(">ii", reply)[1]
    return brokers > 0


def _ask_metadata(host: str, port: int, tls: ssl.SSLContext | None) -> bytes:
    """Metadata request, version 1, about no topic (https://kafka.apache.org/protocol): its reply without the length."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S))
        if tls is not None:
            link = stack.enter_context(tls.wrap_socket(link, server_hostname=host))
        replies = stack.enter_context(link.makefile("rb"))
        link.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", replies.read(4))
        return replies.read(length)
