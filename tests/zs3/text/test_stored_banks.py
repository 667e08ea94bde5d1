"""Stored text embeddings: rows found by name, whatever the class list, and known by content."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.training.train import TrainRequest, run_name
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.classification.provenance import provenance
from zs3.config import TextConfig
from zs3.inference.labeller import Labeller, seen_bank
from zs3.learning.samples import TrainingClass, TrainingPlan
from zs3.nets.zegformer import ZegFormer
from zs3.text.stored_banks import class_bank, stored_bank, stored_digest
from zs3.vocabulary import ClassEntry, load_vocabulary, parse_class_list

CPU = torch.device("cpu")
NAMES = ["background", "dog", "couch", "potted_plant", "tv", "ape"]


@pytest.fixture
def folder(tmp_path):
    """Six rows; that of background is zero, as some stored word vectors have it."""
    rows = np.random.default_rng(0).normal(size=(6, 384)).astype(np.float16)
    rows[0] = 0
    np.save(tmp_path / "embeddings.npy", rows)
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    return tmp_path


def entries(*names, synonyms=()):
    return [ClassEntry(id=i + 1, name=name, synonyms=synonyms) for i, name in enumerate(names)]


def test_rows_are_found_by_name_by_meaning_and_by_synonym(folder):
    rows = np.load(folder / "embeddings.npy").astype(np.float32)
    asked = [*entries("tvmonitor", "Potted Plant", "sofa"), *entries("monkey", synonyms=("ape",))]
    bank = stored_bank(folder, asked, [True] * 4)
    expected = rows[[4, 3, 2, 5]]
    np.testing.assert_allclose(
        bank.embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), 1e-6
    )
    assert bank.names == ("tvmonitor", "Potted Plant", "sofa", "monkey")


def test_its_own_name_wins_over_one_of_the_same_meaning(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.eye(3))
    (tmp_path / "names.json").write_text(json.dumps(["couch", "sofa", "dog"]))
    found = [stored_bank(tmp_path, entries(n), [True]).embeddings.argmax() for n in ("sofa", "couch")]
    assert found == [1, 0]
    with pytest.raises(ValueError, match=r"class 'settee' could be the row of any of \['couch', 'sofa'\]"):
        stored_bank(tmp_path, entries("settee"), [True])


@pytest.mark.parametrize("kind", ["clip_text_vitb16/voc12_single", "word_vectors/voc_fasttext"])
def test_the_shared_embeddings_have_a_row_for_each_class_of_voc(kind, shared, tmp_path):
    """The three sources spell classes differently; every one must be found, and in its own order."""
    stored = shared / "data" / "text" / f"{kind}.npy"
    if "clip" in kind:
        names = json.loads((stored.parent / "names.json").read_text())["voc12_single"]
    else:
        lines = (stored.parent / "voc_labels.txt").read_text().splitlines()
        names = [line.split("\t")[1] for line in lines]
    np.save(tmp_path / "embeddings.npy", np.load(stored))
    (tmp_path / "names.json").write_text(json.dumps(names))
    classes = load_vocabulary("voc").candidates
    bank = stored_bank(tmp_path, classes, [True] * 20)
    rows = np.load(stored).astype(np.float32)[-20:]
    np.testing.assert_allclose(bank.embeddings, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)


BROKEN = {
    "no row for class 'zebra' among the 6 names": lambda f: stored_bank(f, entries("zebra"), [True]),
    "row of 'background' .* is zero": lambda f: stored_bank(f, entries("background"), [True]),
    "expected a float matrix with 6 rows": lambda f: (
        np.save(f / "embeddings.npy", np.ones((5, 2))),
        stored_bank(f, entries("dog"), [True]),
    ),
    "must hold a JSON list of names": lambda f: (
        (f / "names.json").write_text("{}"),
        stored_bank(f, entries("dog"), [True]),
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_folder_that_does_not_serve_is_refused(message, folder):
    with pytest.raises(ValueError, match=message):
        BROKEN[message](folder)


def test_a_missing_file_is_named(folder, tmp_path):
    (folder / "names.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no text embeddings at .*names\.json"):
        stored_bank(folder, entries("dog"), [True])
    with pytest.raises(FileNotFoundError, match="no text embeddings"):
        stored_digest(tmp_path / "absent")


def test_a_recipe_takes_a_folder_a_matrix_or_names(folder):
    asked, text = entries("dog", "sofa"), TextConfig(embeddings=str(folder))
    by_name = class_bank(text, asked, [True, False], device=CPU)
    np.save(folder / "two.npy", np.load(folder / "embeddings.npy")[1:3])
    in_order = class_bank(replace(text, embeddings=str(folder / "two.npy")), asked, [True, False], device=CPU)
    assert np.array_equal(by_name.embeddings, in_order.embeddings)
    assert by_name.seen.tolist() == in_order.seen.tolist() == [True, False]


@pytest.fixture
def checkpoint(folder, tiny_recipe, tmp_path):
    torch.manual_seed(1)
    text = TextConfig(encoder=tiny_recipe.query_text.encoder, embeddings=str(folder))
    recipe = replace(tiny_recipe, query_text=text)
    save_checkpoint(tmp_path / "model", recipe, ZegFormer(recipe.model), ["dog", "sofa"])
    return load_checkpoint(str(tmp_path / "model"))


def test_the_same_folder_serves_the_seen_classes_and_every_list(checkpoint):
    assert seen_bank(checkpoint, CPU).shape == (2, 384)
    for classes in ("dog\nsofa\ntv*\n", "tv\ndog\n"):
        labeller = Labeller(checkpoint, parse_class_list(classes, "some"), device=CPU)
        assert len(labeller.classifier.query_bank.names) == classes.count("\n")


def test_stored_names_count_by_content_and_not_by_place(checkpoint, folder, tiny_recipe, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for name in ("embeddings.npy", "names.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    assert stored_digest(other) == stored_digest(folder)
    plan = TrainingPlan(
        refs=(),
        layouts=(),
        vocabularies=(),
        classes=(TrainingClass(name="dog", synonyms=()),),
        tables=(),
    )

    def name(place):
        text = replace(checkpoint.recipe.query_text, embeddings=str(place))
        recipe = replace(checkpoint.recipe, query_text=text)
        return run_name(TrainRequest(recipe=recipe, data_root="", out=""), plan)

    classes = parse_class_list("dog\n", "one")
    before, labelled = name(folder), provenance(checkpoint, classes)
    assert name(other) == before
    np.save(folder / "embeddings.npy", np.load(folder / "embeddings.npy") * np.float16(2))
    assert name(folder) != before
    changed = provenance(checkpoint, classes)
    assert {key for key in changed if changed[key] != labelled[key]} == {"query_names"}


def test_encoded_names_leave_provenance_as_it_was():
    parts = provenance(load_checkpoint("zs3-mini"), parse_class_list("dog\n", "one"))
    assert set(parts) == {"checkpoint", "segmenting", "naming", "vocabulary", "zs3"}
