"""Requests to an object store: counted by kind, bounded in time, tried again with jitter.

Three things may come of a try:

    an answer     of the server, that it was done, or why not
    a refusal     for the moment: 500, 502, 503, SlowDown and their like. Probably nothing was done
    no answer     reset, timeout, body cut short. What was asked may have been done all the same

s3fs owns connections, credentials and regions. Its own retries, and botocore's below, are switched off:
they would hide that an answer was lost, which is what a conditional request has to know.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec

from tokenmill.errors import MissingExtraError, StorageError

_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
_BUSY_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
"""Codes of refusals that another try may not meet. Bodies that arrived damaged are among them."""
_NO_ANSWER = {
    "ConnectionError",  # of botocore: endpoint not reached, connection closed, timeouts
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseParserError",
    "ResponseStreamingError",
    "ClientError",  # of aiohttp; botocore's is told apart by its response
    "OSError",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long and how often a request is tried."""

    deadline_seconds: float = 180.0
    """After this time no further try begins."""
    first_deadline_seconds: float = 45.0
    """The same before the store has answered for the first time: a wrong address shall be told soon."""
    request_seconds: float = 120.0
    """Most time of one try."""
    connect_seconds: float = 10.0
    """Most time until a connection stands."""
    first_wait_seconds: float = 0.1
    """Longest wait after the first try; doubled with each further one. The wait is drawn below it."""
    most_wait_seconds: float = 10.0
    """Longest wait between two tries."""


class RefusedError(StorageError):
    """The store answered that it will not do what was asked; or s3fs, that it cannot be asked.

    Attributes:
        status: of HTTP; 0 if nothing was sent.
    """

    def __init__(self, url: str, status: int, text: str) -> None:
        no_key = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials"
        super().__init__(
            "the object store refused a request", where=url, got=text, fix="" if status else no_key
        )
        self.status = status


class _BusyError(Exception):
    """Refused for the moment."""


class _LostError(Exception):
    """No whole answer: what was asked may have been done."""


