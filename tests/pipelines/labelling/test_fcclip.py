"""An FC-CLIP goes through the tables: segmented once, named with any class list, with the labels of labelling."""

import numpy as np
from deltalake import DeltaTable
from PIL import Image

from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.segment import SegmentRequest, segment
from tests.data.fcclip_networks import checkpoint_of, network_of
from tests.support.parity import SMALL
from zs3.checkpoint import save_checkpoint
from zs3.inference.labeller import load_labeller
from zs3.label_rows import label_map
from zs3.vocabulary import load_vocabulary


def test_names_of_a_stored_table_are_the_labels_of_the_picture(in_process, tmp_path):
    picture, recorded = SMALL("fcclip")["rn/img4/image"], checkpoint_of("rn")
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    (tmp_path / "classes.txt").write_text("dog: puppy\nsheep*\ngrass\nsky: clouds, fog\n")
    model, kept, named = (str(tmp_path / part) for part in ("model", "kept", "named"))
    save_checkpoint(tmp_path / "model", recorded.recipe, network_of("rn"), recorded.seen_classes)
    photos, classes = str(tmp_path / "photos"), str(tmp_path / "classes.txt")
    assert segment(SegmentRequest(images=photos, checkpoint=model, out=kept, store="lossless")).images == 1
    assert name(NameRequest(segments=kept, classes=classes, out=named)).images == 1
    rows = DeltaTable(f"{named}/labels").to_pyarrow_table().to_pylist()
    labels, _ = load_labeller(model, load_vocabulary(classes)).label([picture])[0]
    assert np.array_equal(label_map(rows), labels)
    assert {row["class_name"]: row["seen"] for row in rows}.items() <= {
        "dog": True, "sheep": False, "grass": True, "sky": True,
    }.items()  # fmt: skip
