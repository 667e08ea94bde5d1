"""The layout that CVAT imports as "Segmentation mask 1.1", which is that of PASCAL VOC with a list of colours.

labelmap.txt                        a line per label: name:R,G,B::
ImageSets/Segmentation/default.txt  a line per image: its name without extension
SegmentationClass/<name>.png        RGB, the colours of labelmap.txt
"""

from collections.abc import Iterable

import numpy as np

from zs3.export.colours import class_colours

LABELS_FILE = "labelmap.txt"
LIST_FILE = "ImageSets/Segmentation/default.txt"
MASK_FOLDER = "SegmentationClass"
BACKGROUND = "background"
"""What CVAT calls black, whether or not the class list has a class of this name."""


def label_lines(classes: Iterable[tuple[str, int]]) -> str:
    """The content of `labelmap.txt`.

    Args:
        classes: name and id of each; one called `background` is left out, as black is that already.

    Raises:
        ValueError: a name cannot stand in the file.
    """
    lines = ["# label:color_rgb:parts:actions", f"{BACKGROUND}:0,0,0::"]
    for name, class_id in classes:
        if any(mark in name for mark in ":\n\r") or name.startswith("#"):
            raise ValueError(
                f"class {name!r} cannot be a label of CVAT's labelmap.txt, where ':' ends a name and '#' begins a "
                "comment; rename it in the class list"
            )
        if name != BACKGROUND:
            red, green, blue = class_colours(np.array(class_id)).tolist()
            lines.append(f"{name}:{red},{green},{blue}::")
    return "\n".join(lines) + "\n"
