"""S3 as the runs use it: every request is bounded, tried again with growing pauses, and told in a sentence.

`pipelines.store` registers it with fsspec under ``s3://``, so that sources read through it too. What a
site wants otherwise goes into fsspec's own configuration, as for any filesystem: the environment variable
``FSSPEC_S3='{"config_kwargs": {"read_timeout": 60, "retries": {"total_max_attempts": 20}}}'``, say.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from http.client import IncompleteRead
from typing import Any

from aiohttp import ClientError as BrokenBody
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from pipelines import retries
from pipelines.errors import RequestError, RunError

PATIENCE = {"connect_timeout": 10.0, "read_timeout": 20.0}
"""Seconds of silence after which a request is given up."""

ATTEMPTS = 10
LONGEST_PAUSE = 20.0
"""Seconds; the first pause is a fifth of one, and each is twice the one before: a minute in all."""

PART_BYTES = 16 << 20
"""Of an upload in parts, which a file of twice as many is: a fault costs a part, not the whole."""

BUSY = frozenset({408, 429, 500, 502, 503, 504})
BUSY_CODES = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "BadDigest"})
SILENT = (TimeoutError, asyncio.TimeoutError)
PASSING = (HTTPClientError, BrokenBody, IncompleteRead, ResponseParserError, ConnectionError, *SILENT)


class Unanswered(RunError, OSError):
    """A request that was not answered in time, however often it was made.

    Of a sample it may be that sample's fault, so it is an error that a reader takes for one of its file;
    any other exhaustion is the store's, and ends the run.
    """


class S3(S3FileSystem):  # type: ignore[misc]
    """An S3 store that is busy, slow or cut off now and then.

    All requests go through `_call_s3`, and there alone they are repeated: s3fs and botocore, which would
    multiply their attempts, make one each. Listings are not cached, since other machines write too.
    """

    retries = 1
    attempts = ATTEMPTS

    def __init__(self, *args: Any, use_listings_cache: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, use_listings_cache=use_listings_cache, **kwargs)

    def _prepare_config_kwargs(self) -> dict[str, Any]:
        wanted = {**PATIENCE, **self.config_kwargs}
        self.attempts = int(wanted.get("retries", {}).get("total_max_attempts", ATTEMPTS))
        return {**wanted, "retries": {"total_max_attempts": 1}}

    async def _call_s3(self, method: str, *parameters: Any, **arguments: Any) -> Any:
        where = "s3://" + "/".join(filter(None, (arguments.get("Bucket"), arguments.get("Key"))))
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                return await self._answer(method, *parameters, **arguments)
            except (OSError, BotoCoreError, ClientError, *PASSING) as error:
                if not _passes(error):
                    if (told := _told(error, where)) is error:
                        raise
                    raise told from error
                if attempt >= self.attempts:
                    raise _given_up(error, where, method, attempt, time.monotonic() - began) from error
            retries.count()
            pause = min(LONGEST_PAUSE, 0.1 * 2**attempt)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # not all at once

    call_s3 = sync_wrapper(_call_s3)

    async def _answer(self, method: str, *parameters: Any, **arguments: Any) -> Any:
        """One attempt: the answer with its body, which may break off as well."""
        answer = await super()._call_s3(method, *parameters, **arguments)
        if method == "get_object":
            async with answer["Body"] as body:
                answer["Body"] = _Body(await body.read())
        for error in answer.get("Errors", []) if method == "delete_objects" else []:
            status = {"HTTPStatusCode": 503 if error.get("Code") in BUSY_CODES else 403}
            raise ClientError({"Error": error, "ResponseMetadata": status}, method)
        return answer

    async def _pipe_file(self, path: str, data: bytes, chunksize: int = PART_BYTES, **kwargs: Any) -> Any:
        chunksize = max(chunksize, -(-len(data) // 10_000))  # no upload has more parts
        if len(data) < 2 * chunksize:
            return await super()._pipe_file(path, data, chunksize=chunksize, **kwargs)
        try:
            return await super()._pipe_file(path, data, chunksize=chunksize, **kwargs)
        except FileNotFoundError:  # the upload ended, but its last answer was lost: whole once more
            return await super()._pipe_file(path, data, chunksize=chunksize, **kwargs)


class _Body:
    """What was read, in the place of the stream it came from."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        return self._data.read(size)

    def close(self) -> None:
        self._data.close()


def _response(error: BaseException) -> dict[str, Any] | None:
    """What the store answered; s3fs puts an error of its own before botocore's."""
    found = error if isinstance(error, ClientError) else error.__cause__
    return found.response if isinstance(found, ClientError) else None


def _passes(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    response = _response(error)
    if response is None:
        return isinstance(error, PASSING)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in BUSY or response.get("Error", {}).get("Code") in BUSY_CODES


def _told(error: Exception, where: str) -> Exception:
    """An error that no repetition mends, with the place in it."""
    if isinstance(error, NoCredentialsError):
        return RequestError(
            f"there are no credentials for {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give"
            " the machines a role, here and on every worker"
        )
    code = (_response(error) or {}).get("Error", {}).get("Code")
    if code == "NoSuchBucket":
        bucket = "/".join(where.split("/")[:3])
        return RequestError(f"there is no bucket {bucket}: create it, or name another")
    if isinstance(error, PermissionError):
        return PermissionError(f"{where} ({error})")
    return error


def _given_up(error: Exception, where: str, method: str, attempts: int, seconds: float) -> RunError:
    """The sentence for a request that failed every time."""
    response = _response(error) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    what = f"the answer {status}" if status else type(error).__name__
    silent = isinstance(error, SILENT) or "Timeout" in type(error).__name__
    return (Unanswered if silent else RunError)(
        f"{where} cannot be reached: {method} was tried {attempts} times in {seconds:.0f} s and ended in"
        f" {what} the last time: see that the store is up and the network and AWS_ENDPOINT_URL are right,"
        " then run the same command again to go on from here"
    )
