"""Optional packages of the data hall: missing ones give a clear error, untyped ones get a type."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

from tokenmill.errors import MissingExtraError

Function = TypeVar("Function", bound=Callable[..., Any])


def optional(module: str, purpose: str) -> Any:
    """Import a module of the ``data`` extra.

    Args:
        module: dotted name.
        purpose: what needs it, for the error message.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError.of(module.split(".", 1)[0], "data", f"{purpose} ({error})") from error


def compiled(function: Function) -> Function:
    """Compile a function over numpy arrays to machine code, at its first call and cached on disk."""
    numba = optional("numba", f"the kernel {function.__name__}")
    return cast("Function", numba.njit(cache=True, nogil=True)(function))
