"""Write a small `folder` data set, label it, score the labels against the truth, and read the report.

    python examples/score_against_truth.py out/

The truth here is a rough box around the cat and one around the astronaut; use your own masks instead.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.labelling.label import LabelRequest, label

ROLES = {"cat": "unseen", "person": "seen", "car": "seen"}
CLASSES = [{"id": index, "name": name, "role": role} for index, (name, role) in enumerate(ROLES.items(), 1)]
PICTURES = {"cat": (data.chelsea(), 1), "astronaut": (data.astronaut(), 2)}


def main(out: str) -> None:
    root = Path(out, "dataset")
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for image_id, (picture, class_id) in PICTURES.items():
        height, width = picture.shape[:2]
        mask = np.full((height, width), 255, np.uint8)  # 255: ignored
        mask[height // 4 :, width // 4 : -width // 4] = class_id
        Image.fromarray(picture).save(root / "images" / f"{image_id}.png")
        Image.fromarray(mask).save(root / "masks" / f"{image_id}.png")
    (root / "classes.json").write_text(json.dumps({"name": "two pictures", "classes": CLASSES}))
    (root / "splits.json").write_text(json.dumps({"val": list(PICTURES)}))

    classes = str(root / "classes.json")
    label(LabelRequest(images=str(root / "images"), classes=classes, checkpoint="zs3-mini", out=out))
    request = EvaluateRequest(labels=out, dataset="folder", root=str(root), split="val", out=f"{out}/report")
    evaluate(request, now=datetime.now(UTC))

    report = json.loads(Path(out, "report", "report.json").read_text())
    print({group: report[group]["miou"] for group in ("seen", "unseen", "harmonic")})
    print({entry["name"]: entry["iou"] for entry in report["classes"]})


if __name__ == "__main__":
    main(*sys.argv[1:])
