"""Every error that a user can meet, in one tree.

    TokenmillError
    ├── ConfigError        a recipe, a site or an override is wrong
    ├── MissingExtraError  an optional package is not installed
    ├── InputError         input is missing, empty or unreadable
    ├── FormatError        a file is not what its format promises
    ├── StorageError       a file could not be written or read
    ├── IdentityError      a folder holds something else than what is asked for
    ├── VersionError       a worker or a file is of another version
    ├── SubmissionError    the scheduler refused a submission
    ├── JobError           a job ended without all its shards
    ├── GangError          ranks of one gang do not agree
    │   ├── WorldError     they are not the ranks that the job asks for
    │   ├── HangError      they show no progress
    │   └── StartError     they were ended before all of them were there
    └── TrainingError      training cannot go on: a loss that is not finite

A message says what happened, where, what was expected against what was found, and what to do next.
"""

from typing import Any


class TokenmillError(Exception):
    """An error whose message a user can act on.

    Args:
        what: one sentence: what happened.
        where: job, shard, rank, path, or key.
        expected: what was expected.
        got: what was found.
        fix: what to do next.
    """

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", got: str = "", fix: str = ""
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        parts = [("where", where), ("expected", expected), ("got", got), ("fix", fix)]
        super().__init__("\n".join([what, *(f"  {key}: {value}" for key, value in parts if value)]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep every field when the error crosses a process border."""
        return type(self), (self.what,), dict(self.__dict__, args=self.args)


class ConfigError(TokenmillError):
    """A recipe, a site or an override is wrong."""


class MissingExtraError(TokenmillError):
    """An optional package is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> "MissingExtraError":
        """Name the package, what needs it, and the extra that installs it."""
        return cls(
            f"the package {package} is not installed",
            where=purpose,
            fix=f"pip install 'tokenmill[{extra}]'",
        )


class InputError(TokenmillError):
    """Input is missing, empty or unreadable."""


class FormatError(TokenmillError):
    """A file is not what its format promises."""


class StorageError(TokenmillError):
    """A file could not be written or read."""


class IdentityError(TokenmillError):
    """A folder holds something else than what is asked for."""


class VersionError(TokenmillError):
    """A worker or a file is of another version."""


class SubmissionError(TokenmillError):
    """The scheduler refused a submission."""


class JobError(TokenmillError):
    """A job ended without all its shards."""


class GangError(TokenmillError):
    """The ranks of one gang do not agree."""


class WorldError(GangError):
    """The ranks are not those that the job asks for; started the same way, they never will be."""


class HangError(GangError):
    """The ranks of a gang show no progress."""


class StartError(GangError):
    """The ranks of a gang were ended before all of them were there."""


class TrainingError(TokenmillError):
    """Training cannot go on."""
