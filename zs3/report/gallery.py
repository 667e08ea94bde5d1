"""The pictures of a report: photograph, truth, prediction and errors of some images, small enough for one file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED, Protocol, Scores, confusion, scores
from zs3.report.layers import Layer, error_layers, region_layers, void_layer
from zs3.report.overlays import hex_colour, jpeg_data_uri, shrunk
from zs3.vocabulary import Vocabulary

# H W pixels

MAX_SIDE_PX, MIN_SIDE_PX = 640, 160
GALLERY_BYTES = 16_000_000
"""What all pictures together may take in a page of 20 MB."""
_BYTES_PER_PIXEL = 0.8
"""Of a photograph as JPEG with its layers, in base64: 0.2 to 0.6 on photographs, and something to spare."""
KINDS = ("worst", "best", "random")
MAX_IMAGES = int(GALLERY_BYTES / _BYTES_PER_PIXEL / MIN_SIDE_PX**2)
"""More are not drawn, however many are asked for: they would be too small to tell anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """One class of one picture: iou in percent within it, none where its truth does not hold the class."""

    class_id: int
    name: str
    colour: str
    seen: bool
    iou: float | None


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
    """Over truth, prediction and errors: what does not count."""
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
    """How long the longer side of a picture may be, in pixels, where `count` of them share the room."""
    room = GALLERY_BYTES / max(1, count) / _BYTES_PER_PIXEL
    return int(min(MAX_SIDE_PX, max(MIN_SIDE_PX, math.sqrt(room))))


def fitting(items: Sequence[GalleryItem], room: int) -> list[GalleryItem]:
    """The images that `room` characters hold, in the order given: some of each kind, the first ones of it."""
    waiting = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    taken: set[str] = set()
    while any(waiting.values()):
        for held in waiting.values():
            if not held:
                continue
            room -= held[0].size
            if room < 0:
                return [item for item in items if item.image_id in taken]
            taken.add(held.pop(0).image_id)
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
        protocol: which pixels count. Where background is a class it is no region, but to mistake it is an error.
        side_px: of the longer side of each picture, at most.
    """
    void_ids = [entry.id for entry in vocabulary.classes if not protocol.counts(entry)]
    void_HW = np.isin(truth_HW, [*void_ids, vocabulary.ignore_id])
    unpainted = [UNLABELLED]
    if protocol.background_counts:
        (background,) = (entry.id for entry in vocabulary.classes if entry.role == "background")
        prediction_HW = np.where(np.isin(prediction_HW, [UNLABELLED, UNKNOWN]), background, prediction_HW)
        unpainted = [background]
    image = confusion(truth_HW, prediction_HW, ignore_id=vocabulary.ignore_id)
    held = scores(image, vocabulary.classes, replace(protocol, absent="skip"))
    wrong = float((truth_HW != prediction_HW)[~void_HW].mean()) if not void_HW.all() else 0.0
    photo, truth, prediction, void = (
        shrunk(pixels, side_px) for pixels in (photo_HW3, truth_HW, prediction_HW, void_HW)
    )
    layers = {
        "truth": region_layers(truth, ~void & ~np.isin(truth, unpainted)),
        "prediction": region_layers(prediction, ~np.isin(prediction, unpainted)),
        "errors": error_layers(truth, prediction, ~void),
    }
    shown = {class_id for part in layers.values() for layer in part for class_id in layer.classes}
    given = prediction_HW[~void_HW]
    return GalleryItem(
        image_id=image_id,
        kind=kind,
        miou=held.all,
        width=photo.shape[1],
        height=photo.shape[0],
        photo=jpeg_data_uri(photo),
        void=void_layer(void),
        wrong=100 * wrong,
        legend=_legend(held, given, shown, vocabulary),
        **layers,
    )


def _legend(
    held: Scores, given_P: np.ndarray, shown: set[int], vocabulary: Vocabulary
) -> tuple[LegendEntry, ...]:
    """True classes by size, then what else was labelled by how many counted pixels it got.

    Args:
        held: scores of the image.
        given_P: (P,) what its counted pixels were labelled as.
        shown: ids of the classes that its layers hold.
    """
    true = {entry.name: entry for entry in held.classes if entry.pixels}
    by_id = {entry.id: entry for entry in vocabulary.classes}
    true_ids = {class_id for class_id, entry in by_id.items() if entry.name in true}
    pixels = dict(zip(*(part.tolist() for part in np.unique(given_P, return_counts=True)), strict=True))
    first = sorted(true_ids, key=lambda class_id: (-true[by_id[class_id].name].pixels, class_id))
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
            iou=true[by_id[class_id].name].iou if class_id in true_ids else None,
        )
        for class_id in [*first, *then]
    )
