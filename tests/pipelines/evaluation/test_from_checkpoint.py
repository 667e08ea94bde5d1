"""Scoring a checkpoint is labelling with it and scoring the table, without the table."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory, LabelRequest, ModelInfo, label
from zs3.images.codec import encode_label_png

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = Execution(batch_size=2, images_per_block=2, cpus_per_actor=0.5, num_actors=1)


def brightness() -> LabellerFactory:
    """A model that names pixels by brightness and fails on a picture whose corner is pure green."""

    def load(checkpoint, vocabulary, device):  # travels by value, so without names of this module
        class Brightness:
            def __init__(self):
                self.seen, self.digest = {1: True, 2: True, 3: False}, "d"

            def label(self, pictures):
                if any(tuple(picture[0, 0]) == (0, 255, 0) for picture in pictures):
                    raise RuntimeError("green makes it fail")
                found = []
                for picture in pictures:
                    label_map_HW = (1 + picture[..., 0] // 86).astype(np.int32)
                    found.append((label_map_HW, {1: 0.9, 2: 0.4, 3: float(picture.mean() / 255)}))
                return found

        return Brightness()

    def describe(checkpoint, vocabulary):
        return ModelInfo(digest="d", provenance={"weights": "d"}, seen={1: True, 2: True, 3: False})

    return LabellerFactory(load=load, describe=describe)


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of seven pictures."""
    root = tmp_path_factory.mktemp("shades")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    ids = [f"s{number}" for number in range(7)]
    for image_id in ids:
        truth = rng.choice([0, 1, 2, 3, 255], (4, 5), p=[0.1, 0.3, 0.3, 0.2, 0.1]).repeat(5, 0).repeat(6, 1)
        bright = np.clip((truth % 4) * 86 - 60 + rng.integers(-50, 50, truth.shape), 0, 255)
        Image.fromarray(np.stack([bright] * 3, 2).astype(np.uint8)).save(root / "images" / f"{image_id}.png")
        (root / "masks" / f"{image_id}.png").write_bytes(encode_label_png(truth))
    entries = [
        {"id": 0, "name": "ground", "role": "background"},
        {"id": 1, "name": "dark"},
        {"id": 2, "name": "grey"},
        {"id": 3, "name": "light", "role": "unseen"},
    ]
    (root / "classes.json").write_text(json.dumps({"name": "shades", "classes": entries}))
    (root / "splits.json").write_text(json.dumps({"val": ids}))
    return root


def scored(root: Path, out: Path, **source: Any) -> dict[str, Any]:
    request = EvaluateRequest(
        dataset="folder",
        root=str(root),
        split="val",
        out=str(out),
        protocol="all",
        replicates=50,
        gallery=3,
        **source,
    )
    return evaluate(request, SMALL, now=NOW, model=brightness())


def test_evaluating_a_model_equals_evaluating_its_label_table_and_writes_no_labels(
    ray_session: None, shades: Path, tmp_path: Path
) -> None:
    request = LabelRequest(
        images=str(shades / "images"),
        classes=str(shades / "classes.json"),
        checkpoint="c",
        out=str(tmp_path / "run"),
    )
    label(request, SMALL, model=brightness())
    first = scored(shades, tmp_path / "first", labels=str(tmp_path / "run"))
    second = scored(shades, tmp_path / "second", checkpoint="c")
    pages = [(tmp_path / name / "report.html").read_text() for name in ("first", "second")]
    assert [page.count("data:image/jpeg") for page in pages] == [3, 3]
    assert first["provenance"].pop("labels")["uri"] and second["provenance"].pop("labels")["uri"] is None
    assert first == second
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        "report.html", "report.json", "report.md", "scores",
    ]  # fmt: skip

    assert first["version"] == 2 and list(first["protocols"]) == ["zs3", "paper", "voc21"]
    assert first["protocols"]["zs3"] == {key: first[key] for key in ("seen", "unseen", "harmonic", "all")}
    assert all(first[key]["low"] <= first[key]["high"] for key in ("seen", "unseen", "harmonic", "all"))
    assert first["boundary"]["seen"]["miou"] is not None and len(first["calibration"]) == 20
    assert first["confusion"]["classes"] == ["dark", "grey", "light"]
    assert sum(line["pixels"] for line in first["calibration"]) == first["pixels"]
    assert {"low", "high", "boundary_iou"} <= first["classes"][0].keys()


def test_an_image_that_the_model_fails_on_is_missing_and_named_with_its_reason(
    ray_session: None, in_process: None, shades: Path, tmp_path: Path
) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    for name in ("masks", "splits.json", "classes.json"):
        (root / name).symlink_to(shades / name)
    (root / "images").mkdir()
    for path in (shades / "images").iterdir():
        (root / "images" / path.name).write_bytes(path.read_bytes())
    pixels = np.asarray(Image.open(root / "images" / "s3.png")).copy()
    pixels[0, 0] = (0, 255, 0)
    Image.fromarray(pixels).save(root / "images" / "s3.png")
    with pytest.raises(
        ValueError, match=r"1 of 7 images.*\(s3; 1 of them could not be labelled, 's3' because: green"
    ):
        scored(root, tmp_path / "out", checkpoint="c")
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({}, "one of the three"),
        ({"labels": "l", "checkpoint": "c"}, "one of the three"),
        ({"labels": "l", "segments": "s"}, "one of the three"),
        ({"labels": "l", "segments": "s", "checkpoint": "c"}, "one of the three"),
        ({"labels": "l", "classes": "voc"}, "--classes goes with --checkpoint"),
        ({"checkpoint": "c", "naming": {"weight": 0.5}}, r"--naming\.weight goes with --segments"),
    ],
)
def test_a_request_without_a_clear_source_is_refused(
    shades: Path, tmp_path: Path, source: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        scored(shades, tmp_path, **source)
