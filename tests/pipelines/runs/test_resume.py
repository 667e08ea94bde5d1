"""What is work to do is found from shards and tables, and a change touches what it changes, and only that."""

import itertools
import os

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import pipelines.runs.resume
from pipelines.labelling.label import label, prepare_label
from pipelines.runs.catalogue import SHARD, Catalogue, catalogue_of
from pipelines.runs.committer import MAX_SHARD_FILES, Committer
from pipelines.runs.resume import Target, remaining_work
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.colour_labeller import SMALL, colours, expected, make_photos, picture, request_for, table
from zs3.tables import FAILURES, SHARDS


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path, 6)


def batches(ids, etag="e"):
    uris = [f"s3://b/{image_id}.jpg" for image_id in ids]
    yield pa.RecordBatch.from_pydict({"uri": uris, "etag": [etag] * len(uris)})


def test_shards_cover_a_listing_and_an_image_more_changes_one(tmp_path):
    ids = [f"{number * 7919 % 100_003:06}" for number in range(20_000)]
    catalogue = Catalogue(batches(ids))
    shards = catalogue.shards()
    assert sum(shard.images for shard in shards) == catalogue.images == 20_000
    assert 20_000 / SHARD / 2 < len(shards) < 20_000 / SHARD * 2
    assert all(earlier.uris[1] < later.uris[0] for earlier, later in itertools.pairwise(shards))
    again = Catalogue(batches(reversed(ids)))
    assert [shard.digest for shard in again.shards()] == [shard.digest for shard in shards]
    assert again.digest == catalogue.digest
    more = Catalogue(batches([*ids, "050000x"]))
    changed = {shard.digest for shard in more.shards()} - {shard.digest for shard in shards}
    assert len(changed) <= 2 and more.digest != catalogue.digest
    assert {shard.digest for shard in Catalogue(batches(ids, "f")).shards()}.isdisjoint(
        {shard.digest for shard in shards}
    ), "other content is another shard"


def test_chunks_hold_every_image_once_and_in_order(tmp_path):
    ids = [f"{number:05}" for number in range(20_001)]
    target = Target(
        out=str(tmp_path), results="failures", schema=FAILURES, provenance={"run": {"a": "b"}}, digest="r"
    )
    work = remaining_work(Catalogue(batches(ids)), target)
    chunks = list(work.pending.chunks(6_000))
    assert [chunk.num_rows for chunk in chunks] == [6_000, 6_000, 6_000, 2_001]
    assert [image_id for chunk in chunks for image_id in chunk["image_id"].to_pylist()] == ids
    assert list(work.pending)[3] == ("00003", "s3://b/00003.jpg")
    assert sum(work.pending.by_shard().values()) == len(work.pending) == work.listed == 20_001


def test_a_run_in_chunks_gives_the_same_tables(ray_session, photos):
    from dataclasses import replace

    result = label(request_for(photos), replace(SMALL, images_per_wave=4), model=colours())
    assert (result.images, result.failed) == (6, 0)
    assert table(request_for(photos)) == expected(photos)


def test_only_new_and_changed_images_are_labelled_and_nothing_stale_stays(in_process, photos):
    request = request_for(photos)
    label(request, SMALL, model=colours())
    picture(photos / "i9.png", 9)
    picture(photos / "i2.png", 11)
    (photos / "i4.png").write_bytes(b"broken now")
    work = prepare_label(request, colours()).work
    assert ([image_id for image_id, _ in work.pending], work.changed, work.skipped) == (
        ["i2", "i4", "i9"],
        2,
        4,
    )
    result = label(request, SMALL, model=colours())
    assert (result.images, result.failed, result.skipped) == (2, 1, 4)
    (photos / "i4.png").unlink()
    assert table(request) == expected(photos), "labels of what i4 was are gone"
    assert [row["image_id"] for row in table(request, "failures")] == ["i4"]
    picture(photos / "i4.png", 4)
    third = label(request, SMALL, model=colours())
    assert (third.images, third.skipped) == (1, 6), "a repaired image is tried again without being asked for"
    assert table(request) == expected(photos) and table(request, "failures") == []
    assert len(prepare_label(request, colours()).work.pending) == 0


