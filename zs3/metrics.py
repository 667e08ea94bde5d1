"""Zero-shot segmentation scores from sparse confusions, whose sums are exact: score anywhere, in any order.

One image gives one `Confusion`: for every pair (true class, predicted class) that occurs, its pixels.
It still holds everything, background included; which pixels count is decided afterwards by a `Protocol`,
so that the same sketches can be scored in several ways.
"""

# H W pixels, n pairs of classes that occur

import math
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

UNLABELLED = -1
"""Prediction id of a pixel that was given no class: a miss of the true class, and no class's false alarm."""

UNKNOWN = -2
"""Prediction id of a pixel given a class that the data set lacks: counted like an unlabelled pixel."""

_DENSE_BINS = 1 << 21
"""Up to this many possible pairs a dense histogram is faster than sorting."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confusion:
    """How many pixels of each true class were given each class: n pairs, each once, in order.

    Attributes:
        truth: (n,) int64 class ids.
        prediction: (n,) int64 class ids, or `UNLABELLED`, or `UNKNOWN`.
        pixels: (n,) int64, at least 1 each.
    """

    truth: np.ndarray
    prediction: np.ndarray
    pixels: np.ndarray

    def __post_init__(self) -> None:
        assert self.truth.shape == self.prediction.shape == self.pixels.shape, (
            "one entry per pair in each column"
        )


class EvaluatedClass(typing.Protocol):
    """What a class of the data set must tell: id, name and role (seen, unseen, background or excluded)."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Which pixels count and how classes are averaged."""

    name: str
    """What a report calls it."""
    void_roles: frozenset[str] = frozenset({"background", "excluded"})
    """True pixels of classes with these roles do not count, as in the paper (VOC's background is ignored)."""
    absent: typing.Literal["skip", "nan"] = "skip"
    """A class without true pixels is left out of its group's mean, or makes that mean not a number."""

    @property
    def words(self) -> tuple[str, ...]:
        """The protocol as sentences for a report."""
        void = " or ".join(sorted(self.void_roles)) or "no"
        counted = (
            "A pixel counts when its truth is a seen or an unseen class. Pixels that the truth leaves void, "
            f"or whose class has the role {void}, are ignored, whatever was predicted there."
        )
        candidates = (
            "Every seen and unseen name competes for every pixel (generalised zero-shot). A counted pixel "
            "with no label, or with the label of a class that the data set lacks, is wrong."
        )
        iou = (
            "IoU of a class = its correctly labelled pixels / pixels that are truly it or labelled it, "
            "summed over all images before dividing. Accuracy = its correctly labelled / its true pixels."
        )
        if self.absent == "skip":
            means = (
                "Seen, unseen and all are plain means of IoU over the classes that occur in the truth. "
                "Absent classes are left out and listed; pixels wrongly given to them count as misses."
            )
        else:
            means = (
                "As the published evaluator: one class absent from the truth makes its group's mean, and the "
                "harmonic mean, undefined. The mean over all sums the IoU of the classes in the truth and "
                "divides by the number of classes that occur in truth or prediction."
            )
        harmonic = "Harmonic = 2 · seen · unseen / (seen + unseen)."
        return (counted, candidates, iou, means, harmonic)


