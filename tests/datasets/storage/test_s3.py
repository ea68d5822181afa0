"""Object storage that is away, hangs or refuses: a real server is killed, stopped, and asked with wrong keys."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from refsweep.cluster.programs import MissingError
from refsweep.cluster.servers import S3
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage import s3
from refsweep.datasets.storage.retry import Backoff
from refsweep.datasets.storage.s3 import Bucket, UnreachableError, is_transient
from refsweep.datasets.storage.store import Store


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    try:
        made = S3(tmp_path / "data", tmp_path / "log")
    except MissingError as error:
        pytest.skip(str(error))
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    made.start()
    yield made
    made.stop()


def busy(store: Store, stop: threading.Event, worker: int) -> tuple[int, float]:
    """Writes, reads, lists and deletes until told to stop; (rounds, seconds of the longest)."""
    rounds, longest = 0, 0.0
    while not stop.is_set():
        began = time.monotonic()
        path, content = f"{worker}/{rounds}", os.urandom(1000)
        store.write(path, content)
        assert store.read(path) == content
        assert store.names(str(worker)) == [str(rounds)]
        store.delete(path)
        assert not store.exists(path)
        rounds, longest = rounds + 1, max(longest, time.monotonic() - began)
    return rounds, longest


def through_an_outage(leave: Callable[[], None], back: Callable[[], None], away_s: float) -> list[tuple[int, float]]:
    """What `busy` workers tell of an outage that begins and ends while they work."""
    stop, store = threading.Event(), Store("s3://bucket/outage")
    with ThreadPoolExecutor(3) as pool:
        try:
            working = [pool.submit(busy, store, stop, i) for i in range(3)]
            time.sleep(1)
            leave()
            time.sleep(away_s)
            back()
            time.sleep(6)  # no wait is longer than 5 s
        finally:
            stop.set()
        return [w.result() for w in working]


def test_a_server_that_is_killed_and_comes_back_loses_nothing(server: S3):
    for rounds, longest in through_an_outage(server.stop, server.start, 4):
        assert rounds > 2
        assert longest > 3, "nobody noticed the outage"


def test_a_server_that_hangs_is_noticed_and_waited_for(server: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 1)
    stop, go_on = server.pause, server.resume
    for rounds, longest in through_an_outage(stop, go_on, 4):
        assert rounds > 2
        assert longest > 3, "nobody noticed the outage"


def test_a_hung_request_ends_in_seconds(server: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 1)
    bucket = Bucket("bucket", Backoff(total_s=0))
    bucket.write("a", b"1")
    server.pause()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="s3://bucket/a was out of reach for 0 s: Read timeout"):
        bucket.read("a")
    server.resume()
    assert time.monotonic() - began < 8
    assert bucket.read("a") == b"1"


ACCESSES: dict[str, Callable[[Store], object]] = {
    "read": lambda s: s.read("a"),
    "read_range": lambda s: s.read_range("a", 0, 1),
    "write": lambda s: s.write("a", b"1"),
    "write in parts": lambda s: s.write("a", bytes(20 << 20)),
    "exists": lambda s: s.exists("a"),
    "exists at all": lambda s: s.exists(),
    "names": lambda s: s.names(),
    "walk": lambda s: list(s.walk()),
    "delete": lambda s: s.delete("a"),
}


@pytest.mark.parametrize("access", ACCESSES)
def test_a_missing_bucket_is_said_at_once(access: str, s3: str):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^bucket s3://nowhere does not exist$"):
        ACCESSES[access](Store("s3://nowhere"))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("access", ACCESSES)
def test_a_wrong_key_is_said_at_once(access: str, s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^access to s3://bucket\S* is denied: SignatureDoesNotMatch") as caught:
        ACCESSES[access](Store("s3://bucket"))
    assert time.monotonic() - began < 10
    assert "wrong" not in str(caught.value)


def test_no_key_at_all_is_said_at_once(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="access to s3://bucket/a needs AWS_ACCESS_KEY_ID"):
        Store("s3://bucket").read("a")


def test_a_server_that_stays_away_is_given_up_in_time(server: S3):
    server.stop()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="s3://bucket/a was out of reach for 1 s: Could not connect"):
        Bucket("bucket", Backoff(total_s=1)).read("a")
    assert time.monotonic() - began < 10


def parts_of(bucket: Bucket, then: Callable[[], None] = lambda: None) -> list[int]:
    """Grows by one whenever a part goes up."""
    seen: list[int] = []

    def note(**_: object) -> None:
        seen.append(1)
        then()

    bucket._client().meta.events.register("before-call.s3.UploadPart", note)
    return seen


def test_a_large_object_goes_up_in_parts_and_comes_back_equal(s3: str):
    bucket, content = Bucket("bucket"), os.urandom(40_000_000)
    parts = parts_of(bucket)
    bucket.write("large", content)
    assert len(parts) == 3
    assert bucket.read("large") == content
    assert bucket.read_range("large", 16_000_000, 2_000_000) == content[16_000_000:18_000_000]
    assert bucket.read_range("large", 39_999_999, 100) == content[-1:]


def test_an_upload_cut_off_leaves_the_old_content(server: S3):
    Bucket("bucket").write("a", b"old")
    bucket = Bucket("bucket", Backoff(total_s=0))
    parts = parts_of(bucket, server.stop)
    with pytest.raises(UnreachableError):
        bucket.write("a", os.urandom(40_000_000))
    assert parts
    server.start()
    assert Bucket("bucket").read("a") == b"old"
    assert Store("s3://bucket").names() == ["a"]


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (500, "InternalError", True),
        (502, "BadGateway", True),
        (503, "SlowDown", True),
        (429, "TooManyRequests", True),
        (400, "RequestTimeout", True),
        (400, "InvalidRequest", False),
        (403, "AccessDenied", False),
        (404, "NoSuchKey", False),
    ],
)
def test_only_errors_of_the_server_and_throttling_are_transient(status: int, code: str, passes: bool):
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert is_transient(ClientError(response, "GetObject")) is passes
