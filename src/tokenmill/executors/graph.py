"""A recipe laid out in a run folder: every job gets its identity, its folder and its sources."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import tokenmill
from tokenmill import storage
from tokenmill.errors import IdentityError
from tokenmill.executors.job import Job, Recipe, identity_of
from tokenmill.executors.ledger import JobFolder, Source
from tokenmill.executors.status import read_run

_FORMAT = 1
_OWN = ("driver.json", "drivers", "jobs")
"""What a driver writes before run.json: it may have died in between."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A job of a run and its folder."""

    job: Job
    """The job."""
    identity: str
    """Digest of what fixes its output."""
    folder: JobFolder
    """Its folder."""
    sources: Mapping[str, Source]
    """Where its inputs come from."""
    parents: tuple[str, ...]
    """Jobs it waits for."""


def lay_out(recipe: Recipe, run_url: str) -> dict[str, Node]:
    """Nodes of a recipe in order of the graph; nothing is written."""
    nodes: dict[str, Node] = {}
    for job in recipe.in_order():
        sources: dict[str, Source] = {}
        identities: dict[str, str] = {}
        for name, reference in job.inputs.items():
            parent, _, port = reference.partition(".")
            if parent in nodes:
                sources[name] = Source(folder=nodes[parent].folder.url, port=port)
                identities[name] = f"{nodes[parent].identity}.{port}"
            else:
                paths = tuple(storage.absolute(path) for path in recipe.inputs[reference])
                sources[name] = Source(paths=paths)
                identities[name] = "\n".join(paths)
        identity = identity_of(job, identities)
        folder = JobFolder(storage.join(run_url, "jobs", f"{job.name}-{identity[:10]}"))
        nodes[job.name] = Node(
            job=job, identity=identity, folder=folder, sources=sources, parents=recipe.parents(job)
        )
    return nodes


def refuse_foreign(recipe: Recipe, run_url: str) -> None:
    """Refuse a folder that cannot be, or become, a run of a recipe; nothing is written.

    Raises:
        IdentityError: it holds a run of another recipe, or something that is no run.
    """
    if storage.exists(storage.join(run_url, "run.json")):
        old = read_run(run_url)["name"]
        if old != recipe.name:
            raise IdentityError(
                "the run folder holds a run of another recipe",
                where=run_url,
                expected=recipe.name,
                got=old,
                fix="choose another --run-dir",
            )
    elif names := [name for name in storage.list_names(run_url) if name not in _OWN]:
        raise IdentityError(
            "the folder is not empty and holds no run",
            where=run_url,
            expected="an empty folder, or one with run.json",
            got=", ".join(names[:5]),
            fix="choose another --run-dir",
        )


def write_run(recipe: Recipe, run_url: str, nodes: Mapping[str, Node]) -> None:
    """Record the run and its jobs.

    Raises:
        IdentityError: the folder holds a run of another recipe, or something that is no run.
    """
    refuse_foreign(recipe, run_url)
    url = storage.join(run_url, "run.json")
    created = read_run(run_url)["created"] if storage.exists(url) else time.time()
    for node in nodes.values():
        node.folder.write_job(node.job, node.identity, node.sources)
    rows = [
        {
            "name": node.job.name,
            "identity": node.identity,
            "folder": f"jobs/{node.job.name}-{node.identity[:10]}",
            "parents": list(node.parents),
        }
        for node in nodes.values()
    ]
    value = {
        "format": _FORMAT,
        "name": recipe.name,
        "tokenmill": tokenmill.__version__,
        "created": created,
        "recipe": asdict(recipe),
        "jobs": rows,
    }
    storage.write_atomic(url, storage.dump_json(value, indent=1))
