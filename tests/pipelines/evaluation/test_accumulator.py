"""What an evaluation keeps of its images in files equals what lists in memory would hold."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.ground_truth import Truth, open_truth
from pipelines.evaluation.image_scores import IMAGE_SCORES
from zs3.evaluation.matching import chosen
from zs3.images.codec import encode_label_png
from zs3.metrics import PROTOCOLS
from zs3.tables import SCORES
from zs3.vocabulary import ClassEntry, Vocabulary

VOCABULARY = Vocabulary(name="v", classes=(ClassEntry(id=1, name="cat"), ClassEntry(id=2, name="cow")))


def scored(image_id: str, **changes: Any) -> dict[str, Any]:
    """The score row of an image of ten cat pixels, seven of them labelled cat."""
    lists = {name: [] for name in SCORES.names if name != "image_id"}
    row = {"image_id": image_id, **lists, "truth": [1, 1], "prediction": [1, 2], "pixels": [7, 3]}
    row |= {"file": f"file of {image_id}", "miou": 70.0, "truth_digest": f"digest of {image_id}"}
    return row | {"status": "scored", "oracles": []} | changes


def accumulated(folder: Path, *blocks: list[dict[str, Any]], ends: tuple[str, ...] = ()) -> Any:
    """An accumulator with these rows."""
    images = EvaluationAccumulator(folder, VOCABULARY.classes, PROTOCOLS["zs3"], ends)
    for rows in blocks:
        images.add(pa.Table.from_pylist(rows, schema=IMAGE_SCORES))
    return images


def test_every_image_has_one_status_and_only_scored_ones_count(tmp_path: Path) -> None:
    oracle = {"name": "true_masks", "truth": [1], "prediction": [1], "pixels": [5]}
    images = accumulated(
        tmp_path,
        [
            scored("b", labelled=[1], score=[0.5], oracles=[oracle, oracle | {"name": "oracle_group"}]),
            scored("out", status="outside"),
            scored("bad", status="error", message="no mask"),
            scored("lost", status="failed", message="cut"),
        ],
        [scored("a", oracles=[oracle])],
        [scored("far", status="outside")],
        ends=("a",),
    )
    images.add_outside(["left"])
    assert images.count == {"scored": 2, "outside": 3, "error": 1, "failed": 1}
    assert int(images.confusion.pixels.sum()) == 20
    assert {name: int(held.pixels.sum()) for name, held in images.oracles.items()} == {
        "true_masks": 10,
        "oracle_group": 5,
    }
    assert images.reliability.sums_2B3[0].sum(axis=0).tolist() == [7, 7, 3.5]
    assert images.errors(5) == (1, ["no mask"])
    assert [row["image_id"] for row in images.first("outside", 5)] == ["far", "left", "out"]
    assert images.failures(["lost", "a"]) == {"lost": "cut"}
    assert images.files(["a"]) == {"a": "file of a"}
    assert list(images.truth_digests()) == [("a", "digest of a"), ("b", "digest of b")]
    rows = pa.concat_tables(images.scores.tables(rows_at_once=1))
    assert rows.schema == SCORES and rows["image_id"].to_pylist() == ["a", "b"]
    assert rows["pixels"].to_pylist() == [[7, 3], [7, 3]]


def test_an_image_in_two_places_is_an_error(tmp_path: Path) -> None:
    images = accumulated(tmp_path, [scored("b"), scored("a"), scored("b")])
    count, (message,) = images.errors(5)
    assert count == 1 and message.startswith("the rows of 'b' lie in two places")


@given(
    mious=st.lists(st.one_of(st.floats(0, 100), st.just(math.nan)), max_size=25),
    count=st.integers(0, 12),
    seed=st.integers(0, 3),
)
def test_a_gallery_is_chosen_as_from_a_list_of_all_images(
    tmp_path_factory: pytest.TempPathFactory, mious: list[float], count: int, seed: int
) -> None:
    ids = [f"i{number:02}" for number in range(len(mious))]
    by_id = dict(zip(ids, mious, strict=True))
    found = {}
    for order in (ids, random.Random(seed).sample(ids, len(ids))):
        rows = [scored(image_id, miou=by_id[image_id]) for image_id in order]
        images = accumulated(tmp_path_factory.mktemp("images"), rows)
        found[tuple(order)] = chosen(images.gallery_candidates(count, seed), count, seed)
    first, *others = found.values()
    assert all(sorted(other) == sorted(first) for other in others)
    whole = chosen(by_id, count, seed)
    worth = [pick for pick in first if pick[1] != "random"]
    assert worth == [pick for pick in whole if pick[1] != "random"] and len(first) == len(whole)


@pytest.fixture
def truth(ray_session: None, tmp_path: Path) -> Truth:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for one in ("b", "a", "c"):
            (tmp_path / folder / f"{one}.png").write_bytes(encode_label_png(np.ones((2, 2), int)))
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 1, "name": "cat"}]}')
    (tmp_path / "splits.json").write_text('{"val": ["c", "a", "b"]}')
    return open_truth("folder", str(tmp_path), "val")


def test_tasks_find_their_images_and_what_was_not_scored_is_counted_without_a_list(truth: Truth) -> None:
    assert (truth.images, truth.split, [entry.name for entry in truth.vocabulary.classes]) == (
        3,
        "val",
        ["cat"],
    )
    (ref,) = truth.find(["b", "z"]).values()
    assert ref.id == "b" and str(ref.truth_uri).endswith("masks/b.png")
    assert [one.id for one in truth.dataset(["c"]).refs] == ["c"]
    assert "a" in truth and "z" not in truth and 3 not in truth
    assert truth.not_in_split(iter([pa.table({"image_id": ["a", "z"]}), pa.table({"image_id": ["y"]})])) == [
        "y",
        "z",
    ]
    scored, failed = ([pa.table({"image_id": ids})] for ids in (["a"], ["c", "z"]))
    assert truth.unscored(iter(scored), iter(failed), most=1) == (2, ["b"], 1)
    assert truth.range_ends() == []
    rows = sorted((row["start"], row["stop"]) for row in truth.slices(2).iter_rows())
    assert rows == [(0, 2), (2, 3)]


def test_a_split_that_is_not_there_is_told_as_the_data_set_tells_it(
    ray_session: None, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor a shipped name"):
        open_truth("folder", str(tmp_path / "nowhere"), "val")
