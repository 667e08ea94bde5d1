"""Scores against a triple loop and the published evaluator's recorded outputs, and the laws of counting."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.parity import Recording, facts
from zs3.metrics import (
    PROTOCOLS,
    UNKNOWN,
    UNLABELLED,
    Confusion,
    Scores,
    confusion,
    counted,
    scores,
    total,
    with_true_masks,
    with_true_names,
)

IGNORE = 255
SHAPE = (5, 7)


@dataclass(frozen=True)
class Entry:
    id: int
    name: str
    role: str = "seen"


CLASSES = (
    Entry(0, "background", "background"),
    Entry(1, "cat"),
    Entry(2, "dog"),
    Entry(3, "cow", "unseen"),
    Entry(4, "sheep", "unseen"),
    Entry(9, "blur", "excluded"),
)
TRUE_IDS = [entry.id for entry in CLASSES] + [IGNORE]
GIVEN_IDS = [entry.id for entry in CLASSES] + [UNLABELLED, UNKNOWN]


def maps(ids: list[int]) -> st.SearchStrategy[np.ndarray]:
    """Small (H, W) maps of the given ids."""
    count = SHAPE[0] * SHAPE[1]
    return st.lists(st.sampled_from(ids), min_size=count, max_size=count).map(
        lambda flat: np.array(flat, np.int32).reshape(SHAPE)
    )


PAIRS = st.tuples(maps(TRUE_IDS), maps(GIVEN_IDS))
quick = settings(max_examples=40, deadline=None)


def as_dict(sketch: Confusion) -> dict[tuple[int, int], int]:
    keys = zip(sketch.truth.tolist(), sketch.prediction.tolist(), strict=True)
    return dict(zip(keys, sketch.pixels.tolist(), strict=True))


def equal(first: Confusion, second: Confusion) -> bool:
    return as_dict(first) == as_dict(second)


def same_number(first: float, second: float | None) -> bool:
    return (
        math.isnan(first)
        if second is None or math.isnan(second)
        else first == pytest.approx(second, abs=1e-9)
    )


@quick
@given(PAIRS)
def test_confusion_and_scores_agree_with_a_triple_loop(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    counts: dict[tuple[int, int], int] = {}
    for y in range(SHAPE[0]):
        for x in range(SHAPE[1]):
            if truth[y, x] != IGNORE:
                key = (int(truth[y, x]), int(prediction[y, x]))
                counts[key] = counts.get(key, 0) + 1
    sketch = confusion(truth, prediction, ignore_id=IGNORE)
    assert as_dict(sketch) == counts

    result = scores(sketch, CLASSES, PROTOCOLS["zs3"])
    by_name = {entry.name: entry for entry in result.classes}
    groups: dict[str, list[float]] = {"seen": [], "unseen": []}
    for entry in CLASSES:
        if entry.role in ("background", "excluded"):
            assert entry.name not in by_name
            continue
        both = either = true = 0
        for y in range(SHAPE[0]):
            for x in range(SHAPE[1]):
                if truth[y, x] in (1, 2, 3, 4):
                    is_true, is_given = truth[y, x] == entry.id, prediction[y, x] == entry.id
                    both += is_true and is_given
                    either += is_true or is_given
                    true += is_true
        assert by_name[entry.name].pixels == true
        if true:
            assert by_name[entry.name].iou == pytest.approx(100 * both / either)
            assert by_name[entry.name].accuracy == pytest.approx(100 * both / true)
            groups[entry.role].append(100 * both / either)
        else:
            assert entry.name in result.absent and math.isnan(by_name[entry.name].iou)
    for group, value in (("seen", result.seen), ("unseen", result.unseen)):
        expected = sum(groups[group]) / len(groups[group]) if groups[group] else math.nan
        assert same_number(value, expected)


@pytest.mark.parametrize(
    "case",
    [
        "all_present",
        "seen_absent_in_gt_but_predicted",
        "seen_absent_everywhere",
        "one_unseen_absent_but_predicted",
        "all_unseen_absent",
        "unseen_never_predicted",
    ],
)
def test_protocol_paper_returns_what_the_published_evaluator_returned(case: str) -> None:
    recorded, arrays = facts("evaluator")[case], Recording("evaluator")
    classes = [
        Entry(k, name, "unseen" if k in recorded["unseen"] else "seen")
        for k, name in enumerate(recorded["class_names"])
    ]
    images = [(arrays[f"{case}/gt{i}"], arrays[f"{case}/pred{i}"]) for i in range(recorded["images"])]

    dense = np.zeros_like(arrays[f"{case}/conf_matrix"])
    everything = total(confusion(truth, prediction, ignore_id=-1) for truth, prediction in images)
    columns = np.where(everything.truth == recorded["ignore"], len(classes), everything.truth)
    dense[everything.prediction, columns] = everything.pixels
    assert np.array_equal(dense, arrays[f"{case}/conf_matrix"])

    sketch = total(confusion(truth, prediction, ignore_id=recorded["ignore"]) for truth, prediction in images)
    result = scores(sketch, classes, PROTOCOLS["paper"])
    official = recorded["official_train_net"]
    returned = {
        "mIoU": result.all,
        "fwIoU": result.frequency_weighted_iou,
        "mACC": result.mean_accuracy,
        "pACC": result.pixel_accuracy,
        "seen_IoU": result.seen,
        "unseen_IoU": result.unseen,
        "harmonic mean": result.harmonic,
    }
    returned |= {f"IoU-{entry.name}": entry.iou for entry in result.classes}
    returned |= {f"ACC-{entry.name}": entry.accuracy for entry in result.classes}
    assert returned.keys() == official.keys()
    wrong = {
        key: (value, official[key])
        for key, value in returned.items()
        if not same_number(value, official[key])
    }
    assert not wrong

    honest = scores(sketch, classes, PROTOCOLS["zs3"])
    expected = recorded["not_official_nanmean"]
    assert same_number(honest.seen, expected["seen"]) and same_number(honest.unseen, expected["unseen"])
    # detectron2's later evaluator leaves classes without true pixels out of the mean of all, as `zs3` does.
    plain = recorded["detectron2_SemSegEvaluator"]
    assert same_number(honest.all, plain["mIoU"])
    assert all(same_number(entry.iou, plain[f"IoU-{entry.name}"]) for entry in honest.classes)


@quick
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_the_sum_of_confusions_is_the_confusion_of_all_pixels(
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    parts = [confusion(truth, prediction, ignore_id=IGNORE) for truth, prediction in pairs]
    whole = confusion(
        np.concatenate([truth for truth, _ in pairs]),
        np.concatenate([prediction for _, prediction in pairs]),
        ignore_id=IGNORE,
    )
    assert equal(total(parts), whole)
    assert equal(total([total(parts[:1]), total(parts[1:])]), whole)
    assert equal(total(reversed(parts)), whole)


def test_sums_stay_exact_beyond_what_floats_can_hold() -> None:
    one = Confusion(truth=np.array([1]), prediction=np.array([2]), pixels=np.array([2**53], np.int64))
    tiny = Confusion(truth=np.array([1]), prediction=np.array([2]), pixels=np.array([1], np.int64))
    assert total([one, tiny, tiny]).pixels.tolist() == [2**53 + 2]


def test_many_classes_take_the_sorting_path_and_agree_with_the_dense_one() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 6, (2, 40, 50))
    small = confusion(truth, prediction, ignore_id=IGNORE)
    spread = confusion(truth * 10_007, prediction * 9_001, ignore_id=IGNORE)
    assert {(t * 10_007, p * 9_001): n for (t, p), n in as_dict(small).items()} == as_dict(spread)


@quick
@given(PAIRS, st.permutations(range(len(CLASSES))))
def test_permuting_the_classes_permutes_the_scores(
    pair: tuple[np.ndarray, np.ndarray], order: list[int]
) -> None:
    sketch = confusion(*pair, ignore_id=IGNORE)
    plain = scores(sketch, CLASSES, PROTOCOLS["zs3"])
    shuffled = scores(sketch, [CLASSES[k] for k in order], PROTOCOLS["zs3"])
    assert same_number(plain.harmonic, shuffled.harmonic) and same_number(plain.all, shuffled.all)
    first = {entry.name: repr(entry) for entry in plain.classes}
    assert first == {entry.name: repr(entry) for entry in shuffled.classes}

    new_id = dict(zip(TRUE_IDS[:-1], [TRUE_IDS[k] for k in order], strict=True)) | {
        IGNORE: IGNORE,
        UNLABELLED: UNLABELLED,
        UNKNOWN: UNKNOWN,
    }
    renumber = np.vectorize(new_id.get, otypes=[np.int32])
    renamed = [Entry(new_id[entry.id], entry.name, entry.role) for entry in CLASSES]
    moved = scores(confusion(*map(renumber, pair), ignore_id=IGNORE), renamed, PROTOCOLS["zs3"])
    assert [(entry.name, repr(entry.iou), entry.pixels) for entry in moved.classes] == [
        (entry.name, repr(entry.iou), entry.pixels) for entry in plain.classes
    ]


def numbers(result: Scores) -> str:
    return repr(result)


@quick
@given(maps(TRUE_IDS))
def test_a_perfect_prediction_scores_100(truth: np.ndarray) -> None:
    truth[0, :4] = (1, 2, 3, 4)
    result = scores(confusion(truth, truth, ignore_id=IGNORE), CLASSES, PROTOCOLS["zs3"])
    assert (result.seen, result.unseen, result.harmonic, result.all, result.pixel_accuracy) == (100.0,) * 5
    assert result.absent == ()


@quick
@given(PAIRS, maps(GIVEN_IDS))
def test_predictions_on_void_pixels_change_nothing(
    pair: tuple[np.ndarray, np.ndarray], other: np.ndarray
) -> None:
    truth, prediction = pair
    void = np.isin(truth, [IGNORE, 0, 9])
    changed = np.where(void, other, prediction)
    first = scores(confusion(truth, prediction, ignore_id=IGNORE), CLASSES, PROTOCOLS["zs3"])
    second = scores(confusion(truth, changed, ignore_id=IGNORE), CLASSES, PROTOCOLS["zs3"])
    assert numbers(first) == numbers(second)


def test_an_unlabelled_pixel_is_a_miss_and_nobodys_false_alarm() -> None:
    truth = np.array([[1, 1, 2, 2]], np.int32)
    prediction = np.array([[1, UNLABELLED, 2, UNKNOWN]], np.int32)
    result = scores(confusion(truth, prediction, ignore_id=IGNORE), CLASSES, PROTOCOLS["zs3"])
    assert [entry.iou for entry in result.classes[:2]] == [50.0, 50.0]
    assert result.pixel_accuracy == 50.0
    assert result.absent == ("cow", "sheep")
    assert math.isnan(result.unseen) and math.isnan(result.harmonic)


def test_nothing_to_count_gives_no_number_rather_than_a_wrong_one() -> None:
    result = scores(total([]), CLASSES, PROTOCOLS["zs3"])
    assert result.pixels == 0 and math.isnan(result.all) and math.isnan(result.pixel_accuracy)
    assert len(result.absent) == 4


def test_a_true_class_outside_the_list_is_named() -> None:
    sketch = confusion(np.array([[1, 77]]), np.array([[1, 1]]), ignore_id=IGNORE)
    with pytest.raises(ValueError, match=r"class ids 77 .*class list"):
        scores(sketch, CLASSES, PROTOCOLS["zs3"])


def test_maps_of_different_shape_or_of_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), ignore_id=IGNORE)
    with pytest.raises(ValueError, match="float64"):
        confusion(np.zeros((2, 3)), np.zeros((2, 3), int), ignore_id=IGNORE)


@quick
@given(PAIRS)
def test_oracle_names_and_oracle_masks_never_lose_pixels_and_oracle_names_never_hurt(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    image = counted(confusion(*pair, ignore_id=IGNORE), CLASSES, PROTOCOLS["zs3"])
    for renamed in (with_true_names(image), with_true_masks(image)):
        assert renamed.pixels.sum() == image.pixels.sum()
    plain = scores(image, CLASSES, PROTOCOLS["zs3"])
    oracle = scores(with_true_names(image), CLASSES, PROTOCOLS["zs3"])
    assert not oracle.pixel_accuracy < plain.pixel_accuracy


def test_oracle_names_give_each_region_its_largest_true_class() -> None:
    truth = np.array([[1, 1, 2, 2, 2, 3]])
    prediction = np.array([[4, 4, 4, 3, 3, UNLABELLED]])
    image = confusion(truth, prediction, ignore_id=IGNORE)
    assert as_dict(with_true_names(image)) == {(1, 1): 2, (2, 1): 1, (2, 2): 2, (3, UNLABELLED): 1}
    assert as_dict(with_true_masks(image)) == {(1, 4): 2, (2, 3): 3, (3, UNLABELLED): 1}
