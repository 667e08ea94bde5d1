"""Class lists whose names a model can hardly tell apart: what is warned of, what is refused, and what is neither."""

import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.classification.classifier import SegmentClassifier, branches
from zs3.config import NamingSettings, TextConfig
from zs3.encoders import EncoderConfig
from zs3.text.bank import TextBank
from zs3.text.confusable import (
    IDENTICAL,
    MAX_PAIRS,
    MAX_WARNINGS,
    BranchBank,
    close_pairs,
    confusable_warnings,
)
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import ClassEntry, load_vocabulary, parse_class_list

CPU = torch.device("cpu")


def view(rows, branch="query", logit_scale=20.0):
    """A branch that compares with these rows, made unit."""
    rows = np.asarray(rows, np.float64)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    names = tuple(f"c{index}" for index in range(len(rows)))
    bank = TextBank(names=names, embeddings=rows, seen=np.zeros(len(rows), bool))
    return BranchBank(branch, bank, logit_scale)


def turned(*cosines):
    """Rows of a plane: the first axis, and one for each cosine with it."""
    return [(1, 0), *((cosine, np.sqrt(1 - cosine**2)) for cosine in cosines)]


def classes(*lines):
    return parse_class_list("\n".join(lines), "some").candidates


def pairs_of(lines, *views):
    return [(pair.first, pair.second) for pair in close_pairs(classes(*lines), views)]


def test_how_near_is_close_depends_on_how_sharply_a_branch_compares():
    rows = turned(0.93)
    assert pairs_of(["a", "b"], view(rows)) == [("a", "b")]
    assert pairs_of(["a", "b"], view(rows, logit_scale=100.0)) == []
    assert pairs_of(["a", "b"], view(turned(0.7), logit_scale=1.0)) == [], "never below the least cosine"


def test_a_pair_is_told_with_the_cosine_of_every_branch_and_the_nearest_comes_first():
    query, image = view(turned(0.95, -0.5)), view(turned(0.3, 0.97), "image")
    nearest, other = close_pairs(classes("cat", "dog", "cow"), [query, image])
    assert (nearest.first, nearest.second, other.first, other.second) == ("cat", "cow", "cat", "dog")
    assert dict(other.cosines) == pytest.approx({"query": 0.95, "image": 0.3}, abs=1e-6)
    (line, _) = confusable_warnings([nearest, other])
    assert line == (
        "classes 'cat' and 'cow' are hard to tell apart: cosine -0.500 in the query bank and 0.970 in the image bank"
    )


def test_a_synonym_of_two_classes_or_equal_to_another_class_is_told_however_far_the_embeddings():
    (bag, bat) = close_pairs(classes("bag: purse, sack", "bat: Club", "sack_", "club"), [view(np.eye(4))])
    assert [(pair.first, pair.second, pair.shared) for pair in (bag, bat)] == [
        ("bag", "sack_", ("sack",)),
        ("bat", "club", ("club",)),
    ]
    assert str(bag).endswith("cosine 0.000 in the query bank; both may be called 'sack'")
    (both,) = close_pairs(classes("cup: mug", "beaker: mug"), [view(np.eye(2))])
    assert both.shared == ("mug",)


def test_names_that_the_shipped_synonyms_make_one_thing_are_told():
    (pair,) = close_pairs(classes("sofa", "cat", "couch"), [view(np.eye(3))])
    assert (pair.first, pair.second, pair.shared) == ("sofa", "couch", ("sofa",))


def test_only_the_nearest_few_get_a_line_and_the_rest_are_counted():
    pairs = close_pairs(classes(*"abcd"), [view(turned(0.97, 0.98, 0.99))])
    lines = confusable_warnings(pairs)
    assert len(pairs) == 6 and len(lines) == MAX_WARNINGS + 1
    assert lines[-1].startswith("1 more pairs of classes")
    assert confusable_warnings(pairs[:MAX_WARNINGS]) == lines[:MAX_WARNINGS] and confusable_warnings([]) == []


def test_of_many_alike_classes_the_nearest_thousand_are_kept_in_little_memory():
    angles = np.linspace(0, 0.3, 2000)
    bank = view(np.stack((np.cos(angles), np.sin(angles)), axis=1), logit_scale=1.0)
    entries = [ClassEntry(id=number, name=f"name {number}") for number in range(2000)]
    entries[7], entries[1900] = replace(entries[7], synonyms=("x",)), replace(entries[1900], synonyms=("x",))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"'name 0' and 'name 1' \(and \d+ more pairs\) have the same"):
        close_pairs(entries, [bank])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, "kilobytes"
    spread = view(np.stack((np.cos(angles * 20), np.sin(angles * 20)), axis=1), logit_scale=1.0)
    pairs = close_pairs(entries, [spread])
    assert len(pairs) == MAX_PAIRS
    assert all(int(pair.second[5:]) - int(pair.first[5:]) == 1 for pair in pairs), "neighbours are nearest"
    assert confusable_warnings(pairs)[-1].startswith("at least 995 more pairs of classes")


