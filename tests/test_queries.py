"""docs/queries.md is run as it stands, on tables of the real pipelines, and its answers are computed another way."""

import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image

from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.segment import SegmentRequest, segment
from pipelines.tables.delta_reader import provenance_of
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.in_process import graphs_in_process
from zs3.checkpoint import save_checkpoint
from zs3.config import TextConfig
from zs3.encoders import EncoderConfig
from zs3.nets.zegformer import ZegFormer
from zs3.tables import FAILURES, LABELS
from zs3.text.stored_banks import phrase_embeddings

NAMES = ["dog", "sheep", "grass", "dogs", "car", "sky", "person", "rug", "book", "knife", "river", "lamp"]
IMAGES = 3


@pytest.fixture(scope="module")
def tables(tmp_path_factory, tiny_recipe):
    """A folder where `zs3 segment` and `zs3 name` have run, with an image that is none and an uncommitted file."""
    folder = tmp_path_factory.mktemp("queries")
    recipe = replace(
        tiny_recipe,
        image_text=TextConfig(encoder=EncoderConfig(kind="imagenet_words")),
        segmenting=replace(tiny_recipe.segmenting, image_branch=True, crop_empty_masks=False),
        naming=replace(tiny_recipe.naming, branches="both"),
    )
    torch.manual_seed(3)
    network = ZegFormer(recipe.model)
    with torch.no_grad():
        # Random weights make one segment ten times over; these make ten that are named differently.
        network.mask_embed[-1].weight.mul_(20)
        network.decoder.query_embed.weight.mul_(4)
    save_checkpoint(folder / "model", recipe, network, ["dog", "grass"])
    draw = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(IMAGES):
        coarse = draw.integers(0, 256, (4, 5 + index, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80 + 16 * index, 64)).save(folder / "photos" / f"{index}.png")
    (folder / "photos" / "bad.png").write_bytes(b"no picture")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    kept, named = str(folder / "kept"), str(folder / "named")
    classes = str(folder / "classes.txt")
    with graphs_in_process():
        done = segment(
            SegmentRequest(images=str(folder / "photos"), checkpoint=str(folder / "model"), out=kept)
        )
        assert (done.images, done.failed) == (IMAGES, 1)
        assert name(NameRequest(segments=kept, classes=classes, out=named)).images == IMAGES
    rows = DeltaTable(str(folder / "named/labels")).to_pyarrow_table()
    write_data_file(str(folder / "named/labels"), rows.cast(LABELS))
    return folder


@pytest.fixture(scope="module")
def page(repo, tables):
    """What the variables of the page hold after all of its code, run from top to bottom."""
    code = re.findall(
        r"^```python\n(.*?)^```", (repo / "docs/queries.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(code) >= 7
    held: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tables)
        for block in code:
            exec(compile(block, "docs/queries.md", "exec"), held)
        fetched = {
            key: value.fetchall() if hasattr(value, "fetchall") else value for key, value in held.items()
        }
    return SimpleNamespace(**{key: value for key, value in fetched.items() if not key.startswith("__")})


@pytest.fixture(scope="module")
def stored(tables):
    """The rows of both tables."""
    read = lambda place: DeltaTable(str(tables / place)).to_pyarrow_table().to_pylist()  # noqa: E731
    return SimpleNamespace(labels=read("named/labels"), segments=read("kept/segments"))


def test_only_committed_rows_are_asked(page, stored, tables):
    assert page.regions == (len(stored.labels),)
    files = list((tables / "named/labels").glob("*.parquet"))
    assert len(files) > len(page.files), "the folder holds a file that no commit names"


def test_pixels_per_class(page, stored):
    pixels, images = Counter(), Counter()
    for row in stored.labels:
        pixels[row["class_name"]] += row["area"]
        images[row["class_name"]] += 1
    assert {(name, images[name], count) for name, count in pixels.items()} == {
        line[:3] for line in page.pixels_per_class
    }
    assert [line[2] for line in page.pixels_per_class] == sorted(pixels.values(), reverse=True)
    assert sum(line[3] for line in page.pixels_per_class) == pytest.approx(1)
    assert len(pixels) > 1, "a table of one class would not tell much"


def test_images_whose_branches_disagree_most(page, stored):
    expected = sorted(stored.segments, key=lambda row: (-row["disagreement"], row["image_id"]))
    assert [line[0] for line in page.most_disputed] == [row["image_id"] for row in expected]
    assert 0 < page.most_disputed[-1][2] <= page.most_disputed[0][2] <= 1
    for image_id, _, called in page.disputed_labels:
        of_image = [row for row in stored.labels if row["image_id"] == image_id]
        areas = sorted(of_image, key=lambda row: -row["area"])
        assert called == ", ".join(row["class_name"] for row in areas)


@pytest.mark.parametrize(
    ("answer", "column", "text"),
    [("nearest", "query_embeddings", "query_text"), ("seen_nearest", "image_embeddings", "image_text")],
)
def test_segments_nearest_to_a_phrase(page, stored, answer, column, text):
    (phrase,) = phrase_embeddings(getattr(page.recipe, text), ["a brown dog"])
    cosines = {
        (row["image_id"], index): float(np.dot(embedding, phrase))
        for row in stored.segments
        for index, embedding in enumerate(row[column])
    }
    answers = getattr(page, answer)
    assert len(answers) == min(20, len(cosines)) > 3
    best = sorted(cosines.values(), reverse=True)[: len(answers)]
    # The page divides by the norm, which the compact store moves by up to 0.001; a wrong space is off by more than 0.1.
    assert [line[2] for line in answers] == pytest.approx(best, abs=2e-3)
    for image_id, index, cosine, *_ in answers:
        assert cosine == pytest.approx(cosines[image_id, index], abs=2e-3)


def test_near_duplicate_class_names(page):
    assert page.names == NAMES
    first, second, cosine = page.near_duplicates[0]
    assert (first, second) == ("dog", "dogs") and 0.8 < cosine < 1
    assert len(page.near_duplicates) == 20


def test_a_table_whose_files_a_delete_rewrote_answers_as_well(tables):
    """Images that failed and are tried again leave their table by a Delta delete, which rewrites files."""
    uri = str(tables / "kept/failures")
    (failed,) = DeltaTable(uri).to_pyarrow_table().to_pylist()
    more = pa.Table.from_pylist(
        [{**failed, "image_id": f"more{index}"} for index in range(3)], schema=FAILURES
    )
    held = open_table(uri, FAILURES, provenance_of(DeltaTable(uri)))
    publish(held, FAILURES, [write_data_file(uri, more)], run=failed["run"], written_ms=0)
    held.delete("image_id = 'more1'")
    failures = DeltaTable(uri).to_pyarrow_dataset()
    found = duckdb.sql(
        "select image_id from failures where image_id like 'more%' and stage = 'decode' order by 1"
    )
    assert found.fetchall() == [("more0",), ("more2",)]
    assert failures.count_rows() == 3
