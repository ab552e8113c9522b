"""The local cluster: its configuration is a pure function, its programs refuse what they cannot do."""

import importlib.util
import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).parents[2] / "slurm/local_cluster"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"local_cluster_{name}", HOME / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


layout = load("layout")
daemons = load("daemons")


def cluster(**values: object) -> "layout.Cluster":  # type: ignore[name-defined] # loaded by path
    return layout.Cluster(**{"folder": Path("/c"), "host": "here", "user": "me", "port": 22000, **values})


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_slurm_conf_says_what_was_asked() -> None:
    text = layout.slurm_conf(cluster(nodes=3, cpus=5, memory=700, max_array_size=11))
    conf = settings(text)
    assert conf["MaxArraySize"] == "11"
    assert conf["SlurmctldPort"] == "22000"
    assert conf["AuthInfo"] == "socket=/c/run/munge.sock,cred_expire=5"
    assert conf["ProctrackType"] == "proctrack/linuxproc"
    assert conf["AccountingStorageType"] == "accounting_storage/none"
    nodes = [line for line in text.splitlines() if line.startswith("NodeName")]
    assert nodes[2] == (
        "NodeName=n3 NodeHostname=here NodeAddr=127.0.0.1 Port=22012 CPUs=5 RealMemory=700 State=UNKNOWN"
    )
    assert len(nodes) == 3
    assert "PartitionName=cpu Nodes=n[1-3] Default=YES" in text
    assert "PartitionName=gpu" not in text


def test_gpus_are_on_the_first_half_of_the_nodes() -> None:
    gpus = cluster(nodes=4, gpus=2, gpu_device="/c/dev/gpu")
    assert [
        line.endswith("Gres=gpu:2") for line in layout.slurm_conf(gpus).splitlines() if "Addr" in line
    ] == [
        True,
        True,
        False,
        False,
    ]
    assert layout.gres_conf(gpus) == "NodeName=n[1-2] Name=gpu Count=2 File=/c/dev/gpu[0-1]\n"
    assert "PartitionName=gpu Nodes=n[1-2]" in layout.slurm_conf(gpus)
    assert layout.gres_conf(cluster(gpus=0)) == ""
    assert "File" not in layout.gres_conf(cluster(nodes=1, gpus=1))


def test_accounting_brings_slurmdbd_with_the_clusters_own_socket() -> None:
    with_accounting = cluster(accounting=True)
    conf = settings(layout.slurm_conf(with_accounting))
    assert conf["AccountingStoragePass"] == "/c/run/munge.sock"
    assert conf["AccountingStoragePort"] == settings(layout.slurmdbd_conf(with_accounting))["DbdPort"]
    assert "etc/slurmdbd.conf" in layout.files(with_accounting)
    assert "etc/slurmdbd.conf" not in layout.files(cluster())


def test_clusters_side_by_side_share_no_port() -> None:
    first = cluster(nodes=layout.MAX_NODES, accounting=True)
    second = cluster(nodes=layout.MAX_NODES, accounting=True, port=22000 + layout.PORTS_PER_CLUSTER)
    assert len(set(first.ports)) == layout.MAX_NODES + 3
    assert not set(first.ports) & set(second.ports)


def test_every_node_has_its_own_folder_and_the_same_slurm_conf() -> None:
    files = layout.files(cluster(nodes=2))
    assert files["etc/n1/slurm.conf"] == files["etc/n2/slurm.conf"] == files["etc/slurm.conf"]
    assert files["etc/n1/mpi.conf"] != files["etc/n2/mpi.conf"]
    assert "SLURM_CONF=/c/etc/slurm.conf" in files["env.sh"]


