"""Batch scripts as pure functions: golden files, and what SLURM's answers are taken to mean."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from tokenmill.errors import ConfigError, SubmissionError
from tokenmill.executors import slurm, slurm_client
from tokenmill.executors.job import Job, Part, Resources, identity_of
from tokenmill.executors.launch import Launch
from tokenmill.executors.preview import PREVIEW_TOKEN
from tokenmill.executors.site import Site

GOLDEN = Path(__file__).parent / "golden"
SITE = Site(
    name="golden",
    partition="cpu",
    gpu_partition="gpu",
    account="lab",
    environment=("HF_HOME",),
    variables={"OMP_NUM_THREADS": "1", "NOTE": "two words"},
    setup=("module load python/3.11",),
    python="/opt/python/bin/python",
    srun_args=("--mpi=none",),
    flags={"exclude": "n7"},
    max_array_size=11,
)


class NoFolder:
    """A job's folder that holds a job and nothing else."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.url = f"/scratch/run 1/100%/jobs/{job.name}-0123456789"

    def at(self, *parts: str) -> str:
        return "/".join([self.url, *parts])


def launch_of(job: Job, tasks: int) -> Launch:
    return Launch(token=PREVIEW_TOKEN, folder=NoFolder(job), num_tasks=tasks)  # type: ignore[arg-type]


ARRAY = Job(name="filter", entry="x.y", resources=Resources(tasks=16, cpus=2, memory_bytes=4_000_000_000))
GANG = Job(
    name="train",
    entry="x.y",
    layout="gang",
    resources=Resources(tasks=4, cpus=8, gpus=1, memory_bytes=64_000_000_000, time_seconds=86_400),
)
PARTS = (
    Part(ranks=1, cpus=4, memory_bytes=16_000_000_000, constraint="bigmem"),
    Part(ranks=3, cpus=8, gpus=1, memory_bytes=64_000_000_000),
)
UNEVEN = Job(
    name="train",
    entry="x.y",
    layout="gang",
    resources=Resources(tasks=4, time_seconds=86_400, segments=3, parts=PARTS),
)


@pytest.mark.parametrize(
    ("name", "job", "tasks", "chunk", "parents"),
    [
        ("array_first_chunk", ARRAY, 16, 0, ()),
        ("array_second_chunk", ARRAY, 16, 1, ("41", "42")),
        ("gang", GANG, 4, 0, ("43",)),
        ("gang_of_parts_second_segment", UNEVEN, 4, 1, ("43",)),
    ],
)
def test_scripts_equal_their_golden_files(
    name: str, job: Job, tasks: int, chunk: int, parents: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    launch = launch_of(job, tasks)
    chunks = slurm.chunks_of(launch, 11)
    previous = "44" if chunks[chunk].segment else ""
    script = slurm.batch_script(launch, chunks[chunk], SITE, parents, previous)
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("TOKENMILL_ACCEPT"):
        path.write_text(script)
    assert script == path.read_text(), (
        f"the script changed; if that is meant: TOKENMILL_ACCEPT=1 pytest {__file__}, then read the diff"
    )


def test_arrays_are_cut_to_exact_sizes() -> None:
    chunks = slurm.chunks_of(launch_of(ARRAY, 25), 11)
    assert [(chunk.first_task, chunk.num_tasks) for chunk in chunks] == [(0, 11), (11, 11), (22, 3)]
    scripts = [slurm.batch_script(launch_of(ARRAY, 25), chunk, SITE, ()) for chunk in chunks]
    assert ["--array=0-10%11" in scripts[0], "--array=0-2%3" in scripts[2]] == [True, True]
    assert len(slurm.chunks_of(launch_of(GANG, 25), 11)) == 1


def test_segments_of_a_gang_follow_each_other() -> None:
    launch = launch_of(UNEVEN, 4)
    scripts = slurm.SlurmExecutor(SITE).preview(launch)
    waits = [[line for line in script.splitlines() if "--dependency" in line] for script in scripts]
    assert waits == [
        [],
        [f"#SBATCH --dependency=afterany:ID_OF_tokenmill-train-{PREVIEW_TOKEN}-c0"],
        [f"#SBATCH --dependency=afterany:ID_OF_tokenmill-train-{PREVIEW_TOKEN}-c1"],
    ]
    assert [f"--segment {number}" in script for number, script in enumerate(scripts)] == [True] * 3


def test_what_only_a_gang_has_is_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match="only a gang has segments"):
        Job(name="a", entry="x.y", resources=Resources(segments=2))
    with pytest.raises(ConfigError, match="only a gang has parts"):
        Job(name="a", entry="x.y", resources=Resources(tasks=4, parts=PARTS))


def test_parts_must_add_up() -> None:
    with pytest.raises(ConfigError, match=r"do not add up(.|\n)*got: 1 \+ 3\n  fix: set tasks to 4"):
        Resources(tasks=5, parts=PARTS)
    with pytest.raises(ConfigError, match="needs a segment"):
        Resources(segments=0)
    plain = json.loads(json.dumps(dataclasses.asdict(UNEVEN.resources)))
    assert Resources(**plain) == UNEVEN.resources  # as records hold it


def test_parts_are_placement_and_their_sum_is_identity() -> None:
    same = Job(name="train", entry="x.y", layout="gang", resources=Resources(tasks=4))
    other = Job(name="train", entry="x.y", layout="gang", resources=Resources(tasks=5))
    assert identity_of(UNEVEN, {}) == identity_of(same, {}) != identity_of(other, {})


