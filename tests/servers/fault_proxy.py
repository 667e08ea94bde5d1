"""A proxy before the object store that spoils a share of the requests and hands the rest on untouched.

Clients sign for the proxy's address, which stays in the Host header, so signatures are right behind it too.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["500", "503", "reset", "cut", "slow"]
"""500 and 503 are S3's InternalError and SlowDown, not handed on. A reset closes the connection without an
answer, not handed on either. A cut does the request, and closes the connection in the middle of the answer's
body (or before the answer, where it has none). A slow one is done after `slow_s`."""

_CODES = {"500": "InternalError", "503": "SlowDown"}
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
"""Headers of an answer that belong to one connection, or that are set anew."""


class FaultProxy:
    """An HTTP proxy for one server; use it as a context.

    Whether a request is spoilt, and how, depends on the seed, the request's method and path, and how often it
    came before: not on time or threads. A repeated request is drawn anew.
    """

    def __init__(
        self,
        upstream: str,
        *,
        share: float = 0.0,
        kinds: Sequence[Fault] = ("503",),
        seed: int = 0,
        slow_s: float = 1.0,
        only: Callable[[str, str], bool] = lambda method, path: True,
    ) -> None:
        """
        Args:
            upstream: the server's url, `http://host:port`.
            share: of the requests that are spoilt, in [0, 1]; may be set while the proxy runs.
            kinds: of faults, drawn evenly.
            seed: of the drawing.
            slow_s: how long a slow request waits, in seconds.
            only: given method and path with query, which requests may be spoilt.
        """
        self.share = share
        self.kinds = kinds
        self.seed = seed
        self.slow_s = slow_s
        self.only = only
        self.requests: Counter[str] = Counter()
        """Requests by method."""
        self.faults: Counter[Fault] = Counter()
        """Spoilt requests by kind."""
        self._upstream = urlsplit(upstream)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """The url under which clients ask."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Give the port back, without having served."""
        self._server.server_close()

    def fate(self, method: str, path: str) -> Fault | None:
        """What happens to the next request of this method and path; counts it."""
        with self._lock:
            self.requests[method] += 1
            if not self.only(method, path):
                return None
            self._seen[method, path] += 1
            draw = random.Random(f"{self.seed} {method} {path} {self._seen[method, path]}")
            if draw.random() >= self.share:
                return None
            fault = draw.choice(self.kinds)
            self.faults[fault] += 1
            return fault

    def connect(self) -> http.client.HTTPConnection:
        """A new connection to the server."""
        assert self._upstream.hostname
        return http.client.HTTPConnection(self._upstream.hostname, self._upstream.port)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client; requests on it are handed on over one connection to the server."""

    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _behind: http.client.HTTPConnection | None = None

    def _request(self) -> None:
        try:
            body = self._body()
        except (OSError, ValueError):
            return self._reset()  # the client gave up
        fault = self.proxy.fate(self.command, self.path)
        if fault == "reset":
            return self._reset()
        if fault in _CODES:
            return self._refuse(int(fault), _CODES[fault])
        if fault == "slow":
            time.sleep(self.proxy.slow_s)
        try:
            status, headers, answer = self._forward(body)
        except (OSError, http.client.HTTPException):  # the server is down: so is its proxy
            self._behind = None
            return self._reset()
        self._answer(status, headers, answer, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _request

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Serve the connection until it ends; a client that goes away in the middle is no error."""
        with contextlib.suppress(OSError):
            super().handle()
        if self._behind:
            self._behind.close()

    def finish(self) -> None:
        """Close the connection, which a fault may have done already."""
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def _body(self) -> bytes:
        """What the client sends, without the marks between chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body that the server answers."""
        self._behind = self._behind or self.proxy.connect()
        self._behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        chunked = False
        for name, value in self.headers.items():
            if name.lower() != "expect":  # answered here
                self._behind.putheader(name, value)
            chunked |= name.lower() == "transfer-encoding"
        self._behind.endheaders(body or None, encode_chunked=chunked)
        if chunked and not body:
            self._behind.send(b"0\r\n\r\n")
        reply = self._behind.getresponse()
        return reply.status, reply.getheaders(), reply.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOPS:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(body)))
        if status not in (204, 304):
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        if cut:
            if len(body) > 1:
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
            return self._reset(wait=len(body) > 1)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>spoilt on purpose</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], body.encode(), cut=False)

    def _reset(self, *, wait: bool = False) -> None:
        """Close the connection so that the client sees a reset; after `wait`, one in the middle."""
        if not wait:
            # Without lingering, closing discards what was sent and resets.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR) if wait else self.connection.close()