@dataclass(kw_only=True)
class Client:
    """Requests to the object store of this process's credentials."""

    policy: Policy = field(default_factory=Policy)
    """How long and how often."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""

    def __post_init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._filesystem: Any = None
        self._has_answered = False

    def counts(self) -> dict[str, int]:
        """Tries so far by kind: get, put, head, list, delete; ``retries`` are those after a first."""
        with self._lock:
            return dict(self._counts)

    def call(
        self,
        kind: str,
        method: str,
        url: str,
        *,
        settle: Callable[[], Any] | None = None,
        check: Callable[[Mapping[str, Any]], str] | None = None,
        **arguments: Any,
    ) -> Any:
        """Answer of the store; a body is in it as bytes, and whole.

        Args:
            kind: how it is counted.
            method: of botocore's client for S3.
            url: what it is about, for messages.
            settle: called after a lost answer: what to return in its place, or None to try again.
            check: what is wrong with an answer; an answer that is not right is asked for again.
            **arguments: of the method.

        Raises:
            FileNotFoundError: the object is not there.
            PermissionError: it may not be read or written.
            RefusedError: the store refuses for another reason.
            StorageError: there was no answer before the deadline.
        """
        started = time.monotonic()
        tries = 0
        while True:
            self._count(kind, is_retry=tries > 0)
            tries += 1
            try:
                answer = self._once(method, url, arguments)
                self._has_answered = True
                complaint = check(answer) if check else ""
                if not complaint:
                    return answer
                error: Exception = _BusyError(complaint)
            except (_BusyError, _LostError) as caught:
                error = caught
                self._has_answered |= isinstance(error, _BusyError)
            is_late = self._is_late(started)
            if not is_late:
                self.sleep(self._pause(tries))
            settled = settle() if settle and isinstance(error, _LostError) else None
            if settled is not None:
                return settled
            if is_late:
                raise _gave_up(url, tries, time.monotonic() - started, error) from error

    def _count(self, kind: str, *, is_retry: bool) -> None:
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if is_retry:
                self._counts["retries"] = self._counts.get("retries", 0) + 1

    def _is_late(self, started: float) -> bool:
        policy = self.policy
        limit = policy.deadline_seconds if self._has_answered else policy.first_deadline_seconds
        return time.monotonic() - started >= limit

    def _pause(self, tries: int) -> float:
        """Seconds to wait after so many tries."""
        policy = self.policy
        longest = min(policy.most_wait_seconds, policy.first_wait_seconds * 2 ** min(tries - 1, 10))
        return random.uniform(longest / 2, longest)

    def _once(self, method: str, url: str, arguments: Mapping[str, Any]) -> Any:
        """One try, its errors put into the three kinds."""
        filesystem = self._connected()
        try:
            return fsspec.asyn.sync(filesystem.loop, self._perform, filesystem, method, arguments)
        except Exception as error:
            _raise_judged(error, url)
            raise

    async def _perform(self, filesystem: Any, method: str, arguments: Mapping[str, Any]) -> Any:
        async with asyncio.timeout(self.policy.request_seconds):
            await filesystem.set_session()
            client = await filesystem.get_s3(arguments["Bucket"])
            _send_once(client)
            answer = await getattr(client, method)(**arguments)
            if "Body" in answer:
                async with answer["Body"] as stream:
                    answer["Body"] = await stream.read()
                if len(answer["Body"]) != answer["ContentLength"]:
                    raise _LostError(f"{len(answer['Body'])} of {answer['ContentLength']} bytes")
            return answer

    def _connected(self) -> Any:
        with self._lock:
            if self._filesystem is None:
                self._filesystem = _filesystem(self.policy)
            return self._filesystem


def _gave_up(url: str, tries: int, seconds: float, error: Exception) -> StorageError:
    return StorageError(
        "the object store did not do what was asked",
        where=url,
        expected="an answer before the deadline",
        got=f"{tries} tries in {seconds:.0f} s; the last: {error}",
        fix="check the endpoint (AWS_ENDPOINT_URL) and the network, then tokenmill resume",
    )


def _filesystem(policy: Policy) -> Any:
    """s3fs, configured so that one call is one request and bodies are checked here."""
    try:
        kind = fsspec.get_filesystem_class("s3")
    except ImportError as error:
        raise MissingExtraError.of("for s3://", "s3", "s3://") from error
    own = fsspec.config.conf.get("s3", {})
    config = {
        "connect_timeout": policy.connect_seconds,
        "read_timeout": policy.request_seconds,
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        # checksums of parts sent as those of the whole (rclone), trailers that older stores refuse
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return kind(
        use_listings_cache=False,
        skip_instance_cache=True,
        **{**own, "config_kwargs": {**own.get("config_kwargs", {}), **config}},
    )


def _send_once(client: Any) -> None:
    """Keep aiohttp from repeating requests, conditional PUTs among them, on connections that were closed.

    s3fs looks at the same attributes. In a version without them a repeated PUT is refused because of itself,
    which ``S3Store`` notices; only the count is then too low.
    """
    http = getattr(getattr(client, "_endpoint", None), "http_session", None)
    for session in (getattr(http, "_sessions", None) or {}).values():
        session._retry_connection = False


def _raise_judged(error: Exception, url: str) -> None:
    """Raise what an error of botocore, aiohttp or the system means here; return if it is none of theirs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", ""))
        text = f"{status} {code} {response.get('Error', {}).get('Message', '')}".strip()
        if status in _BUSY_STATUS or code in _BUSY_CODES:
            raise _BusyError(text) from error
        if status == 404:
            raise FileNotFoundError(code) from error
        if status == 403:
            raise PermissionError(text) from error
        raise RefusedError(url, status, text) from error
    if any(kind.__name__ in _NO_ANSWER for kind in type(error).__mro__):
        raise _LostError(f"{type(error).__name__}: {error}") from error
    if type(error).__module__.startswith("botocore"):  # no credentials, no region, a wrong parameter
        raise RefusedError(url, 0, f"{type(error).__name__}: {error}") from error
