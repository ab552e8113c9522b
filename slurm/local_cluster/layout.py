"""What a local cluster is, and every file that configures it, as pure functions of one value.

    Cluster ──files()──> {"etc/slurm.conf": text, "etc/n1/mpi.conf": text, "env.sh": text, ...}

All daemons of a cluster listen on loopback, at ports counted from one base, and keep everything below one
folder, so that several clusters live side by side and nothing in /etc is read or written.
"""

from dataclasses import dataclass
from pathlib import Path

PORTS_PER_CLUSTER = 200
MAX_NODES = 180
_FIRST_NODE_PORT = 10


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A SLURM cluster on one machine."""

    folder: Path
    """Holds configuration, logs, sockets, state."""
    host: str
    """Short name of this machine."""
    user: str
    """Who runs the daemons."""
    port: int
    """First port; see PORTS_PER_CLUSTER."""
    nodes: int = 4
    """Number of slurmd."""
    cpus: int = 8
    """CPUs that each node pretends to have."""
    memory: int = 16000
    """Megabytes that each node pretends to have."""
    gpus: int = 0
    """Pretended GPUs of each node in the first half of the nodes."""
    max_array_size: int = 1001
    """MaxArraySize: the largest array index is one less."""
    accounting: bool = False
    """Run a database and slurmdbd, so that sacct answers."""
    slurmd_timeout: int = 15
    """Seconds of silence after which a node is DOWN."""
    message_timeout: int = 20
    """Seconds that programs and daemons wait for an answer."""
    gpu_device: str = ""
    """Path prefix of the devices that stand for GPUs; empty: GPUs are only counted."""

    @property
    def socket(self) -> Path:
        """Where munged listens."""
        return self.folder / "run/munge.sock"

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"n{i + 1}" for i in range(self.nodes)]

    @property
    def gpu_nodes(self) -> int:
        """How many nodes, counted from the first, have GPUs."""
        return (self.nodes + 1) // 2 if self.gpus else 0

    def port_of(self, daemon: str) -> int:
        """Port of ``slurmctld``, ``slurmdbd``, ``mariadb`` or of a node by its name."""
        fixed = {"slurmctld": 0, "slurmdbd": 1, "mariadb": 2}
        place = fixed[daemon] if daemon in fixed else _FIRST_NODE_PORT + self.names.index(daemon)
        return self.port + place

    @property
    def ports(self) -> list[int]:
        """Every port that the cluster listens on."""
        database = ["slurmdbd", "mariadb"] if self.accounting else []
        return [self.port_of(name) for name in ["slurmctld", *database, *self.names]]


def _lines(settings: dict[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _identity(cluster: Cluster) -> dict[str, object]:
    at = cluster.folder
    return {
        "ClusterName": "tokenmill",
        "SlurmctldHost": f"{cluster.host}(127.0.0.1)",
        "SlurmctldPort": cluster.port_of("slurmctld"),
        "SlurmUser": cluster.user,
        "SlurmdUser": cluster.user,
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # a requeued job starts again only when its old credential has expired, after two minutes by default
        "AuthInfo": f"socket={cluster.socket},cred_expire=5",
        "StateSaveLocation": at / "state",
        "SlurmdSpoolDir": at / "spool/%n",
        "SlurmctldPidFile": at / "run/slurmctld.pid",
        "SlurmdPidFile": at / "run/slurmd.%n.pid",
        "SlurmctldLogFile": at / "log/slurmctld.log",
        "SlurmdLogFile": at / "log/slurmd.%n.log",
        "PlugStackConfig": at / "etc/plugstack.conf",
        "MailProg": "/bin/true",
    }


def _behaviour(cluster: Cluster) -> dict[str, object]:
    scheduler = ["batch_sched_delay=0", "sched_min_interval=0", "sched_interval=2", "bf_interval=3"]
    scheduler += ["default_queue_depth=10000", f"max_array_tasks={cluster.max_array_size}"]
    return {
        # no cgroups: they need root and the host's consent
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=2",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "SlurmdParameters": "config_overrides",  # believe this file, not the hardware
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "GresTypes": "gpu",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": ",".join([*scheduler, "nohold_on_prolog_fail"]),
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmctldParameters": "preempt_send_user_signal",
        "ReturnToService": 2,
        "SlurmctldTimeout": 30,
        "SlurmdTimeout": cluster.slurmd_timeout,
        "MessageTimeout": cluster.message_timeout,
        "BatchStartTimeout": 15,
        "UnkillableStepTimeout": 30,
        "KillWait": 5,
        "InactiveLimit": 0,
        "MinJobAge": 600,
        "JobRequeue": 1,
        "MaxArraySize": cluster.max_array_size,
        "MaxJobCount": 100000,
        "DefMemPerCPU": 100,
    }


def _accounting(cluster: Cluster) -> dict[str, object]:
    if not cluster.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": cluster.port_of("slurmdbd"),
        # clients of slurmdbd take the munge socket from here, not from AuthInfo
        "AccountingStoragePass": cluster.socket,
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStoreFlags": "job_env,job_script",  # what jobs see is on record, as on many clusters
    }


def _nodes(cluster: Cluster) -> str:
    size = f"CPUs={cluster.cpus} RealMemory={cluster.memory}"
    lines = []
    for i, name in enumerate(cluster.names):
        gres = f" Gres=gpu:{cluster.gpus}" if i < cluster.gpu_nodes else ""
        place = f"NodeHostname={cluster.host} NodeAddr=127.0.0.1 Port={cluster.port_of(name)}"
        lines.append(f"NodeName={name} {place} {size} State=UNKNOWN{gres}\n")
    return "".join(lines)


def _partitions(cluster: Cluster) -> str:
    every = f"n[1-{cluster.nodes}]"
    rows = [
        ("cpu", every, "Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF"),
        ("low", every, "MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10"),
        ("high", every, "MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF"),
        ("short", every, "MaxTime=1 PriorityTier=10 PreemptMode=OFF"),
    ]
    if cluster.gpus:
        rows.append(("gpu", f"n[1-{cluster.gpu_nodes}]", "MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF"))
    return "".join(f"PartitionName={name} Nodes={nodes} {rest}\n" for name, nodes, rest in rows)


def slurm_conf(cluster: Cluster) -> str:
    """Text of slurm.conf; sources: slurm.conf(5) of Slurm 22.05."""
    settings = {**_identity(cluster), **_behaviour(cluster), **_accounting(cluster)}
    return _lines(settings) + _nodes(cluster) + _partitions(cluster)


def slurmdbd_conf(cluster: Cluster) -> str:
    """Text of slurmdbd.conf, whose file only its owner may read."""
    return _lines(
        {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={cluster.socket}",
            "DbdHost": cluster.host,
            "DbdAddr": "127.0.0.1",
            "DbdPort": cluster.port_of("slurmdbd"),
            "SlurmUser": cluster.user,
            "LogFile": cluster.folder / "log/slurmdbd.log",
            "PidFile": cluster.folder / "run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": cluster.port_of("mariadb"),
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm_acct",
        }
    )


def gres_conf(cluster: Cluster) -> str:
    """Text of gres.conf; with devices, SLURM sets CUDA_VISIBLE_DEVICES."""
    if not cluster.gpus:
        return ""
    device = f" File={cluster.gpu_device}[0-{cluster.gpus - 1}]" if cluster.gpu_device else ""
    return f"NodeName=n[1-{cluster.gpu_nodes}] Name=gpu Count={cluster.gpus}{device}\n"


def env_sh(cluster: Cluster) -> str:
    """Text of the file to source before sbatch, srun or squeue."""
    return (
        f"export SLURM_CONF={cluster.folder}/etc/slurm.conf\n"
        'case ":$PATH:" in *:/usr/sbin:*) ;; *) export PATH="$PATH:/usr/sbin" ;; esac\n'
        "# the nodes share one host, so ranks must meet over loopback and not through shared memory\n"
        "export GLOO_SOCKET_IFNAME=lo OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo\n"
    )


def files(cluster: Cluster) -> dict[str, str]:
    """Every configuration file: path below the cluster's folder -> text."""
    shared = {
        "slurm.conf": slurm_conf(cluster),
        "gres.conf": gres_conf(cluster),
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        "plugstack.conf": "",
    }
    out = {f"etc/{name}": text for name, text in shared.items()}
    for node in cluster.names:  # one folder each, as PMIx needs a temporary folder of its own on every node
        out |= {f"etc/{node}/{name}": text for name, text in shared.items()}
        out[f"etc/{node}/mpi.conf"] = f"PMIxCliTmpDirBase={cluster.folder}/spool/{node}.pmix\n"
    if cluster.accounting:
        out["etc/slurmdbd.conf"] = slurmdbd_conf(cluster)
    return out | {"env.sh": env_sh(cluster)}