def test_every_array_of_every_parent_is_waited_for() -> None:
    script = slurm.batch_script(
        launch_of(ARRAY, 1), slurm.chunks_of(launch_of(ARRAY, 1), 11)[0], SITE, ("1", "2")
    )
    assert "#SBATCH --dependency=afterok:1:2\n" in script
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in script


def test_environment_is_passed_by_name_only() -> None:
    launch = launch_of(ARRAY, 1)
    script = slurm.batch_script(launch, slurm.chunks_of(launch, 11)[0], SITE, ())
    exports = next(line for line in script.splitlines() if "--export" in line)
    assert exports == f"#SBATCH --export={','.join((*slurm.ALLOWED, 'HF_HOME'))}"


def fake(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_missing_programs_are_named(programs: Path) -> None:
    with pytest.raises(SubmissionError, match="sbatch is not on PATH"):
        slurm_client.check_programs()


def test_a_refused_submission_says_why(programs: Path) -> None:
    fake(programs, "sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    fake(programs, "squeue", "exit 0")
    with pytest.raises(SubmissionError, match="invalid partition specified: nope"):
        slurm_client.submit("tokenmill-x-1-c0", "/x/job.sbatch", "x")


def test_sbatch_sees_the_named_variables_alone_and_exports_all(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("SLURM_CONF", "/c/slurm.conf")
    monkeypatch.setenv("A_KEY", "not for jobs")
    seen = tmp_path / "seen"
    fake(programs, "sbatch", f'echo "$*" >{seen}; export -p >>{seen}; echo Submitted batch job 79')
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/bash\n#SBATCH --export=PATH,WANTED,ABSENT\n")
    assert slurm_client.submit("tokenmill-x-1-c0", str(script), "x") == "79"
    first, *lines = seen.read_text().splitlines()
    assert first == f"--export=ALL {script}"
    names = {line.split("=")[0].removeprefix("export ") for line in lines}
    assert {"WANTED", "SLURM_CONF", "PATH"} <= names
    assert not names & {"A_KEY", "ABSENT"}


@pytest.mark.parametrize("asked", ["NONE", "ALL", "NIL", "PATH,X=1"])
def test_another_export_that_a_site_asks_for_is_left_alone(
    programs: Path, tmp_path: Path, asked: str
) -> None:
    seen = tmp_path / "seen"
    fake(programs, "sbatch", f'echo "$*" >{seen}; echo Submitted batch job 79')
    script = tmp_path / "job.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --export={asked}\n")
    slurm_client.submit("tokenmill-x-1-c0", str(script), "x")
    assert seen.read_text() == f"{script}\n"


def test_an_accepted_submission_that_looked_refused_is_adopted(programs: Path) -> None:
    fake(programs, "sbatch", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    fake(programs, "squeue", "echo 77; echo 77")
    assert slurm_client.submit("tokenmill-x-1-c0", "/x/job.sbatch", "x") == "77"


def test_a_submission_without_answer_is_made_again_only_if_the_queue_does_not_know_it(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_client, "_PAUSE_SECONDS", 0.05)
    calls, asked = tmp_path / "calls", tmp_path / "asked"
    first = (
        f"[ -e {calls}2 ] && exit 9; [ -e {calls} ] && : > {calls}2 && echo Submitted batch job 78 && exit 0"
    )
    fake(programs, "sbatch", f"{first}; : > {calls}; echo 'Unable to contact slurm controller' >&2; exit 1")
    # the controller is silent at first, and then knows nothing
    silence = (
        f"[ -e {asked}1 ] || {{ : > {asked}1; exit 1; }}; [ -e {asked}2 ] || {{ : > {asked}2; exit 1; }}"
    )
    fake(programs, "squeue", f"{silence}; echo x >> {asked}; exit 0")
    assert slurm_client.submit("tokenmill-x-1-c0", "/x/job.sbatch", "x") == "78"
    assert len(asked.read_text().split()) == 2  # it answered, and was asked once more


def test_nothing_is_concluded_while_squeue_does_not_answer(programs: Path) -> None:
    fake(programs, "squeue", "exit 1")
    executor = slurm.SlurmExecutor(SITE)
    assert executor.live([launch_of(ARRAY, 1)]) is None
    fake(programs, "squeue", f"echo 'tokenmill-filter-{PREVIEW_TOKEN}-c0|PENDING'; echo 'other|RUNNING'")
    assert executor.live([launch_of(ARRAY, 1)]) == {PREVIEW_TOKEN}
    fake(programs, "squeue", "echo 'tokenmill-filter-12345678-c0|RUNNING'")
    assert executor.live([launch_of(ARRAY, 1)]) == set()


def test_array_size_comes_from_the_cluster(programs: Path) -> None:
    fake(programs, "scontrol", "echo 'MaxArraySize            = 4001'")
    assert slurm.SlurmExecutor(Site(name="s")).max_array_size == 4001
    fake(programs, "scontrol", "echo nothing")
    with pytest.raises(SubmissionError, match="does not say its MaxArraySize"):
        _ = slurm.SlurmExecutor(Site(name="s")).max_array_size


def test_a_run_folder_out_of_reach_of_nodes_is_refused() -> None:
    folder = NoFolder(ARRAY)
    folder.url = "s3://bucket/run"
    with pytest.raises(ConfigError, match="shared file system"):
        slurm.check_folder(folder)  # type: ignore[arg-type]


def test_the_worker_python_is_this_one_unless_the_site_says_otherwise() -> None:
    launch = launch_of(ARRAY, 1)
    script = slurm.batch_script(launch, slurm.chunks_of(launch, 11)[0], Site(name="s"), ())
    assert f"exec {sys.executable} -u -m tokenmill.executors.worker" in script
