"""Run the networks over images once, then label the stored segments with two class lists.

    python examples/another_class_list.py photos/ out/

Only the first step reads images and needs the networks. The other two take milliseconds per image on a CPU.
"""

import sys
from collections import Counter
from pathlib import Path

from deltalake import DeltaTable

from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.segment import SegmentRequest, segment

CLASS_LISTS = {
    "animals": ["animal: cat, dog, bird", "person", "plant", "sky", "something else"],
    "pets": ["cat", "dog", "person", "sofa", "grass", "sky"],
}


def main(images: str, out: str) -> None:
    segment(SegmentRequest(images=images, checkpoint="zs3-mini", out=f"{out}/segments"))
    for list_name, lines in CLASS_LISTS.items():
        classes = Path(out, f"{list_name}.txt")
        classes.write_text("\n".join(lines))
        name(NameRequest(segments=f"{out}/segments", classes=str(classes), out=f"{out}/{list_name}"))

        pixels: Counter[str] = Counter()
        for row in DeltaTable(f"{out}/{list_name}/labels").to_pyarrow_table().to_pylist():
            pixels[row["class_name"]] += row["area"]
        print(f"{list_name}: {', '.join(f'{key} {count}' for key, count in pixels.most_common())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
