"""The object store of the tests is a real one, and goes away without a trace.

What the libraries say (pyarrow 26, s3fs 2026.9, deltalake 1.6) is pinned below; `pipelines` tells by it what is
worth another try. All of it is OSError to Arrow and to the Delta library, apart from what the table names:

                     Arrow                                     Delta library                s3fs
  missing key        FileNotFoundError                         TableNotFoundError           FileNotFoundError
  forbidden          ACCESS_DENIED                             403 … AccessDenied           PermissionError
  wrong secret       SIGNATURE_DOES_NOT_MATCH; on a read or    403 … SignatureDoesNotMatch  PermissionError
                     stat ACCESS_DENIED, as if forbidden
  unknown key id     INVALID_ACCESS_KEY_ID; on a read or       403 … InvalidAccessKeyId     PermissionError
                     stat ACCESS_DENIED, as if forbidden
  no such bucket     list: NO_SUCH_BUCKET; read:               TableNotFoundError           FileNotFoundError
                     FileNotFoundError

Reading and asking for a key begin with a HEAD request, whose answer has no body to say more. So a wrong credential
is told from a forbidden object by listing. A write by the owner into a bucket that is missing creates it. What is
said of a server in trouble stands in `tests/servers/test_fault_proxy.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest
import s3fs
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from tests.servers.object_store import LIMITED_BUCKET, REGION, Identity, ObjectStore

ROWS = pa.table({"number": [1, 2, 3]})


def delta_options(store: ObjectStore, identity: Identity | None = None) -> dict[str, str]:
    return {**store.environment(identity), "AWS_ALLOW_HTTP": "true"}


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    """A bucket that only the owner may use, with an object `there` and a table `table`."""
    object_store.make_bucket("closed")
    with object_store.filesystem().open_output_stream("closed/there") as file:
        file.write(b"content")
    options = delta_options(object_store)
    if not DeltaTable.is_deltatable("s3://closed/table", storage_options=options):
        write_deltalake("s3://closed/table", ROWS, storage_options=options)
    return "closed"


def test_arrow_s3fs_and_delta_find_it_by_the_environment_alone(
    object_store: ObjectStore, bucket: str
) -> None:
    arrow, path = pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}/there")
    assert arrow.open_input_stream(path).read() == b"content"
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    assert other.cat_file(path) == b"content"
    other.pipe_file(f"{bucket}/by/s3fs", b"more")
    selector = pyarrow.fs.FileSelector(f"{bucket}/by", recursive=True)
    assert [(info.path, info.size) for info in arrow.get_file_info(selector)] == [(f"{bucket}/by/s3fs", 4)]
    assert other.find(f"{bucket}/by") == [f"{bucket}/by/s3fs"]
    table = DeltaTable(f"s3://{bucket}/table", storage_options={"AWS_ALLOW_HTTP": "true"})
    assert table.to_pyarrow_table().sort_by("number") == ROWS


def test_workers_of_ray_find_it_too(object_store: ObjectStore, bucket: str, ray_session: None) -> None:
    import ray

    @ray.remote
    def read(uri: str) -> bytes:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        return filesystem.open_input_stream(path).read()

    assert ray.get(read.remote(f"s3://{bucket}/there")) == b"content"


def test_a_second_object_of_a_name_is_refused_when_it_has_to_be_new(bucket: str) -> None:
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{bucket}/once", b"first", mode="overwrite")
    with pytest.raises(OSError, match="pre-conditions"):
        filesystem.pipe_file(f"{bucket}/once", b"second", mode="create")
    assert filesystem.cat_file(f"{bucket}/once") == b"first"


def test_a_missing_key_is_told_as_such(object_store: ObjectStore, bucket: str) -> None:
    arrow = object_store.filesystem()
    with pytest.raises(FileNotFoundError):
        arrow.open_input_stream(f"{bucket}/gone")
    with pytest.raises(FileNotFoundError):
        arrow.open_input_stream("no-such-bucket/gone")
    assert arrow.get_file_info(f"{bucket}/gone").type is pyarrow.fs.FileType.NotFound
    with pytest.raises(TableNotFoundError):
        DeltaTable(f"s3://{bucket}/gone", storage_options=delta_options(object_store))


def test_the_limited_identity_is_kept_to_its_bucket(object_store: ObjectStore, bucket: str) -> None:
    arrow, listing = object_store.filesystem(object_store.limited), pyarrow.fs.FileSelector(bucket)
    with arrow.open_output_stream(f"{LIMITED_BUCKET}/mine") as file:
        file.write(b"mine")
    assert arrow.open_input_stream(f"{LIMITED_BUCKET}/mine").read() == b"mine"
    with pytest.raises(OSError, match="ACCESS_DENIED during HeadObject"):
        arrow.open_input_stream(f"{bucket}/there")
    with pytest.raises(OSError, match="ACCESS_DENIED during ListObjectsV2"):
        arrow.get_file_info(listing)
    with pytest.raises(OSError, match="ACCESS_DENIED during CreateMultipartUpload"):
        arrow.open_output_stream(f"{bucket}/new")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        arrow.create_dir("another-bucket")
    with pytest.raises(OSError, match=r"(?s)403 Forbidden.*AccessDenied"):
        DeltaTable(f"s3://{bucket}/table", storage_options=delta_options(object_store, object_store.limited))
    limited = s3fs.S3FileSystem(
        key=object_store.limited.access_key, secret=object_store.limited.secret_key, skip_instance_cache=True
    )
    with pytest.raises(PermissionError):
        limited.cat_file(f"{bucket}/there")


@pytest.mark.parametrize(
    ("known", "to_arrow", "to_delta"),
    [
        (True, "SIGNATURE_DOES_NOT_MATCH", "SignatureDoesNotMatch"),
        (False, "INVALID_ACCESS_KEY_ID", "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_secret_and_an_unknown_key_are_told_by_a_listing_but_not_by_a_read(
    object_store: ObjectStore, bucket: str, known: bool, to_arrow: str, to_delta: str
) -> None:
    who = Identity(access_key=object_store.owner.access_key, secret_key="wrong") if known else Identity()
    arrow = object_store.filesystem(who)
    with pytest.raises(OSError, match=f"{to_arrow} during ListObjectsV2"):
        arrow.get_file_info(pyarrow.fs.FileSelector(bucket))
    with pytest.raises(OSError, match="ACCESS_DENIED during HeadObject operation: No response body"):
        arrow.open_input_stream(f"{bucket}/there")
    with pytest.raises(OSError, match=f"(?s)403 Forbidden.*{to_delta}"):
        DeltaTable(f"s3://{bucket}/table", storage_options=delta_options(object_store, who))


def test_what_was_acknowledged_survives_a_killed_server() -> None:
    store = ObjectStore()
    store.start()
    try:
        store.make_bucket("kept")
        filesystem, endpoint = store.filesystem(), store.endpoint
        with filesystem.open_output_stream("kept/there") as file:
            file.write(b"content")
        store.restart()
        assert store.endpoint == endpoint
        assert filesystem.open_input_stream("kept/there").read() == b"content"
    finally:
        store.close()


OWNER = """
import os, signal
from tests.servers.object_store import ObjectStore
store = ObjectStore()
store.start()
print(store.pid, store._folder, *store.sockets, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_it_when_the_process_that_made_it_is_killed(repo: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", OWNER], cwd=repo, stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    pid, *paths = killed.stdout.split()
    deadline = time.monotonic() + 60
    while left := [path for path in paths if Path(path).exists()] + ["the server"] * running(int(pid)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process of this id does anything; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_credentials_are_not_shown_and_no_process_is_told_them(object_store: ObjectStore) -> None:
    assert object_store.owner.secret_key not in repr(object_store.owner)
    command = Path(f"/proc/{object_store.pid}/cmdline").read_bytes().decode()
    assert object_store.owner.secret_key not in command
    assert "-master.telemetry=false" in command
    assert all("0.0.0.0" not in part for part in command.split("\0"))
    assert os.environ["AWS_REGION"] == REGION
