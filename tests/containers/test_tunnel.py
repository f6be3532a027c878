"""The way to a site's own broker without an engine: frames, the program that carries, the loop. With one: tests/broker."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from containers import tunnel
from containers.attached import SAID_BYTES_MAX, Attached
from containers.tunnel import CONNECTIONS_MAX, Tunnel, relay
from pipelines.errors import ConfigError, Unavailable

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20)


class Line:
    """What docker's client gives for a unix socket."""

    def __init__(self, end: socket.socket) -> None:
        self._sock, self._response = end, end  # closed twice, as the real one


def framed(output: int, content: bytes) -> bytes:
    return bytes([output, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


@example([(1, b"ok"), (1, framed(1, b"of no frame") + bytes(40))], 20, random.Random(0))
@given(FRAMES, st.integers(0, 400), st.randoms(use_true_random=False))
def test_output_is_what_was_written_however_it_comes_and_wherever_it_breaks_off(
    frames: list[tuple[int, bytes]], lost: int, chance: random.Random
) -> None:
    sent = b"".join(framed(*frame) for frame in frames)
    sent = sent[: max(0, len(sent) - lost)]
    whole, at = [], 0
    for output, content in frames:
        at += 8 + len(content)
        if at <= len(sent):
            whole.append((output, content))
    pieces, rest = [], sent
    while rest:
        cut = chance.randint(1, 40)
        pieces.append(rest[:cut])
        rest = rest[cut:]

    async def read() -> tuple[bytes, str]:
        ours, far = socket.socketpair()
        program = Attached(Line(ours))
        loop, found = asyncio.get_running_loop(), b""

        async def write() -> None:
            for piece in pieces:
                far.sendall(piece)
                await asyncio.sleep(0)
            far.close()

        writing = loop.create_task(write())
        while got := await program.read():
            found += got
        await writing
        program.close()
        return found, program.said

    found, said = asyncio.run(read())
    assert found == b"".join(content for output, content in whole if output == 1)
    assert said == "".join(c.decode(errors="replace") for output, c in whole if output == 2)[-SAID_BYTES_MAX:]


async def test_what_the_line_does_not_take_at_once_waits() -> None:
    ours, far = socket.socketpair()
    far.setblocking(False)
    program, sent = Attached(Line(ours)), random.Random(3).randbytes(3_000_000)
    writing = asyncio.create_task(program.write(sent))
    await asyncio.sleep(0.05)
    assert not writing.done()
    got = b""
    while len(got) < len(sent):
        got += await asyncio.get_running_loop().sock_recv(far, 100_000)
    await writing
    assert got == sent
    program.close()
    far.close()


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@contextmanager
def carrying(port: int, idle_s: int = tunnel.IDLE_S_MAX) -> Iterator[subprocess.Popen[bytes]]:
    """The program, as it would run in the container."""
    *_, program = relay(port)
    words = [sys.executable, "-I", "-S", "-c", program.replace(str(tunnel.IDLE_S_MAX), str(idle_s))]
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_carries_both_ways_at_once_and_ends_with_the_broker() -> None:
    there, back = random.Random(1).randbytes(5_000_000), random.Random(2).randbytes(5_000_000)
    with listening() as server, carrying(server.getsockname()[1]) as process:
        stdin = process.stdin
        assert stdin
        assert process.stdout
        sender = threading.Thread(target=lambda: (stdin.write(there), stdin.flush()), daemon=True)
        sender.start()
        broker, _ = server.accept()
        threading.Thread(target=broker.sendall, args=[back], daemon=True).start()
        with broker, broker.makefile("rb") as file:
            got = process.stdout.read(1_000_000)  # the rest waits meanwhile
            assert file.read(len(there)) == there
            got += process.stdout.read(len(back) - len(got))
            assert got == back
            sender.join()
        assert process.wait(10) == 0


def test_it_ends_with_whoever_speaks_to_it_and_before_that_says_nothing_to_the_broker() -> None:
    with listening() as server, carrying(server.getsockname()[1]) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    with listening() as server, carrying(server.getsockname()[1]) as process:
        assert process.stdin
        process.stdin.write(b"hello")
        process.stdin.close()
        broker, _ = server.accept()
        with broker:
            assert broker.recv(5) == b"hello"
            assert broker.recv(1) == b""
        assert process.wait(10) == 0


def test_it_ends_by_itself_when_nothing_comes_any_more() -> None:
    with listening() as server, carrying(server.getsockname()[1], idle_s=1) as process:
        assert process.wait(10) == -14, "nobody ever spoke"
    with listening() as server, carrying(server.getsockname()[1], idle_s=1) as process:
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.wait(10) == -14


def test_where_nobody_listens_it_says_so() -> None:
    with listening() as server:
        port = server.getsockname()[1]
    with carrying(port) as process:
        _, said = process.communicate(b"hello")
        assert (process.returncode, said) == (1, b"Connection refused\n")


@pytest.mark.parametrize(
    "error", [ConfigError("the engine refused: no such container"), Unavailable("the engine is away")]
)
def test_what_the_engine_says_is_the_trouble(error: Exception) -> None:
    def attach() -> Any:
        raise error

    loop = Tunnel("broker", 9092, attach)
    try:
        with pytest.raises(ConnectionRefusedError, match=str(error)):
            loop.run_until_complete(loop.create_connection(asyncio.Protocol, "broker", 9092))
        assert loop.trouble == str(error)
    finally:
        loop.close()


def test_other_addresses_are_reached_as_ever() -> None:
    loop = Tunnel("broker", 9092, lambda: pytest.fail("that is not the broker"))
    try:
        with listening() as server:
            transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, *server.getsockname()[:2]))
            transport.close()
            loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_connections_are_not_without_number() -> None:
    lines = [socket.socketpair() for _ in range(CONNECTIONS_MAX)]
    free = iter(lines)
    loop = Tunnel("broker", 9092, lambda: Line(next(free)[0]))

    async def many() -> None:
        kept = [loop._connected() for _ in lines]
        with pytest.raises(ConnectionRefusedError, match=f"{CONNECTIONS_MAX} connections are open already"):
            loop._connected()
        kept.pop().close()
        await asyncio.sleep(0.1)
        free_again, far = socket.socketpair()
        lines.append((free_again, far))
        nonlocal free
        free = iter(lines[-1:])
        kept.append(loop._connected())
        for end in kept:
            end.close()
        await asyncio.sleep(0.1)

    try:
        loop.run_until_complete(many())
        assert all(far.recv(1) == b"" for _, far in lines), "every line is closed"
    finally:
        loop.close()
        for _, far in lines:
            far.close()


@pytest.mark.parametrize("steps", range(7))
def test_a_loop_that_ends_at_any_step_of_a_closing_connection_closes_its_line(steps: int) -> None:
    ours, far = socket.socketpair()

    async def close() -> None:
        end = loop._connected()
        await loop.sock_sendall(end, b"x")
        assert await loop.sock_recv(far, 1) == b"x"
        end.close()
        for _ in range(steps):
            await asyncio.sleep(0)

    loop = Tunnel("broker", 9092, lambda: Line(ours))
    with far:
        far.setblocking(False)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(close())
        assert far.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "trouble"),
    [
        (b"", "it closed the connection"),
        (framed(2, b"Connection refused\n"), "Connection refused"),
        (framed(1, b"hello"), ""),
        (framed(1, b"hello") + framed(2, b"Killed\n"), "Killed"),
    ],
)
def test_why_a_connection_led_nowhere_is_known(sent: bytes, trouble: str) -> None:
    ours, far = socket.socketpair()
    loop = Tunnel("broker", 9092, lambda: Line(ours))

    async def connect() -> None:
        end = loop._connected()
        far.sendall(sent)
        far.close()
        while await loop.sock_recv(end, 100):
            pass
        end.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(connect())
    assert loop.trouble == trouble
