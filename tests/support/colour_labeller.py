"""A fake model that names pixels by colour, pictures for it, and what its tables must hold."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from deltalake import DeltaTable
from PIL import Image

from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory, LabelRequest, ModelInfo
from pipelines.storage.objects import storage_options
from zs3.label_rows import label_rows

RED, BLUE, GREEN = (250, 0, 0), (0, 0, 250), (0, 250, 0)
"""Red is class 1, blue is class 2, and the fake model fails on a green corner."""


def colours(*, weights="w", kill_once=None, delay_s=0.0, hold_after=None):
    """A model that names pixels by colour; nested, so that it travels to workers by value.

    Args:
        weights: what its digest is made of.
        kill_once: a file; a process that meets a red picture and does not find it makes it and is killed.
        delay_s: seconds it takes for a picture.
        hold_after: pictures after which it takes no more and waits until it is killed.
    """

    def load(checkpoint, vocabulary, device):
        class Colours:
            def __init__(self):
                self.seen, self.digest, self.labelled = {1: True, 2: False}, weights, 0

            def label(self, pictures):
                if any(tuple(picture[0, 0]) == (0, 250, 0) for picture in pictures):
                    raise RuntimeError("green makes it fail")
                red = any((picture[..., 0] > 127).all() for picture in pictures)
                if kill_once and red and not Path(kill_once).exists():
                    Path(kill_once).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(delay_s * len(pictures))
                while hold_after is not None and self.labelled >= hold_after:
                    time.sleep(1)
                self.labelled += len(pictures)
                return [
                    (np.where(p[..., 0] > 127, 1, 2).astype(np.int32), {1: 0.5, 2: 0.25}) for p in pictures
                ]

        return Colours()

    def describe(checkpoint, vocabulary):
        return ModelInfo(digest=weights, provenance={"weights": weights}, seen={1: True, 2: False})

    return LabellerFactory(load=load, describe=describe)


SMALL = Execution(batch_size=2, images_per_block=3, images_per_file=4, commit_interval_s=0.0)


def picture(path, index=0, corner=None):
    """A red and blue picture whose border lies at `index`."""
    pixels = np.full((8, 12, 3), BLUE, np.uint8)
    pixels[:, : index % 13] = RED
    if corner:
        pixels[0, 0] = corner
    Image.fromarray(pixels).save(path)


def make_photos(parent, count):
    """A folder of pictures `i0.png`, `i1.png`, … beside a class list; the folder."""
    folder = parent / "photos"
    folder.mkdir()
    for index in range(count):
        picture(folder / f"i{index}.png", index)
    (parent / "classes.txt").write_text("red\nblue *\n")
    return folder


def request_for(photos, out="out", **changes):
    values = {"images": str(photos), "classes": str(photos.parent / "classes.txt"), "checkpoint": "colours"}
    return LabelRequest(**{**values, "out": str(photos.parent / out), **changes})


def table(request, name="labels"):
    """The rows of a table, in an order of their own."""
    uri = f"{request.out}/{name}"
    rows = DeltaTable(uri, storage_options=storage_options(uri)).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: (row["image_id"], row.get("class_id")))


def expected(photos, only=None, etags=True):
    """What `labels` must hold: the rows of every picture, made here and now, one by one."""
    rows = []
    for path in sorted(photos.glob("*.png")):
        red_HW = np.asarray(Image.open(path))[..., 0] > 127
        if only is None or path.stem in only:
            names, seen, scores = {1: "red", 2: "blue"}, {1: True, 2: False}, {1: 0.5, 2: 0.25}
            status = path.stat()
            etag = f"{status.st_size}-{status.st_mtime_ns}" if etags else ""
            label_map_HW = np.where(red_HW, 1, 2)
            rows += label_rows(path.stem, str(path), label_map_HW, names, seen, scores, "w", etag=etag)
    return sorted(rows, key=lambda row: (row["image_id"], row["class_id"]))
