"""Calibration: how right pixels are whose labeller was so sure."""

from dataclasses import dataclass

import numpy as np
import pytest

from zs3.metrics import PROTOCOLS, confusion
from zs3.metrics.reliability import BINS, Reliability


@dataclass(frozen=True)
class Entry:
    id: int
    name: str
    role: str = "seen"


CLASSES = (Entry(0, "ground", "background"), Entry(1, "cat"), Entry(2, "cow", "unseen"))


def test_bins_hold_pixels_mean_score_and_accuracy_of_counted_pixels() -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2, 0, 255]])
    given = np.array([[1, 1, 1, 2, 2, -1, 1, 1]])
    held = Reliability()
    held.add(confusion(truth, given, ignore_id=255), {1: 0.72, 2: 1.0}, CLASSES, PROTOCOLS["zs3"])
    filled = [line for line in held.curve() if line["pixels"]]
    assert filled == [
        {"low": 0.7, "high": 0.75, "pixels": 3, "score": pytest.approx(0.72), "accuracy": 1.0},
        {"low": 0.95, "high": 1.0, "pixels": 2, "score": 1.0, "accuracy": 0.5},
    ]
    assert len(held.curve()) == BINS
    errors = held.errors()
    assert errors["seen"] == pytest.approx(28) and errors["unseen"] == pytest.approx(50)
    assert errors["all"] == pytest.approx((3 * 28 + 2 * 50) / 5)


def test_nothing_counted_gives_no_number() -> None:
    assert np.isnan(Reliability().errors()["all"])
    assert all(line["score"] is None for line in Reliability().curve())


def test_scores_that_are_no_probabilities_are_counted_and_not_cut_to_one() -> None:
    held = Reliability()
    truth = np.array([[1, 1, 2, 2]])
    held.add(confusion(truth, truth, ignore_id=255), {1: 2.4, 2: 0.5}, CLASSES, PROTOCOLS["zs3"])
    assert held.outside == 2
    assert [line["score"] for line in held.curve() if line["pixels"]] == [0.5]
