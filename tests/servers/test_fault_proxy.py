"""The proxy spoils the requests it should, and hands the rest on so that signatures stay right.

What the libraries say of a server in trouble is pinned here, as `tests/servers/test_object_store.py` does for a healthy
one:

  500, 503       Arrow: INTERNAL_FAILURE, SLOW_DOWN; on a read or stat UNKNOWN (HTTP status 500, 503), after three
                 attempts of its own. Delta: OSError with `500 Internal Server Error`, `503 Service Unavailable`,
                 after ten. s3fs: OSError EBUSY, after seconds to minutes.
  reset          Arrow: NETWORK_CONNECTION, curlCode 56. Delta: OSError, `HTTP error`, after ten attempts.
  cut            Arrow: NETWORK_CONNECTION, curlCode 18. Delta: OSError or DeltaError, `body error`, at once.
  refused        Arrow: NETWORK_CONNECTION, curlCode 7. Delta: OSError, `Connection refused`, after ten attempts.
                 s3fs: botocore's EndpointConnectionError, which is no OSError.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.fs
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.object_store import REGION, ObjectStore

QUICK = {"max_retries": "0", "retry_timeout": "1s"}
"""Options of the Delta library for one attempt."""


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    """A bucket with twenty objects."""
    object_store.make_bucket("spoilt")
    for index in range(20):
        with object_store.filesystem().open_output_stream(f"spoilt/{index}") as file:
            file.write(b"content" * 1000)
    return "spoilt"


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.endpoint) as proxy:
        yield proxy


def once(store: ObjectStore, endpoint: str) -> pyarrow.fs.S3FileSystem:
    """Arrow's view of the store without retries."""
    return pyarrow.fs.S3FileSystem(
        access_key=store.owner.access_key,
        secret_key=store.owner.secret_key,
        region=REGION,
        endpoint_override=endpoint,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )


def test_it_hands_requests_on(object_store: ObjectStore, bucket: str, proxy: FaultProxy) -> None:
    filesystem = object_store.filesystem(endpoint=proxy.endpoint)
    large = bytes(range(256)) * (24 << 12)
    with filesystem.open_output_stream(f"{bucket}/large") as file:
        file.write(large)
    assert filesystem.open_input_stream(f"{bucket}/large").read() == large
    filesystem.delete_file(f"{bucket}/large")
    assert proxy.requests["PUT"] > 0
    assert proxy.requests["DELETE"] > 0
    assert not proxy.faults


@pytest.mark.parametrize(
    ("kind", "listing", "reading", "delta"),
    [
        ("500", "INTERNAL_FAILURE", "HTTP status 500", "500 Internal Server Error"),
        ("503", "SLOW_DOWN", "HTTP status 503", "503 Service Unavailable"),
        ("reset", "NETWORK_CONNECTION.*curlCode: 56", "NETWORK_CONNECTION.*curlCode: 56", "HTTP error"),
        ("cut", "NETWORK_CONNECTION.*curlCode: 18", "NETWORK_CONNECTION", "body error"),
    ],
)
def test_what_the_libraries_say_of_a_spoilt_request(
    object_store: ObjectStore,
    bucket: str,
    proxy: FaultProxy,
    kind: Fault,
    listing: str,
    reading: str,
    delta: str,
) -> None:
    proxy.share, proxy.kinds = 1.0, (kind,)
    filesystem = once(object_store, proxy.endpoint)
    with pytest.raises(OSError, match=listing):
        filesystem.get_file_info(pyarrow.fs.FileSelector(bucket))
    with pytest.raises(OSError, match=reading):
        filesystem.open_input_stream(f"{bucket}/1")
    options = {**object_store.environment(endpoint=proxy.endpoint), "AWS_ALLOW_HTTP": "true", **QUICK}
    with pytest.raises((OSError, DeltaError), match=f"(?s){delta}"):
        DeltaTable(f"s3://{bucket}/table", storage_options=options)
    assert proxy.faults[kind] >= 3


def test_what_the_libraries_say_when_nothing_listens(object_store: ObjectStore, bucket: str) -> None:
    with FaultProxy(object_store.endpoint) as proxy:
        gone = proxy.endpoint
    with pytest.raises(OSError, match=r"NETWORK_CONNECTION.*curlCode: 7"):
        once(object_store, gone).open_input_stream(f"{bucket}/1")
    options = {**object_store.environment(endpoint=gone), "AWS_ALLOW_HTTP": "true", **QUICK}
    with pytest.raises(OSError, match="Connection refused"):
        DeltaTable(f"s3://{bucket}/table", storage_options=options)


def test_the_same_seed_spoils_the_same_requests(object_store: ObjectStore) -> None:
    def fates(seed: int, order: range) -> dict[int, list[Fault | None]]:
        proxy = FaultProxy(object_store.endpoint, share=0.4, kinds=("503", "reset"), seed=seed)
        drawn = {index: [proxy.fate("GET", f"/spoilt/{index}") for _ in range(3)] for index in order}
        proxy.close()
        return drawn

    forwards, backwards, other = fates(1, range(200)), fates(1, range(199, -1, -1)), fates(2, range(200))
    assert forwards == backwards != other
    spoilt = sum(fate is not None for drawn in forwards.values() for fate in drawn)
    assert 180 < spoilt < 300  # 240 expected of 600, standard deviation 12: five of them
    assert {fate for drawn in forwards.values() for fate in drawn} == {None, "503", "reset"}


def test_only_chosen_requests_are_spoilt(object_store: ObjectStore, bucket: str, proxy: FaultProxy) -> None:
    proxy.share, proxy.only = 1.0, lambda method, path: path.endswith("/7")
    filesystem = once(object_store, proxy.endpoint)
    assert len(filesystem.open_input_stream(f"{bucket}/6").read()) == 7000
    with pytest.raises(OSError, match="HTTP status 503"):
        filesystem.open_input_stream(f"{bucket}/7")
