"""What a cluster is like: values of ``slurm/<site>.yaml``, never jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Mail:
    """How mail leaves this site."""

    program: str = "sendmail"
    """Program that reads a message with its headers, as ``sendmail -t`` does."""
    smtp_host: str = ""
    """Server that takes mail; the program is not used then."""
    smtp_port: int = 25
    """Its port."""
    sender: str = ""
    """Address that mail comes from; the user at this host if empty."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A SLURM cluster as one group of users sees it."""

    name: str
    """Name of the site."""
    partition: str = ""
    """Partition of CPU jobs; the cluster's default if empty."""
    gpu_partition: str = ""
    """Partition of jobs that ask for GPUs; ``partition`` if empty."""
    account: str = ""
    """Account to charge."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Node features that jobs need."""
    environment: tuple[str, ...] = ()
    """Names of variables passed from the submitting shell to jobs; nothing else is passed."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables set in jobs. Values stand in scripts for all to read: no secrets."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Variable of the workers -> file of mode 0600, on every node, that holds its value."""
    notify: tuple[str, ...] = ()
    """Who is told of a run's end: mailto:ADDRESS, or file:PATH or env:NAME that holds a webhook's URL."""
    mail: Mail = Mail()
    """How mail leaves this site."""
    setup: tuple[str, ...] = ()
    """Shell lines run before the worker (modules, containers)."""
    python: str = ""
    """Python of the workers; the submitting one if empty."""
    max_array_size: int = 0
    """Largest array of the cluster; 0: ask ``scontrol show config``."""
    max_tasks: int = 1000
    """Most array tasks that one launch of a job asks for."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of ``srun`` for gangs."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Further ``sbatch`` flags, without dashes."""
    signal_seconds: int = 90
    """Notice before the time limit, in seconds."""
    poll_seconds: float = 10.0
    """Seconds between two looks at the queue."""
    controller_seconds: int = 86_400
    """Time limit of a driver that is itself a job, in seconds; it submits its successor before that."""
    settle_seconds: float = 3.0
    """A launch has ended after so many seconds out of the queue; on NFS as long as it caches names (60)."""
    core_hour_cost: float = 0.0
    """Price of a core-hour, in any currency."""
    gpu_hour_cost: float = 0.0
    """Price of a GPU-hour, in the same currency."""
