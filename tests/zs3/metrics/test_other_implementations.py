"""Our scores beside those of torchmetrics and of pycocotools, and where these are known to be wrong."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from zs3.metrics import PROTOCOLS, UNLABELLED, confusion, scores
from zs3.metrics.reliability import BINS, Reliability
from zs3.vocabulary import ClassEntry

CLASSES = [ClassEntry(id=k, name=f"class {k}", role="unseen" if k > 3 else "seen") for k in range(6)]


def maps(seed: int, held: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Truth with void, and labels of all classes."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(held), 255], (30, 40))
    return truth, np.where(rng.random(truth.shape) < 0.5, truth % 6, rng.integers(0, 6, truth.shape))


def test_torchmetrics_counts_and_scores_the_same_where_every_class_occurs() -> None:
    torch, classification = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.classification")
    truth, prediction = maps(0)
    given, true = torch.from_numpy(prediction), torch.from_numpy(truth)
    matrix = classification.MulticlassConfusionMatrix(num_classes=6, ignore_index=255)(given, true).numpy()
    found = confusion(truth, prediction, ignore_id=255)
    dense = np.zeros((6, 6), int)
    dense[found.truth, found.prediction] = found.pixels
    assert np.array_equal(dense, matrix)
    jaccard = classification.MulticlassJaccardIndex(num_classes=6, ignore_index=255, average=None)
    expected = 100 * jaccard(given, true).numpy()
    ours = scores(found, CLASSES, PROTOCOLS["zs3"])
    # torchmetrics divides in float32: 1e-4 points; one pixel of 1,000 is a thousand times that.
    assert [entry.iou for entry in ours.classes] == pytest.approx(expected, abs=1e-4)


def test_torchmetrics_gives_the_same_accuracies_and_frequency_weighted_iou() -> None:
    torch, classification = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.classification")
    truth, prediction = maps(4)
    given, true = torch.from_numpy(prediction), torch.from_numpy(truth)
    ours = scores(confusion(truth, prediction, ignore_id=255), CLASSES, PROTOCOLS["zs3"])

    def theirs(name: str, average: str | None) -> np.ndarray:
        metric = getattr(classification, name)(num_classes=6, ignore_index=255, average=average)
        return 100 * metric(given, true).numpy()

    # Divided in float32, as above.
    assert [entry.accuracy for entry in ours.classes] == pytest.approx(
        theirs("MulticlassAccuracy", None), abs=1e-4
    )
    assert ours.mean_accuracy == pytest.approx(theirs("MulticlassAccuracy", "macro"), abs=1e-4)
    assert ours.pixel_accuracy == pytest.approx(theirs("MulticlassAccuracy", "micro"), abs=1e-4)
    assert ours.frequency_weighted_iou == pytest.approx(
        theirs("MulticlassJaccardIndex", "weighted"), abs=1e-4
    )


def test_torchmetrics_gives_the_same_calibration_error() -> None:
    torch, functional = (
        pytest.importorskip("torch"),
        pytest.importorskip("torchmetrics.functional.classification"),
    )
    truth, prediction = maps(5)
    # In the middle of bins: on their edges the two put a score into neighbouring ones.
    sure = {k: (k * 3 + 1.5) / BINS for k in range(6)}
    held = Reliability()
    held.add(confusion(truth, prediction, ignore_id=255), sure, CLASSES, PROTOCOLS["zs3"])
    counts = truth != 255
    confidences = torch.tensor([sure[k] for k in prediction[counts].tolist()])
    right = torch.from_numpy((prediction == truth)[counts].astype(np.int64))
    theirs = functional.binary_calibration_error(confidences, right, n_bins=BINS, norm="l1")
    assert held.errors()["all"] == pytest.approx(100 * float(theirs), abs=1e-4)


def test_torchmetrics_calls_a_class_that_is_only_predicted_zero_where_we_call_it_absent() -> None:
    # Its macro mean takes in every class of truth or prediction (as the published evaluator does for `all`), so that
    # one false pixel of an absent class lowers the mean by a whole class.
    torch, classification = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.classification")
    truth, prediction = maps(1, held=5)
    prediction[0, 0], truth[0, 0] = 5, 0
    macro = classification.MulticlassJaccardIndex(num_classes=6, ignore_index=255)
    expected = 100 * float(macro(torch.from_numpy(prediction), torch.from_numpy(truth)))
    found = confusion(truth, prediction, ignore_id=255)
    ours, paper = (scores(found, CLASSES, PROTOCOLS[name]) for name in ("zs3", "paper"))
    assert paper.all == pytest.approx(expected, abs=1e-4) and ours.absent == ("class 5",)
    assert ours.all == pytest.approx(expected * 6 / 5, abs=1e-3)


def test_torchmetrics_counts_a_pixel_without_label_for_another_true_class() -> None:
    # Its key is truth * classes + prediction, so that -1 lands in the row before, in the column of the last class.
    torch, classification = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.classification")
    truth, prediction = np.array([[1, 1]]), np.array([[1, UNLABELLED]])
    metric = classification.MulticlassConfusionMatrix(num_classes=6)
    theirs = metric(torch.from_numpy(prediction), torch.from_numpy(truth)).numpy()
    assert theirs[0, 5] == 1 and theirs[1].sum() == 1
    ours = confusion(truth, prediction, ignore_id=255)
    assert list(zip(ours.truth, ours.prediction, ours.pixels, strict=True)) == [(1, UNLABELLED, 1), (1, 1, 1)]


def test_pycocotools_gives_the_iou_of_regions_and_knows_no_void() -> None:
    truth, prediction = maps(3)
    found = scores(confusion(truth, prediction, ignore_id=255), CLASSES, PROTOCOLS["zs3"])
    blanked = np.where(truth == 255, -9, prediction)

    def iou(label: int, given: np.ndarray) -> float:
        codes = [
            coco_mask.encode(np.asfortranarray(held == label, dtype=np.uint8)) for held in (given, truth)
        ]
        return 100 * float(coco_mask.iou([codes[0]], [codes[1]], [False])[0, 0])

    assert [entry.iou for entry in found.classes] == pytest.approx([iou(k, blanked) for k in range(6)])
    assert all(iou(k, prediction) <= entry.iou for k, entry in enumerate(found.classes))
