"""A proxy that spoils requests to an S3 server as clusters and stores do, and counts them.

    client ──> refused: 500 or 503 ──> late ──> server ──> reset: it is done, and nobody is told
                                                      └──> body cut short, or slow

The client's Host header goes through unchanged, so signatures stay valid. Draws come from one seeded
generator; which request meets which fault still depends on the order in which threads ask.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

_REFUSALS = {500: "InternalError", 503: "SlowDown"}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_WRITES = {"PUT", "POST", "DELETE"}
_SLOW_PIECES = 8


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is spoiled, as shares of requests."""

    refused: float = 0.0
    """Answered with 500 or 503, and not forwarded."""
    reset: float = 0.0
    """Writes whose connection is reset after the server has done them."""
    late: float = 0.0
    """Delayed by ``late_seconds``."""
    late_seconds: float = 2.0
    """Length of the delay."""
    cut: float = 0.0
    """Reads whose body ends half-way."""
    slow: float = 0.0
    """Reads whose body takes ``slow_seconds``."""
    slow_seconds: float = 1.0
    """Length of a slow body."""
    seed: int = 0
    """Of the draws."""


class Proxy:
    """A proxy in front of a server, while the ``with`` lasts.

    Args:
        host: of the server.
        port: of the server.
        faults: what is spoiled.
    """

    def __init__(self, host: str, port: int, faults: Faults | None = None) -> None:
        self.target = (host, port)
        self._faults = faults or Faults()
        self._random = random.Random(self._faults.seed)
        self._lock = threading.Lock()
        self._forced: deque[tuple[str, str]] = deque()
        self._requests: Counter[str] = Counter()
        self._spoiled: Counter[str] = Counter()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def force(self, *faults: str, method: str = "") -> None:
        """Spoil the next requests in this order, whatever the shares.

        Args:
            faults: refused, reset, late, cut, slow; ``dropped``: reset before the server; ``replayed``: sent
                to the server twice, and the second answer is passed on; ``damaged``: a byte of the body is
                another; or ``none``.
            method: only requests of this method count.
        """
        with self._lock:
            self._forced.extend((fault, method) for fault in faults)

    def spoil(self, faults: Faults) -> None:
        """Spoil something else from now on."""
        with self._lock:
            self._faults = faults
            self._random = random.Random(faults.seed)

    def requests(self) -> dict[str, int]:
        """Requests so far by kind: get, put, head, list, delete."""
        with self._lock:
            return dict(self._requests)

    def spoiled(self) -> dict[str, int]:
        """Faults so far by kind."""
        with self._lock:
            return dict(self._spoiled)

    def draw(self, method: str, path: str) -> str:
        """Count a request and decide what befalls it."""
        with self._lock:
            self._requests[kind_of(method, path)] += 1
            fault = self._forced_fault(method) or self._drawn_fault(method)
            if fault != "none":
                self._spoiled[fault] += 1
            return fault

    @property
    def faults(self) -> Faults:
        """What is spoiled."""
        return self._faults

    def _forced_fault(self, method: str) -> str:
        if self._forced and self._forced[0][1] in ("", method):
            return self._forced.popleft()[0]
        return ""

    def _drawn_fault(self, method: str) -> str:
        faults, drawn = self._faults, self._random.random()
        shares = {"refused": faults.refused, "late": faults.late}
        shares |= {"reset": faults.reset} if method in _WRITES else {}
        shares |= {"cut": faults.cut, "slow": faults.slow} if method == "GET" else {}
        for fault, share in shares.items():
            if drawn < share:
                return fault
            drawn -= share
        return "none"

    def refusal(self) -> int:
        """Status of the next refused request."""
        with self._lock:
            return self._random.choice(sorted(_REFUSALS))

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def kind_of(method: str, path: str) -> str:
    """What a request is counted as: get, put, head, list or delete."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "GET":
        is_list = not urlsplit(path).path.strip("/").partition("/")[2] or "uploads" in query
        return "list" if is_list else "get"
    if method == "POST":
        return "delete" if "delete" in query else "put"
    return method.lower()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do(self) -> None:
        """Any request."""
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.draw(self.command, self.path)
        if fault == "refused":
            self._refuse(proxy.refusal())
        elif fault == "dropped":
            self._reset()
        else:
            if fault == "late":
                time.sleep(proxy.faults.late_seconds)
            if fault == "replayed":
                self._forward(body)
            status, headers, answer = self._forward(body)
            if fault == "damaged" and answer:
                answer = answer[:-1] + bytes([answer[-1] ^ 1])
            if fault == "reset":
                self._reset()
            else:
                self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.proxy.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _refuse(self, status: int) -> None:
        code = _REFUSALS[status]
        body = f"<Error><Code>{code}</Code><Message>spoiled</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], body, "none")

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str) -> None:
        self.send_response_only(status)
        sizes = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = sizes[0] if self.command == "HEAD" and sizes else str(len(body))
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut" and body:
            self.wfile.write(body[: len(body) // 2])
            self._reset(at_once=False)
        elif fault == "slow" and body:
            self._dribble(body)
        else:
            self.wfile.write(body)

    def _dribble(self, body: bytes) -> None:
        size = -(-len(body) // _SLOW_PIECES)
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            time.sleep(self.server.proxy.faults.slow_seconds / _SLOW_PIECES)

    def _reset(self, *, at_once: bool = True) -> None:
        """Close the connection; at once: the client's reads fail, and what was written may not arrive."""
        if at_once:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
