"""Text banks: prompts, tokens and features against those of the published code, and the bank's own laws."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.parity import facts
from zs3.text.bank import TextBank, phrases_of, prompt_templates, prompts, template_sets, text_bank
from zs3.text.stored_banks import stored_bank
from zs3.vocabulary import ClassEntry

# Measured worst case 3e-7 against the recorded features of the published code, float32 on both sides.
FEATURE_TOLERANCE = 2e-6
FACTS = facts("text")


class LetterEncoder:
    """A stand-in for a text network: a phrase's vector counts its letters."""

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        counts = torch.tensor([[phrase.count(chr(97 + i)) for i in range(26)] for phrase in phrases])
        rows = counts.float() + 0.01
        return rows / rows.norm(dim=-1, keepdim=True)


def entries(*names: str, synonyms: tuple[str, ...] = ()) -> list[ClassEntry]:
    return [ClassEntry(id=i + 1, name=name, synonyms=synonyms) for i, name in enumerate(names)]


def test_templates_are_those_of_the_published_code() -> None:
    recorded = FACTS["templates"]
    recorded["imagenet_select_clip"] = recorded.pop("clip_image_branch")
    assert {name: list(prompt_templates(name)) for name in recorded} == recorded


def test_every_template_has_one_place_for_the_name() -> None:
    assert all(string.count("{}") == 1 for strings in template_sets().values() for string in strings)


def test_an_unknown_template_set_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ValueError, match=r"'fancy'.*imagenet_select"):
        prompt_templates("fancy")


@pytest.mark.parametrize("dataset", ["voc", "coco", "ade847"])
def test_prompts_and_tokens_equal_the_recorded_ones(dataset: str, recordings, recorded_encoder) -> None:
    names = FACTS["class_names"][dataset]
    three = [prompt_templates(name)[0] for name in ("single", "imagenet_select", "imagenet_select_clip")]
    made = [p for entry in entries(*names) for p in prompts(phrases_of(entry, synonyms=True), three)]
    assert hashlib.sha256("\n".join(made).encode()).hexdigest() == FACTS["prompts"][dataset]
    tokens = recorded_encoder.tokenizer(made).numpy()
    assert np.array_equal(tokens[:, :40], recordings("text")[f"tokens/{dataset}/tokens"])
    assert not tokens[:, 40:].any()


@pytest.mark.parametrize("kind", ["single", "imagenet_select", "imagenet", "imagenet_select_clip"])
def test_text_features_with_synonyms_equal_the_recorded_ones(kind: str, recordings, recorded_encoder) -> None:
    names = [str(name) for name in recordings("text")["synonyms/names"]]
    bank = text_bank(
        entries(*names), recorded_encoder, templates=kind, seen=[True] * len(names), synonyms=True
    )
    key = "clip_image_branch" if kind == "imagenet_select_clip" else kind
    assert recordings("text").worst(f"synonyms/{key}", bank.embeddings) < FEATURE_TOLERANCE


@pytest.mark.parametrize("kind", ["single", "imagenet_select", "imagenet"])
def test_text_features_of_the_voc_classes_equal_the_recorded_ones(
    kind: str, recordings, recorded_encoder
) -> None:
    for key, names in (("train", FACTS["train_class_names"]), ("test", FACTS["test_class_names"])):
        for suffix, templates_of_branch in (("", kind), ("_clip", "imagenet_select_clip")):
            bank = text_bank(
                entries(*names),
                recorded_encoder,
                templates=templates_of_branch,
                seen=[True] * len(names),
                synonyms=True,
            )
            assert recordings("text").worst(f"{kind}/{key}{suffix}", bank.embeddings) < FEATURE_TOLERANCE


def test_synonyms_take_part_only_when_asked() -> None:
    (entry,) = entries("sofa, couch", synonyms=("settee", "couch"))
    assert phrases_of(entry, synonyms=True) == ("sofa", "couch", "settee")
    assert phrases_of(entry, synonyms=False) == ("sofa", "couch"), "a name that holds commas, as ADE20K's do"


def test_permuting_the_classes_permutes_the_rows() -> None:
    names, order = ["cat", "dog", "tree"], [2, 0, 1]
    encoder = LetterEncoder()
    bank = text_bank(entries(*names), encoder, templates="single", seen=[True, False, True], synonyms=True)
    permuted = text_bank(
        entries(*(names[i] for i in order)),
        encoder,
        templates="single",
        seen=[[True, False, True][i] for i in order],
        synonyms=True,
    )
    assert np.array_equal(permuted.embeddings, bank.embeddings[order])
    assert np.array_equal(permuted.seen, bank.seen[order])


def test_a_bank_of_a_stored_matrix_has_unit_rows_of_the_stored_directions(tmp_path: Path) -> None:
    matrix = np.array([[3.0, 4.0], [0.0, -2.0]], dtype=np.float16)
    np.save(tmp_path / "bank.npy", matrix)
    bank = stored_bank(tmp_path / "bank.npy", entries("a", "b"), [True, False])
    assert np.allclose(bank.embeddings, [[0.6, 0.8], [0, -1]])


def test_a_stored_matrix_with_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", np.ones((3, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="expected a float matrix with 2 rows"):
        stored_bank(tmp_path / "bank.npy", entries("a", "b"), [True, True])
    with pytest.raises(FileNotFoundError, match="no text embeddings"):
        stored_bank(tmp_path / "absent.npy", entries("a"), [True])


BROKEN: dict[str, Callable[[], TextBank]] = {
    "come more than once": lambda: bank_of(names=("a", "a")),
    "at least one class": lambda: bank_of(names=(), rows=np.zeros((0, 2))),
    r"1 numbers of a text bank are not finite, the first at \[1, 0\], in the row of 'b'": lambda: bank_of(
        rows=np.array([[1.0, 0], [np.nan, 1]])
    ),
    "unit vector, but that of 'b' has length 2": lambda: bank_of(rows=np.array([[1.0, 0], [0, 2]])),
    r"\(2, D\) matrix": lambda: bank_of(rows=np.eye(3)),
    "seen must be": lambda: bank_of(seen=np.array([True])),
    "float32": lambda: bank_of(dtype=np.float64),
}


def bank_of(
    names: tuple[str, ...] = ("a", "b"),
    rows: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    dtype: type = np.float32,
) -> TextBank:
    return TextBank(
        names=names,
        embeddings=(np.eye(2) if rows is None else rows).astype(dtype),
        seen=np.array([True, False]) if seen is None else seen,
    )


@pytest.mark.parametrize("message", BROKEN)
def test_a_bank_whose_parts_do_not_fit_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BROKEN[message]()
