"""The command ``tokenmill``: few verbs over runs; values come from recipes, sites and ``--set``.

    tokenmill plan RECIPE --run-dir D      what would be done; nothing is written or submitted
    tokenmill plan ... --simulate S        rehearse it on a simulated cluster
    tokenmill run RECIPE --run-dir D       do it, or go on with it
    tokenmill status D                     how far it is; --watch
    tokenmill logs D JOB/SHARD             what the attempts wrote
    tokenmill attach D JOB/SHARD           follow what an attempt writes now; --shell
    tokenmill resume D                     go on, failed shards included
    tokenmill drive D                      what a job that drives a run does
    tokenmill cancel D                     end what runs
    tokenmill report D                     write report.json and report.html
    tokenmill explain D JOB/SHARD          why it is where it is
    tokenmill verify D                     whether every committed file is whole; --repair
    tokenmill gc D                         remove what no record names

Every command speaks table, ``--json`` and ``--quiet``. Errors are one block on stderr: exit code 1, or 2 for
wrong usage.
"""

from tokenmill.cli import driving, keeping, looking, running
from tokenmill.cli.command import app

__all__ = ["app", "driving", "keeping", "looking", "main", "running"]

_ORDER = (
    "plan",
    "run",
    "status",
    "logs",
    "attach",
    "resume",
    "drive",
    "cancel",
    "report",
    "explain",
    "verify",
    "gc",
)


def _place(verb: object) -> int:
    name = getattr(verb, "__name__", "")
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


app.registered_commands.sort(key=lambda verb: _place(verb.callback))  # help shows them in this order


def main() -> None:
    """Entry of the command."""
    app(prog_name="tokenmill")