def test_classes_that_no_branch_can_tell_apart_are_refused_with_the_repair():
    same = turned(1 - 1e-9)
    with pytest.raises(
        ValueError, match=r"'sofa' and 'settee' have the same .* the query bank.*\(sofa: settee\)"
    ):
        close_pairs(classes("sofa", "settee"), [view(same)])
    with pytest.raises(ValueError, match=r"'a' and 'b' have the same .* query bank and image bank"):
        close_pairs(classes("a", "b"), [view(same), view(same, "image", 100.0)])
    with pytest.raises(ValueError, match=r"\(and 2 more pairs\)"):
        close_pairs(classes("a", "b", "c"), [view([(1, 0)] * 3)])
    (pair,) = close_pairs(classes("a", "b"), [view(same), view(turned(0.1), "image")])
    assert pair.cosines["query"] >= IDENTICAL, "one branch that tells them apart is enough to run"
    (pair,) = close_pairs(classes("sofa", "settee"), [view(same)], allow_identical=True)
    assert (pair.first, pair.second) == ("sofa", "settee") and pair.cosines["query"] >= IDENTICAL


@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(7)))
def test_the_pairs_do_not_depend_on_the_order_of_the_list(seed, order):
    rows = np.random.default_rng(seed).normal(size=(7, 3))
    names = [f"name{index}" for index in range(7)]
    found = close_pairs(classes(*names), [view(rows)])
    shuffled = close_pairs(classes(*(names[i] for i in order)), [view(rows[list(order)])])
    alike = lambda pairs: {frozenset((pair.first, pair.second)): pair.cosines["query"] for pair in pairs}  # noqa: E731
    assert alike(shuffled) == pytest.approx(alike(found), abs=1e-12)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = {
        frozenset((names[i], names[j])) for i in range(7) for j in range(i) if unit[i] @ unit[j] >= 0.9 + 1e-6
    }
    assert expected <= set(alike(found)), "every pair from the cosine of 1 - 2/20 on"
    assert all(cosine >= 0.9 - 1e-6 for cosine in alike(found).values())


def test_the_float_error_of_an_encoder_is_far_below_what_counts_as_identical():
    """One name, encoded alone and beside a long one, which pads it: 1e-12 measured, and 1e-6 is refused."""
    text = TextConfig(encoder=EncoderConfig(kind="minilm"))
    entry = ClassEntry(id=1, name="sheep")
    long = ClassEntry(
        id=2, name="a very long name that fills many tokens of the encoder's window with padding"
    )
    alone = class_bank(text, [entry], [True], device=CPU).embeddings[0].astype(np.float64)
    padded = class_bank(text, [entry, long], [True] * 2, device=CPU).embeddings[0].astype(np.float64)
    cosine = alone @ padded / np.linalg.norm(alone) / np.linalg.norm(padded)
    assert 1 - cosine < (1 - IDENTICAL) / 1e3


@pytest.fixture(scope="module")
def checkpoint(tiny_recipe):
    return Checkpoint(origin="tiny", recipe=tiny_recipe, state={}, seen_classes=("cat",), digest="0")


def test_a_list_that_says_one_thing_twice_is_refused_by_the_embeddings(checkpoint):
    vocabulary = parse_class_list("cat\nsofa: lounge\nlounge: sofa", "twice")
    with pytest.raises(ValueError, match="'sofa' and 'lounge' have the same embedding"):
        SegmentClassifier(checkpoint, vocabulary, device=CPU).confusable()


def test_the_shipped_lists_can_be_told_apart(checkpoint):
    """MiniLM at the sharpness of the tiny recipe, which is 20: closeness begins at a cosine of 0.9."""
    assert SegmentClassifier(checkpoint, load_vocabulary("voc"), device=CPU).confusable() == []
    assert SegmentClassifier(checkpoint, load_vocabulary("coco_stuff"), device=CPU).confusable() == []


def test_only_banks_that_name_are_checked(tiny_recipe):
    with_images = replace(tiny_recipe, segmenting=replace(tiny_recipe.segmenting, image_branch=True))
    baseline = replace(with_images, model=replace(tiny_recipe.model, architecture="pixel_level"))
    of = lambda recipe, which: branches(recipe, NamingSettings(branches=which))  # noqa: E731
    assert of(with_images, "both_own") == ("query", "image")
    assert of(with_images, "query") == ("query",) and of(with_images, "image") == ("image",)
    assert of(tiny_recipe, "both") == of(tiny_recipe, "image") == of(baseline, "both") == ("query",)


@pytest.mark.parametrize("names", [("猫", "狗"), ("ꆈ", "ꌠ")])
def test_names_that_the_text_encoder_cannot_read_are_told_with_their_tokens_and_refused_where_equal(names):
    classifier = SegmentClassifier(
        load_checkpoint("zs3-mini"), parse_class_list("\n".join(names), "some"), device=CPU
    )
    told = classifier.unread_names()
    assert [f"all of class {name!r}, which it reads as [UNK]; name the class in English" in line
            for name, line in zip(names, told, strict=True)] == [True, True]  # fmt: skip
    with pytest.raises(ValueError, match=f"classes {names[0]!r} and {names[1]!r} have the same embedding"):
        classifier.confusable()
