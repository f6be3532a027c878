"""A bad link to an engine: slow, and cut when the test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

PIECE_BYTES = 16_384


class SlowLink:
    """A unix socket that leads to another one at `bytes_per_s` towards it. `down` refuses, and cuts what is under way."""

    def __init__(self, path: Path, to: str, *, bytes_per_s: float = float("inf")) -> None:
        self.url, self.bytes_per_s = f"unix://{path}", bytes_per_s
        self.sent = 0  # bytes towards the engine
        self.cut_after: int | None = None  # goes down once so many bytes have been sent
        self._path, self._to = path, to.removeprefix("unix://")
        self._links: list[socket.socket] = []
        self._server: socket.socket | None = None
        self.up()

    def up(self) -> None:
        """Let others connect."""
        self.sent, self.cut_after = 0, None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen(64)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def down(self) -> None:
        """Cut everything."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        self._links.clear()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._to)
                self._links += [near, far]
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if upwards:
                    self.sent += len(piece)
                    if self.cut_after is not None and self.sent > self.cut_after:
                        self.down()
                        return
                    time.sleep(len(piece) / self.bytes_per_s)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
