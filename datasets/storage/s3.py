"""One bucket of object storage: retries while its server is unreachable, fails at once where access is refused.

Endpoint, region and credentials come from the usual AWS variables (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
...). Transient errors (no connection, a server that hangs, 5xx, throttling) are retried for two minutes; a missing
bucket or denied access is an InputError at once. This uses boto3, whose errors carry codes; pyarrow's have to be told
apart by their text and, on Linux, its request time-out can't be set.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own, no OSError
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from ..problems import InputError
from .retry import Backoff, UnreachableError, retry

__all__ = ["Bucket", "UnreachableError", "is_transient"]
T = TypeVar("T")
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3, 10
MULTIPART = TransferConfig(
    multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4, preferred_transfer_client="classic"
)
_SLOW_DOWN = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"}
_SLOW_DOWN |= {"RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable", "503 SlowDown"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken"}
_DENIED |= {"RequestTimeTooSkewed", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"}


class Bucket:
    """A bucket's objects, by key. Threads may share it; nothing connects before the first access."""

    def __init__(self, name: str, backoff: Backoff | None = None) -> None:
        self.name = name
        self.backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._connected: Any = None

    def read(self, key: str) -> bytes:
        """An object's content. Raises FileNotFoundError."""
        return self._call(key, lambda s3: bytes(s3.get_object(Bucket=self.name, Key=key)["Body"].read()))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start` on, fewer at its end; one request. Raises FileNotFoundError."""

        def act(s3: Any) -> bytes:
            try:
                span = f"bytes={start}-{start + length - 1}"
                return bytes(s3.get_object(Bucket=self.name, Key=key, Range=span)["Body"].read())
            except ClientError as error:
                if _code(error) == "InvalidRange":  # nothing from `start` on
                    return b""
                raise

        return self._call(key, act)

    def write(self, key: str, content: bytes) -> None:
        """Replaces an object whole; a large one goes up in parts, several at a time."""

        def act(s3: Any) -> None:
            s3.upload_fileobj(io.BytesIO(content), self.name, key, Config=MULTIPART)

        self._call(key, act)

    def exists(self, key: str) -> bool:
        """Whether there is an object, or objects below the folder, of this name."""
        first = self._page(Prefix=key, MaxKeys=1)  # a key sorts before all that it is a prefix of
        keys = [item["Key"] for item in first.get("Contents", ())]
        if not key or key in keys or any(k.startswith(f"{key}/") for k in keys):
            return True
        return bool(keys) and bool(self._page(Prefix=f"{key}/", MaxKeys=1).get("Contents"))

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, in no order."""
        start = f"{folder}/" if folder else ""
        names: list[str] = []
        for page in self._pages(Prefix=start, Delimiter="/"):
            names += [item["Key"][len(start) :] for item in page.get("Contents", ())]
            names += [item["Prefix"][len(start) : -1] for item in page.get("CommonPrefixes", ())]
        return [name for name in names if name]  # a folder's own marker object has none

    def objects(self, folder: str) -> Iterator[tuple[str, int]]:
        """(key, bytes) of every object below a folder, in the server's order."""
        for page in self._pages(Prefix=f"{folder}/" if folder else ""):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield item["Key"], item["Size"]

    def delete(self, key: str) -> None:
        """Removes an object and all below the folder of its name. One by one: not every server takes a batch."""
        for page in self._pages(Prefix=key):
            for item in page.get("Contents", ()):
                name = item["Key"]
                if not key or name == key or name.startswith(f"{key}/"):
                    self._call(name, lambda s3, name=name: s3.delete_object(Bucket=self.name, Key=name))  # type: ignore[misc]

    def _pages(self, **query: Any) -> Iterator[Any]:
        page = self._page(**query)
        yield page
        while page.get("IsTruncated"):
            page = self._page(**query, ContinuationToken=page["NextContinuationToken"])
            yield page

    def _page(self, **query: Any) -> Any:
        return self._call(query["Prefix"], lambda s3: s3.list_objects_v2(Bucket=self.name, **query))

    def _call(self, key: str, act: Callable[[Any], T]) -> T:
        """The result of `act`, after retries. Raises InputError, FileNotFoundError, UnreachableError."""
        where = f"s3://{self.name}/{key}".rstrip("/")
        try:
            return retry(lambda: act(self._client()), is_transient, self.backoff)
        except ClientError as error:
            raise _error_of(error, self.name, where) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise InputError(f"access to {where} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: {error}") from error
        except BotoCoreError as error:
            if not is_transient(error):
                raise
            raise UnreachableError(f"{where} was out of reach for {self.backoff.total_s:.0f} s: {error}") from error

    def _client(self) -> Any:
        with self._lock:  # making one is not safe in threads, using it is
            if self._connected is None:
                # our own retries see whole operations; one of boto3's keeps a large upload from starting over
                config = Config(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=READ_TIMEOUT_S,
                    retries={"mode": "standard", "total_max_attempts": 2},
                    max_pool_connections=32,
                )
                self._connected = Session().client("s3", config=config)
            return self._connected


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == 429 or _code(error) in _SLOW_DOWN
    if isinstance(error, SSLError):  # a certificate that is not believed stays so; a torn handshake does not
        return "CERTIFICATE" not in str(error).upper()
    return isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError | ProxyConnectionError)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _error_of(error: ClientError, bucket: str, where: str) -> Exception:
    code, message = _code(error), str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return InputError(f"bucket s3://{bucket} does not exist")
    if code == "NoSuchKey" or status == 404:
        return FileNotFoundError(f"{where} does not exist")
    if code in _DENIED or status in (401, 403):
        return InputError(f"access to {where} is denied: {code}: {message}")
    if is_transient(error):
        return UnreachableError(f"{where}: the server kept failing: {code}: {message}")
    return OSError(f"{where}: {code}: {message}")