PROTOCOLS = {"zs3": Protocol(name="zs3"), "paper": Protocol(name="paper", absent="nan")}
"""`zs3`: the paper's pixels, absent classes skipped; `paper`: the published evaluator, oddities included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: iou and accuracy in percent, not a number where the class has no true pixel that counts."""

    id: int
    name: str
    seen: bool
    iou: float
    accuracy: float
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a set of images scores; every mean in percent, not a number where undefined."""

    seen: float
    unseen: float
    harmonic: float
    all: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixels: int
    classes: tuple[ClassScore, ...]
    absent: tuple[str, ...]


def confusion(truth_HW: np.ndarray, prediction_HW: np.ndarray, *, ignore_id: int) -> Confusion:
    """The pairs of classes of one image and their pixels; pixels whose truth is `ignore_id` are left out.

    Args:
        truth_HW: integer class ids.
        prediction_HW: integer class ids of the same shape; `UNLABELLED` where there is none.
        ignore_id: the truth value of void pixels.

    Raises:
        ValueError: shapes differ, or values are not integers.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth has shape {truth_HW.shape}, prediction {prediction_HW.shape}; "
            "both must be of the same picture"
        )
    for what, values in (("truth", truth_HW), ("prediction", prediction_HW)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{what} holds {values.dtype} values; expected integer class ids")
    counted = truth_HW != ignore_id
    return _pairs(truth_HW[counted].astype(np.int64), prediction_HW[counted].astype(np.int64))


def total(parts: Iterable[Confusion]) -> Confusion:
    """The exact sum: the confusion of all pixels together."""
    listed = list(parts)
    if not listed:
        return _pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    return _pairs(
        np.concatenate([part.truth for part in listed]),
        np.concatenate([part.prediction for part in listed]),
        np.concatenate([part.pixels for part in listed]),
    )


def counted(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Confusion:
    """Only the pixels that count under the protocol.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    listed = np.array([entry.id for entry in classes], np.int64)
    stray = np.setdiff1d(confusion.truth, listed)
    if stray.size:
        raise ValueError(
            f"truth has class ids {stray.tolist()[:5]} that the class list of {len(classes)} lacks; "
            "is the data set's class list or its ignore id right?"
        )
    scored = np.array([entry.id for entry in classes if entry.role not in protocol.void_roles], np.int64)
    return _where(confusion, np.isin(confusion.truth, scored))


def scores(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Scores:
    """Seen, unseen, harmonic and per-class scores, as `Protocol.words` says (ZegFormer: train_net.py).

    Args:
        confusion: the sum over all images.
        classes: the data set's class list, void roles included.
        protocol: which pixels count.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    kept = counted(confusion, classes, protocol)
    scored = [entry for entry in classes if entry.role not in protocol.void_roles]
    right = kept.truth == kept.prediction
    hits = _by_class(kept.truth[right], kept.pixels[right], scored)
    true = _by_class(kept.truth, kept.pixels, scored)
    predicted = _by_class(kept.prediction, kept.pixels, scored)
    present = true > 0
    iou = _ratio(hits, true + predicted - hits, present)
    accuracy = _ratio(hits, true, present)
    unseen = np.array([entry.role == "unseen" for entry in scored], bool)
    if protocol.absent == "skip":
        means = [_mean(iou[group & present]) for group in (~unseen, unseen, present)]
    else:
        occurring = int(np.count_nonzero(true + predicted))
        means = [_mean(iou[~unseen]), _mean(iou[unseen]), _quotient(float(iou[present].sum()), occurring)]
    pixels = int(true.sum())
    return Scores(
        seen=means[0],
        unseen=means[1],
        harmonic=harmonic(means[0], means[1], undefined=math.nan if protocol.absent == "nan" else 0.0),
        all=means[2],
        pixel_accuracy=100 * _quotient(int(hits.sum()), pixels),
        mean_accuracy=_mean(accuracy[present]),
        frequency_weighted_iou=_quotient(float((iou[present] * true[present]).sum()), pixels),
        pixels=pixels,
        classes=tuple(
            ClassScore(
                id=entry.id,
                name=entry.name,
                seen=entry.role != "unseen",
                iou=float(iou[k]),
                accuracy=float(accuracy[k]),
                pixels=int(true[k]),
            )
            for k, entry in enumerate(scored)
        ),
        absent=tuple(entry.name for k, entry in enumerate(scored) if not present[k]),
    )


def harmonic(seen: float, unseen: float, *, undefined: float = 0.0) -> float:
    """Harmonic mean 2su / (s + u); `undefined` where both are zero."""
    return undefined if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)


def with_true_names(image: Confusion) -> Confusion:
    """Masks alone: every labelled region of one image renamed to the class that most of its pixels truly are.

    Pixels without a label stay so. Take `counted` first, or pixels that do not count may name a region.
    """
    return _renamed(image, by=image.prediction, to=image.truth, keep=image.prediction == UNLABELLED)


def with_true_masks(image: Confusion) -> Confusion:
    """Names alone: every true region of one image given, as one, the label that most of its pixels got."""
    return _renamed(image, by=image.truth, to=image.prediction, keep=np.zeros(image.truth.shape, bool))


def _renamed(image: Confusion, *, by: np.ndarray, to: np.ndarray, keep: np.ndarray) -> Confusion:
    """Predictions replaced, group by group, by the group's largest pair; ties go to the smaller id."""
    order = np.lexsort((to, -image.pixels, by))
    groups, first = np.unique(by[order], return_index=True)
    names = to[order][first][np.searchsorted(groups, by)]
    return _pairs(image.truth, np.where(keep, image.prediction, names), image.pixels)


def _pairs(truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray | None = None) -> Confusion:
    """Equal pairs joined and sorted; every entry weighs 1 where `pixels` is not given."""
    if truth.size == 0:
        empty = np.empty(0, np.int64)
        return Confusion(truth=empty, prediction=empty, pixels=empty)
    lowest_truth, lowest = int(truth.min()), int(prediction.min())
    width = int(prediction.max()) - lowest + 1
    keys = (truth - lowest_truth) * width + (prediction - lowest)
    if pixels is None and (int(truth.max()) - lowest_truth + 1) * width <= _DENSE_BINS:
        histogram = np.bincount(keys)
        found = np.flatnonzero(histogram)
        sums = histogram[found]
    else:
        order = np.argsort(keys, kind="stable")
        found, start = np.unique(keys[order], return_index=True)
        weights = np.ones(keys.shape, np.int64) if pixels is None else pixels[order]
        sums = np.add.reduceat(weights, start)
    return Confusion(
        truth=found // width + lowest_truth, prediction=found % width + lowest, pixels=sums.astype(np.int64)
    )


def _where(confusion: Confusion, keep: np.ndarray) -> Confusion:
    """Only the pairs marked in `keep`."""
    return Confusion(
        truth=confusion.truth[keep], prediction=confusion.prediction[keep], pixels=confusion.pixels[keep]
    )


def _by_class(ids: np.ndarray, pixels: np.ndarray, scored: Sequence[EvaluatedClass]) -> np.ndarray:
    """(K,) int64 pixels of each scored class."""
    return np.array([int(pixels[ids == entry.id].sum()) for entry in scored], np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """100 * part / whole where defined, else not a number."""
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=defined)


def _mean(values: np.ndarray) -> float:
    """The mean, not a number of nothing."""
    return _quotient(float(values.sum()), values.size)


def _quotient(part: float, whole: int) -> float:
    """part / whole, not a number where whole is zero."""
    return part / whole if whole else math.nan
