"""An image keeps its id while its folder grows, and one whose name comes again gets its path."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, prepare_label
from tests.support.colour_labeller import colours, picture, request_for
from tests.support.in_process import ONE, run_here
from tests.support.listings import list_images, pending_table


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    for name in ("day1/0001", "day1/0002", "day2/0003"):
        add(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def add(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(path, 5)


def labelled(photos, **changes):
    """Label in this process; the ids that were processed, and those of all rows with their uris below the folder."""
    request = request_for(photos, **changes)
    plan = prepare_label(request, colours())
    pending = pending_table(plan.work)
    rows = [*read_and_decode(pending, max_pixels=1000, run="w")]
    actor = LabelActor(model=colours(), checkpoint="colours", vocabulary=plan.vocabulary, run="w", actors=ONE)
    run_here(pa.concat_tables(rows) if rows else pending, actor, plan.work, size=1)
    table = DeltaTable(f"{request.out}/labels").to_pyarrow_table()
    assert len(table) == 2 * len(set(table["uri"].to_pylist())), "two classes each, and no image twice"
    names = zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True)
    return pending["image_id"].to_pylist(), {key: uri.removeprefix(f"{photos}/") for key, uri in names}


BEGUN = {"0001": "day1/0001.png", "0002": "day1/0002.png", "0003": "day2/0003.png"}


def test_an_image_keeps_its_id_and_one_whose_name_comes_again_gets_its_path(photos):
    assert labelled(photos) == ([*BEGUN], BEGUN)
    add(photos / "day3" / "0001.png")
    add(photos / "day3" / "0009.png")
    grown = BEGUN | {"day3/0001.png": "day3/0001.png", "day3/0009.png": "day3/0009.png"}
    assert labelled(photos) == (["day3/0001.png", "day3/0009.png"], grown)
    assert labelled(photos) == ([], grown), "nothing is left to do"
    work = prepare_label(request_for(photos), colours()).work
    assert (len(work.open_shards), work.skipped) == (0, 5), "the shard of the grown listing is stored as done"
    picture(photos / "day1" / "0001.png", 7)
    assert labelled(photos) == (["0001"], grown), "a changed image is found under its old id"
    (photos / "day1" / "0001.png").unlink()
    assert labelled(photos) == ([], grown), "names are unique again, and the ids of then stay"


def test_an_image_that_failed_keeps_its_id_too(photos):
    (photos / "day1" / "0001.png").write_bytes(b"no picture")
    labelled(photos)
    add(photos / "day3" / "0001.png")
    add(photos / "day1" / "0001.png")
    done, rows = labelled(photos, retry_failures=False)
    assert sorted(done) == ["0001", "day3/0001.png"] and rows.keys() == {*BEGUN, "day3/0001.png"}


def test_a_path_that_is_the_id_of_another_image_gives_way(photos):
    labelled(photos)
    add(photos / "1.png")
    (photos / "1.png").rename(photos / "0001")
    done, rows = labelled(photos)
    assert done == [f"{photos}/0001"] and rows["0001"] == "day1/0001.png"


def test_relative_ids_are_paths_from_the_start_and_never_change(photos):
    done, rows = labelled(photos, ids="relative")
    assert done == [*BEGUN.values()] and rows == {path: path for path in BEGUN.values()}
    add(photos / "day3" / "0001.png")
    assert labelled(photos, ids="relative")[0] == ["day3/0001.png"]
    assert labelled(photos, ids="names")[0] == [], "ids in the tables stay"


def test_other_images_under_the_same_ids_are_refused_with_the_repair(photos):
    labelled(photos)
    photos.rename(photos.parent / "moved")
    request = request_for(photos, images=str(photos.parent / "moved"))
    with pytest.raises(
        ValueError, match=r"called '0001', from .*day1/0001\.png; .*moved.*; list both in one folder"
    ):
        prepare_label(request, colours())


def test_a_listing_alone_gives_the_ids_that_it_gave_before(photos):
    assert [image_id for image_id, _ in list_images(str(photos))] == [*BEGUN]
    add(photos / "day3" / "0001.png")
    assert [image_id for image_id, _ in list_images(str(photos))] == [*BEGUN.values(), "day3/0001.png"]
