"""A folder data set that is made on the fly: coloured rectangles of two seen classes, an unseen one, and background."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from zs3.images.codec import encode_label_png

COLOURS = {1: (220, 40, 40), 2: (40, 60, 220), 3: (40, 200, 60)}
CLASSES = [
    {"id": 0, "name": "background", "role": "background"},
    {"id": 1, "name": "apple", "role": "seen", "synonyms": ["fruit"]},
    {"id": 2, "name": "sky", "role": "seen"},
    {"id": 3, "name": "tree", "role": "unseen"},
]


def write_shapes(root: Path) -> Path:
    """Write the data set with its eight pictures to `root/shapes`; returns `root`."""
    folder = root / "shapes"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        image = np.full((72, 80, 3), 128, dtype=np.uint8)
        mask = np.zeros((72, 80), dtype=np.uint8)
        for class_id, colour in COLOURS.items():
            top, left = int(random.integers(0, 40)), int(random.integers(0, 50))
            image[top : top + 30, left : left + 28], mask[top : top + 30, left : left + 28] = colour, class_id
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        (folder / "masks" / f"{number}.png").write_bytes(encode_label_png(mask))
    (folder / "classes.json").write_text(json.dumps({"classes": CLASSES, "ignore_index": 255}))
    (folder / "splits.json").write_text(json.dumps({"train": [str(number) for number in range(8)]}))
    return root
