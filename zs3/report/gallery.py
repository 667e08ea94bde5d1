"""The pictures of a report: photograph, truth, prediction and errors of some images, small enough for one file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED, Protocol, Scores, confusion, scores
from zs3.report.layers import Layer, error_layers, ignored_layer, region_layers
from zs3.report.overlays import hex_colour, jpeg_data_uri, shrunk
from zs3.vocabulary import Vocabulary

# H W pixels

MAX_SIDE_PX, MIN_SIDE_PX = 640, 160
GALLERY_BYTES = 16_000_000
"""Size of all pictures together, in a page of 20 MB."""
_BYTES_PER_PIXEL = 0.8
"""Of a photograph as JPEG with its layers, in base64: measured 0.2 to 0.6, with a margin."""
KINDS = ("worst", "best", "random")
MAX_IMAGES = int(GALLERY_BYTES / _BYTES_PER_PIXEL / MIN_SIDE_PX**2)
"""More would be too small to see anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """One class of one picture: iou in percent within it, none where its truth does not hold the class; and how much of
    the whole picture is labelled it and truly it, in percent, pixels that do not count included."""

    class_id: int
    name: str
    colour: str
    seen: bool
    iou: float | None
    labelled: float
    true: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """One image of the gallery, and its mean IoU in percent over its own true classes."""

    image_id: str
    kind: str
    """Why it was chosen: one of `KINDS`."""
    miou: float
    width: int
    height: int
    photo: str
    """A JPEG as data URI."""
    truth: tuple[Layer, ...]
    prediction: tuple[Layer, ...]
    errors: tuple[Layer, ...]
    void: Layer | None
    """Over truth, prediction and errors: the pixels that do not count."""
    wrong: float
    """Share of wrong pixels among those that count, in percent."""
    legend: tuple[LegendEntry, ...]
    """Every class in the layers: the number of an entry, from 1, marks its regions."""

    @property
    def size(self) -> int:
        """About how many characters it takes in a page."""
        layers = [*self.truth, *self.prediction, *self.errors, *([self.void] * 3 if self.void else [])]
        return len(self.photo) + sum(len(layer.uri) + 200 for layer in layers) + 500 * len(self.legend) + 2000


def picture_side(count: int) -> int:
    """Pixels of the longer side of a picture, where `count` of them share the page."""
    room = GALLERY_BYTES / max(1, count) / _BYTES_PER_PIXEL
    return int(min(MAX_SIDE_PX, max(MIN_SIDE_PX, math.sqrt(room))))


def fitting(items: Sequence[GalleryItem], room: int) -> list[GalleryItem]:
    """The images that `room` characters hold, in the order given: some of each kind, the first ones of it."""
    waiting = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    taken: set[str] = set()
    while any(waiting.values()):
        for remaining in waiting.values():
            if not remaining:
                continue
            room -= remaining[0].size
            if room < 0:
                return [item for item in items if item.image_id in taken]
            taken.add(remaining.pop(0).image_id)
    return list(items)


def gallery_item(
    photo_HW3: np.ndarray,
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    vocabulary: Vocabulary,
    *,
    image_id: str,
    kind: str,
    protocol: Protocol = PROTOCOLS["zs3"],
    side_px: int = MAX_SIDE_PX,
) -> GalleryItem:
    """Photograph, truth, prediction and errors of one image, with a legend.

    Args:
        photo_HW3: (H, W, 3) uint8.
        truth_HW: class ids of the data set.
        prediction_HW: class ids of the data set, or `UNLABELLED`, or `UNKNOWN`.
        vocabulary: the data set's.
        image_id: shown above the legend.
        kind: why it was chosen: one of `KINDS`.
        protocol: which pixels count. Where background is a class, it is no region, but wrong labels of it are errors.
        side_px: of the longer side of each picture, at most.
    """
    ignored_ids = [entry.id for entry in vocabulary.classes if not protocol.counts(entry)]
    ignored_HW = np.isin(truth_HW, [*ignored_ids, vocabulary.ignore_id])
    unpainted = [UNLABELLED]
    if protocol.background_counts:
        (background,) = (entry.id for entry in vocabulary.classes if entry.role == "background")
        prediction_HW = np.where(np.isin(prediction_HW, [UNLABELLED, UNKNOWN]), background, prediction_HW)
        unpainted = [background]
    image = confusion(truth_HW, prediction_HW, ignore_id=vocabulary.ignore_id)
    result = scores(image, vocabulary.classes, replace(protocol, absent="skip"))
    wrong = float((truth_HW != prediction_HW)[~ignored_HW].mean()) if not ignored_HW.all() else 0.0
    maps_HW = (truth_HW, prediction_HW, ~ignored_HW)
    photo, truth, prediction, ignored = (
        shrunk(pixels, side_px) for pixels in (photo_HW3, truth_HW, prediction_HW, ignored_HW)
    )
    layers = {
        "truth": region_layers(truth, ~ignored & ~np.isin(truth, unpainted)),
        "prediction": region_layers(prediction, ~np.isin(prediction, unpainted)),
        "errors": error_layers(truth, prediction, ~ignored),
    }
    shown = {class_id for part in layers.values() for layer in part for class_id in layer.classes}
    return GalleryItem(
        image_id=image_id,
        kind=kind,
        miou=result.all,
        width=photo.shape[1],
        height=photo.shape[0],
        photo=jpeg_data_uri(photo),
        void=ignored_layer(ignored),
        wrong=100 * wrong,
        legend=_legend(result, *maps_HW, shown, vocabulary),
        **layers,
    )


def _legend(
    result: Scores,
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    counted_HW: np.ndarray,
    shown: set[int],
    vocabulary: Vocabulary,
) -> tuple[LegendEntry, ...]:
    """True classes by size, then other labelled classes by their counted pixels.

    Args:
        result: scores of the image.
        truth_HW, prediction_HW: class ids of the data set.
        counted_HW: bool, which pixels count.
        shown: ids of the classes that its layers hold.
    """
    scored = {entry.name: entry for entry in result.classes if entry.pixels}
    by_id = {entry.id: entry for entry in vocabulary.classes}
    true_ids = {class_id for class_id, entry in by_id.items() if entry.name in scored}
    pixels, labelled, true = map(_pixels, (prediction_HW[counted_HW], prediction_HW, truth_HW))
    first = sorted(true_ids, key=lambda class_id: (-scored[by_id[class_id].name].pixels, class_id))
    then = sorted(
        (shown | pixels.keys()) - true_ids, key=lambda class_id: (-pixels.get(class_id, 0), class_id)
    )
    names = {UNLABELLED: "no label", UNKNOWN: "other class"}
    return tuple(
        LegendEntry(
            class_id=class_id,
            name=by_id[class_id].name if class_id in by_id else names.get(class_id, str(class_id)),
            colour=hex_colour(class_id),
            seen=class_id not in by_id or by_id[class_id].role != "unseen",
            iou=scored[by_id[class_id].name].iou if class_id in true_ids else None,
            labelled=100 * labelled.get(class_id, 0) / truth_HW.size,
            true=100 * true.get(class_id, 0) / truth_HW.size,
        )
        for class_id in [*first, *then]
    )


def _pixels(ids: np.ndarray) -> dict[int, int]:
    """How many pixels each id has."""
    return dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))
