"""Images from an S3 server and tables in it: the same rows as on a disk, and errors told apart."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from deltalake import DeltaTable

import pipelines.labelling.image_stage
import pipelines.storage.objects
from pipelines.labelling.image_stage import MAX_STORAGE_ERRORS, read_and_decode
from pipelines.labelling.label import label, prepare_label
from pipelines.runs.listing import listed_images
from pipelines.storage.objects import (
    ATTEMPTS,
    CredentialsError,
    StorageDownError,
    environment_for_cluster,
    storage_options,
    use_storage_options,
    with_retries,
)
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.servers.fault_proxy import FaultProxy
from tests.servers.object_store import LIMITED_BUCKET, Identity
from tests.support.colour_labeller import SMALL, colours, expected, picture, request_for, table
from tests.support.listings import list_images
from zs3.tables import FAILURES


@pytest.fixture
def bucket(object_store, request):
    """A bucket of its own for each test."""
    name = "b" + str(abs(hash(request.node.name)))
    object_store.make_bucket(name)
    return name


@pytest.fixture
def at(monkeypatch):
    """Points the storage libraries of this process elsewhere, and forgets their open connections before and after."""

    def point(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        forget()

    def forget():
        import s3fs

        pipelines.storage.objects._arrow_filesystem.cache_clear()
        pipelines.storage.objects._bucket_refuses.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()

    monkeypatch.setattr(pipelines.storage.objects, "FIRST_DELAY_S", 0.01)
    yield point
    monkeypatch.undo()
    forget()


def photographs(folder, count=6):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        picture(folder / f"i{index}.png", index)
    (folder.parent / "classes.txt").write_text("red\nblue *\n")
    return folder


def upload(store, folder, bucket, prefix="photos"):
    for path in folder.iterdir():
        put(store, f"{bucket}/{prefix}/{path.name}", path.read_bytes())


def put(store, key, content):
    with store.filesystem().open_output_stream(key) as stream:
        stream.write(content)


def on_store(bucket, folder):
    there = {"images": f"s3://{bucket}/photos", "out": f"s3://{bucket}/run"}
    return replace(request_for(folder), **there)


def without_place(rows):
    return [{key: value for key, value in row.items() if key not in ("uri", "etag")} for row in rows]


def test_a_bucket_is_labelled_and_only_what_changed_is_labelled_again(
    ray_session, object_store, bucket, tmp_path
):
    folder = photographs(tmp_path / "photos")
    upload(object_store, folder, bucket)
    put(object_store, f"{bucket}/photos/.hidden/x.png", b"no image")
    put(object_store, f"{bucket}/photos/notes.md", b"no image")
    request = on_store(bucket, folder)
    result = label(request, SMALL, model=colours())
    assert (result.images, result.failed) == (6, 0)
    rows = table(request)
    assert without_place(rows) == without_place(expected(folder))
    assert {row["uri"] for row in rows} == {f"s3://{bucket}/photos/i{index}.png" for index in range(6)}
    assert all(len(row["etag"]) >= 32 for row in rows), "the store's own ETag"

    again = label(request, SMALL, model=colours())
    assert (again.images, again.skipped) == (0, 6)
    picture(folder / "i3.png", 11)
    picture(folder / "i3b.png", 4)
    upload(object_store, folder, bucket)
    plan = prepare_label(request, colours())
    assert ([image_id for image_id, _ in plan.work.pending], plan.work.changed) == (["i3", "i3b"], 1)
    third = label(request, SMALL, model=colours())
    assert (third.images, third.skipped) == (2, 5)
    assert without_place(table(request)) == without_place(expected(folder))
    assert len(prepare_label(request, colours()).work.pending) == 0


def test_a_bucket_is_listed_page_by_page(object_store, bucket, monkeypatch):
    import s3fs

    for index in range(7):
        put(object_store, f"{bucket}/many/deep/i{index}.jpg", b"x")
    put(object_store, f"{bucket}/many.jpg", b"x")
    pages, call = [], s3fs.S3FileSystem.call_s3

    def three(self, method, **asked):
        pages.append(method)
        return call(self, method, **{**asked, "MaxKeys": 3})

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", three)
    root, batches = listed_images(f"s3://{bucket}/many")
    assert pages == [] and root == f"s3://{bucket}/many", "nothing is listed before it is asked for"
    assert sum(len(batch) for batch in batches) == 7
    assert len(pages) == 3
    matched = list_images(f"s3://{bucket}/many/*/i[1-3].jpg")
    assert [image_id for image_id, _ in matched] == ["i1", "i2", "i3"]
    assert list_images(f"s3://{bucket}/many.jpg") == [("many", f"s3://{bucket}/many.jpg")]
    with pytest.raises(ValueError, match="no file matches"):
        list_images(f"s3://{bucket}/many/*.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_images(f"s3://{bucket}/none")


def test_lists_in_a_bucket_name_images_beside_them_and_elsewhere(object_store, bucket, tmp_path):
    put(object_store, f"{bucket}/lists/a.txt", f"x/i1.jpg\ns3://{bucket}/i2.jpg\n\n/local/i3.jpg\n".encode())
    expected_uris = [f"s3://{bucket}/i2.jpg", f"s3://{bucket}/lists/x/i1.jpg", "/local/i3.jpg"]
    assert sorted(uri for _, uri in list_images(f"s3://{bucket}/lists/a.txt")) == sorted(expected_uris)
    table_of_uris = pa.table({"uri": ["x/i1.jpg", f"s3://{bucket}/i2.jpg"], "etag": ["e1", "e2"]})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table_of_uris, sink)
    put(object_store, f"{bucket}/lists/a.parquet", sink.getvalue().to_pybytes())
    root, batches = listed_images(f"s3://{bucket}/lists/a.parquet")
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert root == "" and rows == [
        {"uri": f"s3://{bucket}/lists/x/i1.jpg", "etag": "e1"},
        {"uri": f"s3://{bucket}/i2.jpg", "etag": "e2"},
    ]


def test_keys_unlike_paths_of_files_keep_their_names_and_get_ids_of_their_own(monkeypatch):
    import s3fs

    keys = ["x/a.png", "x//a.png", "x/y/a.png", "x/y//a.png"]
    page = {"Contents": [{"Key": key, "ETag": "e", "Size": 1} for key in keys]}
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", lambda self, method, **asked: page)
    monkeypatch.setattr(s3fs.S3FileSystem, "isdir", lambda self, path: True)
    listed = {uri: image_id for image_id, uri in list_images("s3://b/x")}
    assert listed == {f"s3://b/{key}": key.removeprefix("x/") for key in keys}


def test_keys_unlike_paths_of_files_are_read_or_become_one_failure_each(object_store, bucket, tmp_path):
    folder = photographs(tmp_path / "photos", 1)
    for name in ("a/b.png", "c.png"):  # this server takes several slashes for one
        put(object_store, f"{bucket}/{name}", (folder / "i0.png").read_bytes())
    read = decoded(refs(f"s3://{bucket}/a//b.png", f"s3://{bucket}//c.png"))
    assert [(row["failures"], row["height"], row["width"]) for row in read] == [([], 8, 12)] * 2
    # This server refuses keys with such parts; Arrow takes that for wrong credentials.
    refused = decoded(refs(*(f"s3://{bucket}/e/../{index}.png" for index in range(MAX_STORAGE_ERRORS + 1))))
    assert {(row["failures"][0]["stage"], row["failures"][0]["attempts"]) for row in refused} == {("read", 1)}
    assert all("Bad Request" in row["failures"][0]["message"] for row in refused)


def refs(*uris):
    return pa.table({"image_id": [Path(uri).name for uri in uris], "uri": list(uris)})


def decoded(table_of_refs):
    return pa.concat_tables(read_and_decode(table_of_refs, max_pixels=10_000, run="r")).to_pylist()


def test_a_missing_and_a_forbidden_object_are_rows_of_failures(object_store, bucket, tmp_path, at):
    folder = photographs(tmp_path / "photos", 1)
    put(object_store, f"{LIMITED_BUCKET}/i0.png", (folder / "i0.png").read_bytes())
    put(object_store, f"{bucket}/i0.png", (folder / "i0.png").read_bytes())
    at(object_store.environment(object_store.limited))
    rows = decoded(
        refs(f"s3://{LIMITED_BUCKET}/i0.png", f"s3://{LIMITED_BUCKET}/gone.png", f"s3://{bucket}/i0.png")
    )
    failures = [row["failures"] for row in rows]
    assert failures[0] == []
    assert (failures[1][0]["stage"], failures[1][0]["error_type"]) == ("read", "FileNotFoundError")
    assert failures[2][0]["stage"] == "read" and "ACCESS_DENIED" in failures[2][0]["message"]


def test_a_wrong_credential_stops_the_run_at_once(object_store, tmp_path, at):
    put(object_store, f"{LIMITED_BUCKET}/i0.png", b"x")
    secret = "never-to-be-seen"
    wrong = Identity(access_key=object_store.owner.access_key, secret_key=secret)
    at(object_store.environment(wrong))
    with pytest.raises(CredentialsError, match="the store refuses the credentials for s3://") as told:
        decoded(refs(f"s3://{LIMITED_BUCKET}/i0.png"))
    assert secret not in str(told.value)
    folder = photographs(tmp_path / "photos", 1)
    with pytest.raises((ValueError, OSError)) as told:
        label(on_store(LIMITED_BUCKET, folder), SMALL, model=colours())
    assert secret not in str(told.value) and "\n" not in str(told.value).strip()


@pytest.mark.parametrize("kinds", [("503", "500"), ("reset", "cut")])
def test_passing_errors_of_the_store_are_waited_out(object_store, bucket, tmp_path, at, kinds):
    folder = photographs(tmp_path / "photos", 8)
    upload(object_store, folder, bucket)
    with FaultProxy(object_store.endpoint, share=0.3, kinds=kinds, seed=5) as proxy:
        at(object_store.environment(endpoint=proxy.endpoint))
        rows = decoded(refs(*(uri for _, uri in list_images(f"s3://{bucket}/photos"))))
        assert [row["failures"] for row in rows] == [[]] * 8
        uri = f"s3://{bucket}/t"
        table_there = open_table(uri, FAILURES, {"run": {"x": "1"}})
        row = {name: "x" for name in FAILURES.names} | {"attempts": 1}
        for index in range(4):
            part = write_data_file(
                uri, pa.Table.from_pylist([{**row, "image_id": str(index)}], schema=FAILURES)
            )
            publish(table_there, FAILURES, [part], run="r", written_ms=1)
    at(object_store.environment())
    held = DeltaTable(uri, storage_options=storage_options(uri)).to_pyarrow_table()
    assert sorted(held["image_id"].to_pylist()) == ["0", "1", "2", "3"]


def test_a_store_that_is_down_stops_the_run_instead_of_failing_every_image(
    object_store, bucket, tmp_path, at
):
    put(object_store, f"{bucket}/i.png", b"x")
    with FaultProxy(object_store.endpoint, share=1.0, kinds=("reset",)) as proxy:
        at(object_store.environment(endpoint=proxy.endpoint))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipelines.storage.objects, "ATTEMPTS", 1)
            patch.setattr(
                pipelines.labelling.image_stage, "MAX_STORAGE_ERRORS", 2
            )  # Arrow tries for 2 s each
            with pytest.raises(StorageDownError, match="nothing but errors for 2 images in a row"):
                decoded(refs(*[f"s3://{bucket}/i.png"] * 3))


def test_patience_waits_longer_each_time_and_ends():
    pauses = []

    def fails():
        raise OSError("AWS Error SLOW_DOWN")

    with pytest.raises(OSError, match="SLOW_DOWN"):
        with_retries(fails, "s3://b/x", pause=pauses.append)
    assert len(pauses) == ATTEMPTS - 1 and pauses[-1] > pauses[0]
    pauses.clear()
    with pytest.raises(OSError):
        with_retries(fails, "/local/x", pause=pauses.append)
    assert pauses == [], "a disk does not get better by waiting"


def test_storage_options_become_environment_and_secrets_do_not_travel(monkeypatch):
    monkeypatch.setattr(pipelines.storage.objects, "_storage_options", {})
    for name in ("AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "before")
    use_storage_options(["endpoint=http://127.0.0.1:1", "region=here"])
    told = environment_for_cluster()
    assert told["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1" and told["AWS_REGION"] == "here"
    use_storage_options(["secret=hush"])
    with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY, which would be stored") as refused:
        environment_for_cluster()
    assert "hush" not in str(refused.value)
    for wrong in ("hush", "password=hush", "=hush"):
        with pytest.raises(ValueError, match="expected name=value") as refused:
            use_storage_options([wrong])
        assert wrong == "hush" or "hush" not in str(refused.value)


def test_nothing_secret_is_stored(in_process, object_store, bucket, tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    upload(object_store, folder, bucket)
    label(on_store(bucket, folder), SMALL, model=colours())
    filesystem = object_store.filesystem()
    held = filesystem.get_file_info(pa.fs.FileSelector(f"{bucket}/run", recursive=True))
    secrets = (object_store.owner.secret_key.encode(), object_store.owner.access_key.encode())
    logs = 0
    for info in held:
        if info.is_file:
            content = filesystem.open_input_stream(info.path).read()
            assert not any(secret in content for secret in secrets)
            if info.path.endswith(".json"):
                logs += 1
                assert [json.loads(line) for line in content.splitlines()]
    assert logs > 2
