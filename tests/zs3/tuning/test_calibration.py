"""One pass holds the scores of every γ, and no half of the pictures chooses its own γ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs3.metrics import PROTOCOLS, confusion, scores
from zs3.tuning.calibration import GroupBest, confusions_by_gamma, crossed, dense_scores
from zs3.vocabulary import ClassEntry

GAMMAS = (0.0, 0.1, 0.25, 0.5, 0.9)
CLASSES = tuple(
    ClassEntry(id=i, name=f"class {i}", role=role)
    for i, role in enumerate(("background", "seen", "seen", "seen", "unseen", "unseen"))
)
IDS = [1, 2, 3, 4, 5]


@given(st.integers(0, 2**32 - 1))
def test_each_gamma_gives_the_confusion_of_its_own_label_map(seed):
    rng = np.random.default_rng(seed)
    # Eighths, so that leads and γ meet exactly now and then: ties go to the seen class.
    scores_CHW = (rng.integers(0, 9, (5, 6, 7)) / 8).astype(np.float32)
    truth = rng.choice([0, 255, *IDS], (6, 7))
    best = GroupBest(
        seen_HW=np.array([1, 2, 3])[scores_CHW[:3].argmax(axis=0)],
        unseen_HW=np.array([4, 5])[scores_CHW[3:].argmax(axis=0)],
        lead_HW=scores_CHW[:3].max(axis=0) - scores_CHW[3:].max(axis=0),
    )
    found = confusions_by_gamma(truth, best, GAMMAS, IDS)
    counted = np.where(np.isin(truth, IDS), truth, 255)
    for gamma, dense in zip(GAMMAS, found):
        # Leads are exact eighths, so float32 rounding decides nothing here but where γ is the lead itself.
        handicap = np.array([gamma] * 3 + [0] * 2, np.float32)[:, None, None]
        painted = np.array(IDS)[(scores_CHW - handicap).argmax(axis=0)]
        expected = confusion(counted, painted, ignore_id=255)
        assert dense.sum() == expected.pixels.sum()
        assert np.array_equal(dense[expected.truth, expected.prediction], expected.pixels)


def test_dense_and_sparse_confusions_score_alike():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(1, 6, (2, 40, 40))
    sparse = confusion(truth, prediction, ignore_id=255)
    dense = np.zeros((6, 6), np.int64)
    np.add.at(dense, (truth, prediction), 1)
    assert dense_scores(dense, CLASSES, PROTOCOLS["zs3"]) == scores(sparse, CLASSES, PROTOCOLS["zs3"])


def test_each_half_is_scored_under_the_gamma_of_the_other():
    right, wrong = np.eye(6, dtype=np.int64) * 10, np.roll(np.eye(6, dtype=np.int64) * 10, 1, axis=1)
    for matrix in (right, wrong):
        matrix[0] = matrix[:, 0] = 0
    halves = np.stack([np.stack([wrong] * 5), np.stack([wrong] * 5)])
    halves[0, 3], halves[1, 1] = right, right
    held, gammas = crossed(halves, GAMMAS, CLASSES, PROTOCOLS["zs3"])
    assert gammas == (0.1, 0.5)
    assert held.harmonic == pytest.approx(dense_scores(2 * wrong, CLASSES, PROTOCOLS["zs3"]).harmonic)
    halves[0, 1] = right
    held, gammas = crossed(halves, GAMMAS, CLASSES, PROTOCOLS["zs3"])
    assert gammas == (0.1, 0.1) and held.harmonic == 100