def test_a_pid_file_is_not_believed_blindly(tmp_path: Path) -> None:
    pid_file = tmp_path / "sleep.pid"
    assert daemons.pid_of(pid_file, tmp_path) is None
    for text in ("", "no number", "999999999"):
        pid_file.write_text(text)
        assert daemons.pid_of(pid_file, tmp_path) is None
    process = subprocess.Popen(["sleep", "60"], env={"SLURM_CONF": f"{tmp_path}/etc/slurm.conf"})
    try:
        pid_file.write_text(f"{process.pid}\n")
        daemons.wait_until(lambda: daemons.pid_of(pid_file, tmp_path) is not None, 5)
        assert daemons.pid_of(pid_file, tmp_path) == process.pid
        assert daemons.pid_of(pid_file, tmp_path / "other") is None
        other_name = tmp_path / "munged.pid"
        other_name.write_text(f"{process.pid}")
        assert daemons.pid_of(other_name, tmp_path) is None
        daemons.end([pid_file], tmp_path, 5)
        assert process.wait(5) == -15
        assert not pid_file.exists()
    finally:
        process.kill()
        process.wait()


def test_end_leaves_a_strangers_process_alone(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "sleep.pid").write_text(str(process.pid))
        daemons.end([tmp_path / "sleep.pid"], tmp_path, 1)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HOME / program), *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes 0: expected 1 to 180"),
        (["--max-array-size", "1"], "--max-array-size 1: expected 2"),
        (["--port", "65500"], "--port 65500: expected"),
        (["--nodes", "many"], "invalid int value: 'many'"),
        (["--folder", "/tmp/with space"], "expected at most 80 of the characters"),
        (["--folder", "/" + "long" * 30], "expected at most 80 of the characters"),
    ],
)
def test_start_refuses(words: list[str], message: str) -> None:
    result = run("start", "--no-install", *words)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    keep = tmp_path / "thesis.tex"
    keep.write_text("years of work")
    for program, words in (("start", ["--no-install"]), ("stop", ["--purge"])):
        result = run(program, "--folder", str(tmp_path), *words)
        assert result.returncode == 1
        assert str(tmp_path) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [keep.name]


def test_stop_of_nothing_is_no_error(tmp_path: Path) -> None:
    result = run("stop", "--folder", str(tmp_path / "none"), "--purge")
    assert result.returncode == 0
    assert "nothing there" in result.stderr


def test_stop_purges_only_with_purge(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "cluster.json").write_text(json.dumps({}))
    assert run("stop", "--folder", str(tmp_path)).returncode == 0
    assert tmp_path.exists()
    assert run("stop", "--folder", str(tmp_path), "--purge").returncode == 0
    assert not tmp_path.exists()


def test_missing_programs_are_named_with_the_command_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HOME))
    install = runpy.run_path(str(HOME / "start"))["install"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="apt-get install") as caught:
        install(accounting=True, allowed=False)
    assert "not installed: slurmctld, slurmd, sbatch, munged, slurmdbd, mariadbd" in str(caught.value)
    assert str(caught.value).endswith("libpmix2 mariadb-server munge slurm-wlm slurmdbd")


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65535 - layout.PORTS_PER_CLUSTER:
            pytest.skip(f"the system gave port {port}, too high for a block")
        result = run("start", "--no-install", "--folder", str(tmp_path / "c"), "--port", str(port))
    assert result.returncode == 1
    if "not installed" in result.stderr:
        pytest.skip("SLURM is not installed")
    assert f"ports in use: tried 200 from each of [{port}]" in result.stderr


def test_folders_begin_at_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOME))
    blocks = runpy.run_path(str(HOME / "start"))["port_blocks"]
    assert len({blocks(Path(f"/tmp/{i}"))[0] for i in range(20)}) > 10
    assert len(set(blocks(Path("/tmp/1")))) == len(blocks(Path("/tmp/1"))) == 50


def test_a_cluster_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.owner()
    monkeypatch.setattr(daemons.os, "geteuid", lambda: 54321)
    with pytest.raises(daemons.ClusterError, match=f"belongs to {owner}: do this as that user"):
        daemons.check_owner(tmp_path, root_may=True)
    monkeypatch.setattr(daemons.os, "geteuid", lambda: tmp_path.stat().st_uid)
    daemons.check_owner(tmp_path, root_may=False)
