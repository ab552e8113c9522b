"""What a command is: its options, how it speaks, and how its errors look."""

import contextlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any

import typer

import tokenmill
from tokenmill.errors import TokenmillError


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command speaks."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print as little as possible.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def show(self, value: Any, table: Callable[[], object], quiet: str = "") -> None:
        """Print plain values as JSON, or quiet lines, or a table."""
        if self.json:
            print(json.dumps(value, indent=1, ensure_ascii=False))
        elif self.quiet:
            print(quiet, end="\n" if quiet else "")
        else:
            table()


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command: its groups of options become options, its errors one block on stderr."""
    parameters = inspect.signature(function).parameters
    groups: dict[str, Any] = {
        key: item.annotation for key, item in parameters.items() if is_dataclass(item.annotation)
    }
    flat = [item for key, item in parameters.items() if key not in groups]
    for cls in groups.values():
        flat += [
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type
            )
            for item in fields(cls)
        ]

    def spoken(**values: Any) -> None:
        for key, cls in groups.items():
            values[key] = cls(**{item.name: values.pop(item.name) for item in fields(cls)})
        with _errors(values["output"].debug):
            function(**values)

    spoken.__name__, spoken.__doc__ = function.__name__, function.__doc__
    spoken.__annotations__ = {item.name: item.annotation for item in flat}
    spoken.__dict__["__signature__"] = inspect.Signature(flat)  # typer reads options from it
    app.command()(spoken)
    return function


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Print an error as one block and exit; no traceback unless it is asked for."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        print(
            "interrupted; `tokenmill resume` goes on. Tasks in SLURM's queue go on by themselves; "
            "`tokenmill cancel` ends them",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, TokenmillError):
            message = str(error)
        else:
            message = (
                f"{type(error).__name__}: {error}\n  fix: this is not foreseen; --debug shows where it is"
            )
        print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(1) from None


RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of one in configs/recipes.")]
RunArgument = Annotated[str, typer.Argument(help="Folder of the run.")]
RunOption = Annotated[str, typer.Option("--run-dir", help="Folder of the run; new, or to go on with.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Submit to SLURM and return.")]
ControllerOption = Annotated[
    str,
    typer.Option(
        "--controller",
        metavar="KIND",
        help="Who drives on SLURM: this process; a job that submits its successor (job); "
        "or nobody but a short job after the end of all that is queued (gate).",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value by dotted path; may come often."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tokenmill {tokenmill.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Turn web crawl into an evaluated language model, on one machine or a SLURM cluster."""