def test_content_that_comes_back_is_labelled_again(in_process, photos):
    request = request_for(photos)
    before, status = (photos / "i2.png").read_bytes(), (photos / "i2.png").stat()
    label(request, SMALL, model=colours())
    picture(photos / "i2.png", 11)
    label(request, SMALL, model=colours())
    (photos / "i2.png").write_bytes(before)
    os.utime(photos / "i2.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    result = label(request, SMALL, model=colours())
    assert result.images == 1 and table(request) == expected(photos)


def test_other_weights_are_refused_or_start_a_new_version_in_one_transaction(in_process, photos):
    request = request_for(photos)
    label(request, SMALL, model=colours())
    rows, version = table(request), DeltaTable(f"{request.out}/labels").version()
    with pytest.raises(ValueError, match=r"different weights \(w there, v now\).*with --replace"):
        label(request, SMALL, model=colours(weights="v"))
    replacing = request_for(photos, replace=True)
    assert prepare_label(replacing, colours(weights="v")).work.replaces
    result = label(replacing, SMALL, model=colours(weights="v"))
    assert (result.images, result.skipped) == (6, 0)
    assert {row["run"] for row in table(request)} == {"v"}
    old = DeltaTable(f"{request.out}/labels", version=version).to_pyarrow_table().to_pylist()
    assert sorted(old, key=lambda row: (row["image_id"], row["class_id"])) == rows
    again = label(replacing, SMALL, model=colours(weights="v"))
    assert (again.images, again.skipped) == (0, 6), "the same command continues, and replaces nothing twice"


def test_a_replacement_that_was_stopped_between_its_tables_goes_on(in_process, photos):
    (photos / "bad.jpg").write_bytes(b"no picture")
    request = request_for(photos)
    label(request, SMALL, model=colours())
    target = prepare_label(request_for(photos, replace=True), colours(weights="v")).work.target
    open_table(target.uris["labels"], target.schema, target.provenance, replace=True)
    result = label(request, SMALL, model=colours(weights="v"))
    assert (result.images, result.failed, result.skipped) == (6, 1, 0)
    assert [row["run"] for row in table(request, "failures")] == ["v"]


def test_a_finished_listing_opens_no_file_of_its_tables(in_process, photos, monkeypatch):
    request = request_for(photos)
    label(request, SMALL, model=colours())
    monkeypatch.setattr(
        pipelines.runs.resume, "read_data_file", lambda *given: pytest.fail("opened a file of labels")
    )
    work = prepare_label(request, colours()).work
    assert (len(work.pending), work.skipped) == (0, 6)


def test_rows_of_failures_that_results_have_overtaken_go(in_process, photos):
    """A retry that is killed between its two commits leaves an image in both tables."""
    request = request_for(photos)
    label(request, SMALL, model=colours())
    target = prepare_label(request, colours()).work.target
    (row,) = [row for row in table(request) if row["image_id"] == "i3"][:1]
    failed = {name: "x" for name in FAILURES.names} | {
        name: row[name] for name in ("image_id", "uri", "etag")
    }
    stored = open_table(target.uris["failures"], FAILURES, target.provenance)
    part = write_data_file(
        target.uris["failures"], pa.Table.from_pylist([failed | {"attempts": 1}], schema=FAILURES)
    )
    publish(stored, FAILURES, [part], run="w", written_ms=1)
    shards = open_table(target.uris["shards"], SHARDS, target.provenance)
    shards.delete()
    work = prepare_label(request, colours()).work
    assert (len(work.pending), work.stale_failures, work.failed_before) == (0, {"i3"}, 0)
    label(request, SMALL, model=colours())
    assert table(request, "failures") == []
    assert DeltaTable(target.uris["shards"]).to_pyarrow_table().num_rows == 1, "and the shard is known again"


def test_many_files_of_shards_become_one(tmp_path):
    target = Target(
        out=str(tmp_path), results="failures", schema=FAILURES, provenance={"run": {"a": "b"}}, digest="r"
    )
    catalogue = Catalogue(batches([f"{number:06}" for number in range(50_000)]))
    work = remaining_work(catalogue, target)
    committer = Committer(work)
    for shard in list(work.open_shards.values())[: MAX_SHARD_FILES + 3]:
        committer._add_shards([shard])
    stored = DeltaTable(target.uris["shards"])
    assert len(stored.file_uris()) < 5 and stored.to_pyarrow_table().num_rows == MAX_SHARD_FILES + 3
    assert len(remaining_work(catalogue, target).open_shards) == len(work.open_shards) - MAX_SHARD_FILES - 3


def test_a_name_that_is_no_utf_8_is_a_failure_and_not_the_end(photos):
    if os.name == "nt":
        pytest.skip("names are text there")
    (photos / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"x")
    (uri,) = [uri for _, uri in list(remaining_uris(photos)) if "xff" in uri]
    assert uri.endswith(r"\xff\xfe.jpg")


def remaining_uris(photos):
    for batch in catalogue_of(str(photos)).rows():
        yield from ((row["image_id"], row["uri"]) for row in batch.to_pylist())
