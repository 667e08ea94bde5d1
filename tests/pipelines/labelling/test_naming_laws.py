"""Laws of `name`, on random segments and real text banks: order, batches and interruptions change no row."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.labelling.label import TABLES
from pipelines.labelling.name import NameActor
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import Target, remaining_work
from tests.support.in_process import run_here
from tests.zs3.classification.test_semantic_map import clear, random_segments
from zs3.checkpoint import Checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.config import NamingSettings, TextConfig
from zs3.segmentation.table import segments_row
from zs3.tables import LABELS, SEGMENTS
from zs3.vocabulary import ClassEntry, Vocabulary

NAMES = ("ape", "bee", "cod", "doe", "elk", "fox")
NUMBERS = 7
"""Length of an embedding in `random_segments`."""
SEEDS = st.integers(0, 2**32 - 1)
SETTINGS = st.builds(
    NamingSettings,
    branches=st.sampled_from(["both", "both_own", "both_for_every_class", "query", "image"]),
    calibration=st.sampled_from([0.0, 0.1]),
    image_logit_scale=st.just(1.0),
)


@pytest.fixture(scope="module")
def classifier_of(tiny_recipe, tmp_path_factory):
    """The classifier of class names in some order, whose embeddings are random and stored."""
    folder = tmp_path_factory.mktemp("stored")
    np.save(folder / "embeddings.npy", np.random.default_rng(0).normal(size=(len(NAMES), NUMBERS)))
    (folder / "names.json").write_text(str(list(NAMES)).replace("'", '"'))
    text = TextConfig(embeddings=str(folder))
    recipe = replace(
        tiny_recipe,
        query_text=text,
        image_text=text,
        model=replace(tiny_recipe.model, temperature=1.0),
        segmenting=replace(tiny_recipe.segmenting, image_branch=True),
    )
    checkpoint = Checkpoint(
        origin="laws", recipe=recipe, state={}, seen_classes=("ape", "cod", "fox"), digest="0"
    )
    return lambda vocabulary, naming: SegmentClassifier(
        checkpoint, vocabulary, naming, device=torch.device("cpu")
    )


def listed(names):
    """A vocabulary with ids in order."""
    return Vocabulary(name="v", classes=tuple(ClassEntry(id=i, name=name) for i, name in enumerate(names, 1)))


def corpus(seed, images):
    """Rows of `segments` of several images, of several sizes and numbers of segments."""
    draw = np.random.default_rng(seed)
    rows = []
    for index in range(images):
        size = (int(draw.integers(5, 20)), int(draw.integers(5, 20)))
        segments = random_segments(int(draw.integers(2**31)), segments=int(draw.integers(1, 5)), size=size)
        rows.append(segments_row(f"i{index}", f"i{index}.png", segments, 0.0, "r", store="lossless"))
    return pa.Table.from_pylist(rows, schema=SEGMENTS)


def actor_of(classifier, vocabulary):
    """The actor in this process, with as many threads as there are."""
    return NameActor(classifier=classifier, vocabulary=vocabulary, run="r", threads=torch.get_num_threads())


def by_image(outcomes):
    """Image id → its label rows."""
    return {rows[0]["image_id"]: rows for rows in outcomes["labels"].to_pylist()}


@given(seed=SEEDS, order=st.permutations(NAMES), naming=SETTINGS)
@settings(max_examples=20)
def test_permuting_the_class_list_permutes_the_scores_and_changes_no_name_in_the_table(
    classifier_of, seed, order, naming
):
    segments = random_segments(seed, segments=4, size=(9, 13))
    first, second = classifier_of(listed(NAMES), naming), classifier_of(listed(order), naming)
    scores, permuted = first.scores(segments), second.scores(segments)
    torch.testing.assert_close(permuted, scores[:, [NAMES.index(name) for name in order]])
    # Where two classes tie to rounding, either may win; about one drawing in two hundred has such a pixel.
    assume(clear(segments, scores, torch.tensor(list(first.seen.values())), naming).all())
    rows = pa.Table.from_pylist(
        [segments_row("i", "i.png", segments, 0.0, "r", store="lossless")], schema=SEGMENTS
    )
    named = [
        sorted(by_image(actor_of(classifier, listed(names))(rows))["i"], key=lambda row: row["class_name"])
        for classifier, names in ((first, NAMES), (second, order))
    ]
    for first_row, second_row in zip(*named, strict=True):
        assert first_row.pop("class_id") == NAMES.index(first_row["class_name"]) + 1
        assert second_row.pop("class_id") == order.index(second_row["class_name"]) + 1
        assert first_row.pop("score") == pytest.approx(second_row.pop("score"), abs=1e-5)
        assert first_row == second_row


@given(seed=SEEDS, data=st.data(), naming=SETTINGS)
@settings(max_examples=15)
def test_naming_in_any_batches_and_any_order_gives_the_same_rows(classifier_of, seed, data, naming):
    rows = corpus(seed, images=6)
    order = data.draw(st.permutations(range(6)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 5))))
    actor = actor_of(classifier_of(listed(NAMES), naming), listed(NAMES))
    together = by_image(actor(rows))
    shuffled = rows.take(order)
    apart = {}
    for start, stop in zip([0, *cuts], [*cuts, 6], strict=True):
        apart |= by_image(actor(shuffled.slice(start, stop - start)))
    assert apart == together and len(together) == 6


def run(rows, actor, out, size, *, stop_after=None, commit_interval_s=0.0):
    """Name what the table lacks; killed when so many files were written."""
    target = Target(out=out, results="labels", schema=LABELS, provenance={"run": {"made": "r"}}, digest="r")
    assert target.schemas == TABLES
    ids = rows["image_id"].to_pylist()
    listing = pa.RecordBatch.from_pydict(
        {"image_id": ids, "uri": [f"{image_id}.png" for image_id in ids], "etag": [""] * len(ids)}
    )
    work = remaining_work(Catalogue([listing]), target)
    ids = [image_id for image_id, _ in work.pending]
    pending = rows.filter(pa.compute.is_in(rows["image_id"], pa.array(ids, pa.string())))
    written = 0

    def count(_):
        nonlocal written
        written += 1
        if written == stop_after:
            raise KeyboardInterrupt

    return run_here(pending, actor, work, size=size, on_progress=count, commit_interval_s=commit_interval_s)


@given(
    seed=SEEDS,
    stops=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.0, 1e9])), max_size=3),
    size=st.integers(1, 6),
)
@settings(max_examples=8)
def test_a_run_interrupted_anywhere_and_continued_has_the_rows_of_an_uninterrupted_one(
    classifier_of, seed, stops, size
):
    rows, vocabulary = corpus(seed, images=6), listed(NAMES)
    actor = actor_of(classifier_of(vocabulary, NamingSettings(image_logit_scale=1.0)), vocabulary)
    expected = by_image(actor(rows))
    with tempfile.TemporaryDirectory() as folder:
        for stop_after, batch, interval in stops:
            try:
                run(rows, actor, folder, batch, stop_after=stop_after, commit_interval_s=interval)
            except KeyboardInterrupt:
                continue
        last = run(rows, actor, folder, size)
        assert last.images + last.skipped == 6
        assert run(rows, actor, folder, size).images == 0
        labels = DeltaTable(str(Path(folder, "labels"))).to_pyarrow_table().to_pylist()
    by_id = {image_id: [row for row in labels if row["image_id"] == image_id] for image_id in expected}
    assert by_id == expected
    assert len(labels) == sum(map(len, expected.values()))
