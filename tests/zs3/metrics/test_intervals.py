"""Intervals and the paired test against formulas and loops: resamples are runs on other images."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from zs3.evaluation.image_scores import image_score_row
from zs3.label_rows import label_rows
from zs3.metrics import PROTOCOLS, confusion, scores, total
from zs3.metrics.intervals import (
    BLOCK,
    bootstrap_sums,
    bootstrap_weights,
    exchanged_sums,
    intervals,
    p_value,
)
from zs3.metrics.paired import paired
from zs3.metrics.resampling import METRICS, ScoreCounts, ranges
from zs3.tables import SCORES
from zs3.vocabulary import ClassEntry, Vocabulary

VOCABULARY = Vocabulary(
    name="farm",
    classes=(
        ClassEntry(id=0, name="ground", role="background"),
        ClassEntry(id=4, name="cat"),
        ClassEntry(id=2, name="sofa"),
        ClassEntry(id=9, name="cow", role="unseen"),
        ClassEntry(id=7, name="owl", role="unseen"),
        ClassEntry(id=3, name="blur", role="excluded"),
    ),
)
NAMES = {entry.id: entry.name for entry in VOCABULARY.classes}
MATCHES = {entry.name: entry.id for entry in VOCABULARY.classes}
KEYS = {"seen": "seen", "unseen": "unseen", "harmonic": "harmonic", "all": "all"}


@dataclass(frozen=True)
class Images:
    """Truths and predictions, and the table that an evaluation keeps of them."""

    maps: list[tuple[np.ndarray, np.ndarray]]
    table: pa.Table


def images(count: int, *, seed: int, right: float = 0.6) -> Images:
    """Small random images; some lack a class."""
    maps, rows = [], []
    for number in range(count):
        rng = np.random.default_rng((number, 5))
        truth = rng.choice([0, 4, 2, 9, 7, 3, 255], (4, 5)).repeat(3, 0).repeat(3, 1).astype(np.int32)
        chosen = np.random.default_rng((number, seed))
        wrong = chosen.choice([4, 2, 9, 7], truth.shape)
        known = np.isin(truth, [4, 2, 9, 7]) & (chosen.random(truth.shape) < right)
        prediction = np.where(known, truth, wrong).astype(np.int32)
        given = label_rows(f"i{number:03}", "u", prediction, NAMES, {}, dict.fromkeys(NAMES, 0.5), "r")
        columns, _ = image_score_row(given, truth, VOCABULARY, MATCHES)
        maps.append((truth, prediction))
        rows.append({"image_id": f"i{number:03}", **columns})
    return Images(maps=maps, table=pa.Table.from_pylist(rows, schema=SCORES))


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_vectorised_scores_of_any_weighting_are_the_scores_of_repeated_images(name: str) -> None:
    held, protocol = images(6, seed=1), PROTOCOLS[name]
    sums = ScoreCounts(VOCABULARY.classes, protocol)
    counts = sums.columns(held.table)
    for weights in ([1, 1, 1, 1, 1, 1], [3, 0, 2, 0, 0, 1]):
        drawn = [pair for pair, times in zip(held.maps, weights, strict=True) for _ in range(times)]
        expected = scores(
            total(confusion(*pair, ignore_id=255) for pair in drawn), VOCABULARY.classes, protocol
        )
        found = sums.scores(np.array(weights, float)[None] @ counts)
        for key in KEYS:
            assert found.means["iou", key][0] == pytest.approx(getattr(expected, key), nan_ok=True)
        assert found.means["pixel_accuracy", "all"][0] == pytest.approx(expected.pixel_accuracy)
        assert found.means["accuracy", "all"][0] == pytest.approx(expected.mean_accuracy)
        assert found.means["frequency_weighted_iou", "all"][0] == pytest.approx(
            expected.frequency_weighted_iou
        )
        assert found.iou_RK[0] == pytest.approx([entry.iou for entry in expected.classes], nan_ok=True)


@pytest.mark.parametrize("name", ["zs3", "voc21"])
def test_metrics_of_groups_and_boundary_iou_are_those_of_a_loop_over_pixels(name: str) -> None:
    held, protocol = images(5, seed=2), PROTOCOLS[name]
    scored = [entry for entry in VOCABULARY.classes if protocol.counts(entry)]
    ids = {entry.id for entry in scored}
    counts = {entry.id: np.zeros(6) for entry in scored}  # right, true, given; the same near outlines
    for truth, given in held.maps:
        prediction = np.where(given == -1, 0, given) if protocol.background_counts else given
        near = [
            outline(labels, max(1, round(0.02 * float(np.hypot(*truth.shape)))))
            for labels in (truth, prediction)
        ]
        for y, x in np.ndindex(truth.shape):
            true, label = int(truth[y, x]), int(prediction[y, x])
            if true not in ids:
                continue
            counts[true][1] += 1
            counts[true][4] += near[0][y, x]
            if label in ids:
                counts[label][2] += 1
                counts[label][5] += near[1][y, x]
            if label == true:
                counts[true][0] += 1
                counts[true][3] += near[0][y, x] and near[1][y, x]
    sums = ScoreCounts(VOCABULARY.classes, protocol)
    found = sums.scores(sums.columns(held.table).sum(axis=0)[None])
    for group, roles in (("seen", {"seen", "background"}), ("unseen", {"unseen"})):
        members = [counts[entry.id] for entry in scored if entry.role in roles]
        right, true, label, near_right, near_true, near_label = np.array(members).T
        expected = {
            "iou": np.mean(right / (true + label - right)),
            "accuracy": np.mean(right / true),
            "pixel_accuracy": right.sum() / true.sum(),
            "frequency_weighted_iou": (true * right / (true + label - right)).sum() / true.sum(),
            "boundary_iou": np.mean(near_right / (near_true + near_label - near_right)),
        }
        for metric, value in expected.items():
            assert found.means[metric, group][0] == pytest.approx(100 * value), (metric, group)
    for metric in METRICS:
        seen, unseen = (found.means[metric, group][0] for group in ("seen", "unseen"))
        assert found.means[metric, "harmonic"][0] == pytest.approx(2 * seen * unseen / (seen + unseen))


def outline(labels: np.ndarray, distance: int) -> np.ndarray:
    """Pixels with another label, or the end of the picture, at most so many rows and columns away."""
    padded = np.pad(labels, distance, constant_values=-99)
    size = 2 * distance + 1
    return np.array(
        [
            [(padded[y : y + size, x : x + size] != labels[y, x]).any() for x in range(labels.shape[1])]
            for y in range(labels.shape[0])
        ]
    )


def test_replicates_take_as_many_images_as_there_are_each_equally_often() -> None:
    for count in (1, 7, BLOCK + 3):
        weights = np.concatenate(list(bootstrap_weights(count, replicates=400, seed=0)), axis=1)
        assert weights.shape == (400, count) and (weights.sum(axis=1) == count).all()
        assert weights.mean(axis=0) == pytest.approx(
            np.ones(count), abs=0.25
        )  # 5 deviations of 1 / sqrt(400)
    # Multinomial weights vary by 1 - 1/N; of 400 x 515 values the variance is known to about 0.01.
    assert weights.var() == pytest.approx(1 - 1 / weights.shape[1], abs=0.03)


def test_the_spread_of_replicates_is_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).integers(0, 1000, (1200, 1)).astype(float)
    sums = bootstrap_sums([values], 1200, replicates=4000)
    # 4,000 replicates know a deviation to 1.1 %; 5 % would let no forgotten factor through.
    assert sums.std() / 1200 == pytest.approx(values.std() / np.sqrt(1200), rel=0.05)
    (low,), (high,) = intervals(sums / 1200, 1200)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(1200), rel=0.08)


def test_blocks_and_the_order_of_rows_change_nothing_and_the_seed_does() -> None:
    values = np.random.default_rng(1).integers(0, 99, (BLOCK + 90, 3)).astype(float)
    whole = bootstrap_sums([values], len(values), replicates=20)
    assert np.array_equal(whole, bootstrap_sums(np.array_split(values, 11), len(values), replicates=20))
    assert not np.array_equal(whole, bootstrap_sums([values], len(values), replicates=20, seed=1))


def test_ranges_hold_the_scores_and_a_class_of_one_image_has_no_interval() -> None:
    held = images(40, seed=1)
    only = held.table.slice(0, 1)
    found = ranges([held.table], 40, VOCABULARY.classes, PROTOCOLS["zs3"], replicates=300)
    expected = scores(
        total(confusion(*pair, ignore_id=255) for pair in held.maps), VOCABULARY.classes, PROTOCOLS["zs3"]
    )
    for key in KEYS:
        one = found.means["iou", key]
        assert one.value == pytest.approx(getattr(expected, key)) and one.low < one.value < one.high
    alone = ranges([only], 1, VOCABULARY.classes, PROTOCOLS["zs3"], replicates=50)
    assert all(np.isnan(one.low) for one in (*alone.means.values(), *alone.iou))


def test_a_run_against_itself_does_not_differ_and_against_a_worse_one_it_does() -> None:
    good, same, bad = (images(60, seed=seed, right=right) for seed, right in ((1, 0.7), (2, 0.7), (3, 0.5)))
    compared = {}
    for name, other in (("itself", good), ("same", same), ("bad", bad)):
        tables = (partial(iter, [good.table]), partial(iter, [other.table]))
        compared[name] = paired(*tables, 60, VOCABULARY.classes, PROTOCOLS["zs3"], replicates=300)
    harmonic = {name: held.means["iou", "harmonic"] for name, held in compared.items()}
    assert (harmonic["itself"].difference, harmonic["itself"].p) == (0.0, 1.0)
    assert harmonic["bad"].difference < harmonic["bad"].high < 0 and harmonic["bad"].p == 1 / 301
    assert harmonic["same"].low < 0 < harmonic["same"].high and harmonic["same"].p > 0.01
    alone = [partial(iter, [held.table.slice(0, 1)]) for held in (good, bad)]
    single = paired(*alone, 1, VOCABULARY.classes, PROTOCOLS["zs3"], replicates=50)
    for difference in (*single.means.values(), *(entry[2] for entry in single.classes)):
        assert np.isnan(difference.low) and np.isnan(difference.high), "one image gives no interval"


def test_p_values_of_runs_that_are_alike_are_uniform() -> None:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(200):
        first, second = rng.normal(0, 1, (2, 30, 1))
        one, other = exchanged_sums([first], [second], replicates=200, seed=int(rng.integers(1 << 30)))
        values.append(p_value(float((second - first).sum()), (other - one)[:, 0]))
    # Of 200, 10 are expected below 0.05, with a deviation of 3.1; a one-sided or halved p would give 20.
    assert 1 <= sum(value < 0.05 for value in values) <= 19
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)  # 5 deviations of 0.29 / sqrt(200)


def test_paper_gives_no_number_where_the_whole_set_lacks_a_class() -> None:
    held = images(12, seed=1)
    lacking = Vocabulary(
        name="more", classes=(*VOCABULARY.classes, ClassEntry(id=11, name="yak", role="unseen"))
    )
    found = ranges([held.table], 12, lacking.classes, PROTOCOLS["paper"], replicates=50)
    assert np.isnan(found.means["iou", "unseen"].value) and np.isnan(found.means["iou", "harmonic"].low)
    assert not np.isnan(found.means["iou", "seen"].low) and not np.isnan(found.means["iou", "all"].value)
